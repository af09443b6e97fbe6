// SPDX-License-Identifier: Apache-2.0
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <torch/utils.h>
#include <torch/version.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "bench/benchmarks.h"
#include "bench/race.h"
#include "polyak/kernels/lerp.h"
#include "polyak/version.h"

namespace polyak::bench {
namespace {

bool failed = false;

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

void add_case(const std::string& topic, const Case& of, Measure measure, int64_t rounds) {
  const char* dtype = of.dtype == at::kFloat  ? "float32"
                      : of.dtype == at::kHalf ? "float16"
                                              : "bfloat16";
  const std::string name = topic + "/" + of.name + "/" + dtype + "/" + std::to_string(of.threads);
  const auto run = [measure, of](benchmark::State& state) {
    torch::NoGradGuard no_grad;
    at::set_num_threads(of.threads);
    try {
      measure(state, of);
    } catch (const std::exception& error) {
      failed = true;
      state.SkipWithError(error.what());
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), run)
      ->Iterations(rounds)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

int run(int count, char** arguments) {
  const bool right = read_flags(&count, arguments);
  add_update_benchmarks();
  add_several_benchmarks();
  add_swap_benchmarks();
  add_step_benchmarks();
  add_precision_benchmarks();
  add_finite_benchmarks();
  add_soft_update_benchmarks();
  add_rules_benchmarks();
  benchmark::AddCustomContext("cpu", cpu_name());
  benchmark::AddCustomContext("polyak", POLYAK_VERSION);
  benchmark::AddCustomContext("libtorch", TORCH_VERSION);
  benchmark::AddCustomContext("instruction_set", kernels::chosen_variant().name);
  benchmark::AddCustomContext("compiler", "g++ " __VERSION__);
  benchmark::AddCustomContext("rounds", std::to_string(flags().rounds));
  benchmark::AddCustomContext("before_each_run", flags().cold ? "cold" : "warm");
  benchmark::Initialize(&count, arguments);
  if (!right || benchmark::ReportUnrecognizedArguments(count, arguments)) {
    std::fputs("polyak_bench [--rounds=21] [--tiny] [--cold] [--benchmark_filter=REGEX] ...\n",
               stderr);
    return 2;
  }
  const size_t ran = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return failed || ran == 0 ? 1 : 0;
}

}  // namespace

void add_cases(const std::string& topic, const std::vector<std::string>& names,
               const std::vector<at::ScalarType>& dtypes, Measure measure, int64_t rounds,
               const std::vector<int>& thread_counts) {
  for (const std::string& name : names) {
    for (const at::ScalarType dtype : dtypes) {
      for (const int threads : thread_counts) {
        add_case(topic, {name, dtype, threads}, measure, rounds);
      }
    }
  }
}

}  // namespace polyak::bench

int main(int count, char** arguments) {
  return polyak::bench::run(count, arguments);
}
