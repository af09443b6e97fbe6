#include <benchmark/benchmark.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "bench/benchmarks.h"
#include "bench/race.h"
#include "polyak/kernels/lerp.h"
#include "polyak/version.h"

namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

int main(int count, char** arguments) {
  using namespace polyak::bench;
  if (!read_flags(&count, arguments)) {
    std::fputs(usage().c_str(), stderr);
    return 2;
  }
  add_update_benchmarks();
  add_several_benchmarks();
  add_swap_benchmarks();
  add_step_benchmarks();
  add_precision_benchmarks();
  benchmark::AddCustomContext("cpu", cpu_name());
  benchmark::AddCustomContext("polyak", POLYAK_VERSION);
  benchmark::AddCustomContext("libtorch", POLYAK_LIBTORCH_VERSION);
  benchmark::AddCustomContext("instruction_set", polyak::kernels::chosen_path().name);
  benchmark::AddCustomContext("compiler", "g++ " __VERSION__);
  benchmark::AddCustomContext("rounds", std::to_string(flags().rounds));
  benchmark::AddCustomContext("before_each_run", flags().cold ? "cold" : "warm");
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) {
    std::fputs(usage().c_str(), stderr);
    return 2;
  }
  if (benchmark::RunSpecifiedBenchmarks() == 0) return 1;
  benchmark::Shutdown();
  return any_failed() ? 1 : 0;
}
