// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

namespace polyak::bench {

/// What a benchmark is of.
struct Case {
  std::string name;  // of the shapes
  at::ScalarType dtype;
  int threads;
};
/// Throws where ways that should agree do not, before it times them.
using Measure = void (*)(benchmark::State& state, const Case& of);

/// Registers "<topic>/<name>/<dtype>/<threads>" for all combinations; iterations are rounds of a
/// race. `measure` runs without gradients, on as many threads.
void add_cases(const std::string& topic, const std::vector<std::string>& names,
               const std::vector<at::ScalarType>& dtypes, Measure measure, int64_t rounds,
               const std::vector<int>& threads = {1, 2});

// One for each topic, in a file of its own.
void add_update_benchmarks();
void add_several_benchmarks();
void add_swap_benchmarks();
void add_step_benchmarks();
void add_precision_benchmarks();
void add_finite_benchmarks();
void add_soft_update_benchmarks();
void add_rules_benchmarks();

}  // namespace polyak::bench
