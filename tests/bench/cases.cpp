#include "bench/cases.h"

#include <ATen/Parallel.h>
#include <torch/utils.h>

#include "bench/race.h"

namespace polyak::bench {

Shapes Case::shapes() const {
  return shapes_of(name, flags().tiny ? 64 : 1);
}

void add_cases(const std::string& topic, const std::vector<std::string>& names,
               const std::vector<at::ScalarType>& dtypes, Measure measure, int64_t rounds,
               const std::vector<int>& thread_counts) {
  for (const std::string& name : names) {
    for (const at::ScalarType dtype : dtypes) {
      const char* dtype_name = dtype == at::kFloat  ? "float32"
                               : dtype == at::kHalf ? "float16"
                                                    : "bfloat16";
      for (const int threads : thread_counts) {
        const std::string full =
            topic + "/" + name + "/" + dtype_name + "/" + std::to_string(threads);
        const Case of{name, dtype, threads};
        benchmark::RegisterBenchmark(full.c_str(),
                                     [measure, of](benchmark::State& state) {
                                       torch::NoGradGuard no_grad;
                                       at::set_num_threads(of.threads);
                                       measure(state, of);
                                     })
            ->Iterations(rounds)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

}  // namespace polyak::bench
