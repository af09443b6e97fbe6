// One update of one average, in every way there is.
#include <ATen/Parallel.h>
#include <torch/utils.h>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

void update(benchmark::State& state, const std::string& name, at::ScalarType dtype, int threads) {
  torch::NoGradGuard no_grad;
  at::set_num_threads(threads);
  const Subject subject(shapes_of(name, flags().tiny ? 64 : 1), dtype);
  auto ways = subject.ways();
  const bool small = name == "10000x100" || name == "200x64";
  if (small) {
    // The update without names, checks and counting: what those cost is the difference.
    std::vector<kernels::Span> spans;
    for (size_t i = 0; i < subject.sources.size(); ++i) {
      spans.push_back(span_of(subject.averages[i], subject.sources[i]));
    }
    ways.push_back({"kernel_only", kernel_only(spans), false});
  }
  if (const std::string wrong = subject.check(ways); !wrong.empty()) return fail(state, wrong);

  Race race;
  for (const auto& way : ways) race.add(way.name, way.run);
  race.run(state, name == "200x64" ? 100 : small ? 5 : 1);
  race.report(state);
  if (small) state.counters["beside_kernel_us"] = race.difference("ours", "kernel_only") * 1e6;
  const std::string aten = race.fastest("aten"), limit = race.fastest("limit");
  state.counters["best_aten/ours"] = race.ratio(aten, "ours");
  state.counters["limit/ours"] = race.ratio(limit, "ours");
  state.counters["bytes"] = double(subject.bytes());
  state.SetLabel(aten + " " + limit);
}

}  // namespace

void add_update_benchmarks() {
  for (const std::string& name : shape_names()) {
    for (const auto& [dtype, dtype_name] : dtypes()) {
      for (int threads : {1, 2}) {
        add_benchmark("update/" + name + "/" + dtype_name + "/" + std::to_string(threads),
                      [name = name, dtype = dtype, threads](benchmark::State& state) {
                        update(state, name, dtype, threads);
                      });
      }
    }
  }
}

}  // namespace polyak::bench
