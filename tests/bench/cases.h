#pragma once

#include <ATen/core/Tensor.h>
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "bench/shapes.h"

namespace polyak::bench {

/// What a benchmark is of.
struct Case {
  std::string name;  // of the shapes
  at::ScalarType dtype;
  int threads;

  Shapes shapes() const;
};

using Measure = void (*)(benchmark::State& state, const Case& of);

/// Registers "<topic>/<name>/<dtype>/<threads>" for all combinations; iterations are rounds of a
/// race. `measure` runs without gradients, on as many threads.
void add_cases(const std::string& topic, const std::vector<std::string>& names,
               const std::vector<at::ScalarType>& dtypes, Measure measure, int64_t rounds,
               const std::vector<int>& threads = {1, 2});

}  // namespace polyak::bench
