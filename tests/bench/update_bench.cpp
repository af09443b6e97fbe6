// One update of one average, in every way there is.
#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/cases.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

void update(benchmark::State& state, const Case& of) {
  const Subject subject(of.shapes(), of.dtype);
  auto ways = subject.ways();
  const bool many_small = of.name == "10000x100" || of.name == "200x64";
  if (many_small) {
    // Without checks of storage, names and counting: what those cost is the difference.
    ways.push_back({"kernel_only", kernel_only(subject.averages, subject.sources)});
  }
  if (const std::string wrong = subject.check(ways); !wrong.empty()) return fail(state, wrong);

  Race race;
  for (const auto& way : ways) race.add(way.name, way.run);
  race.run(state, of.name == "200x64" ? 100 : many_small ? 5 : 1);
  race.report(state);
  if (many_small) {
    state.counters["beside_kernel_us"] = race.difference("ours", "kernel_only") * 1e6;
  }
  const std::string aten = race.fastest("aten"), limit = race.fastest("limit");
  state.counters["best_aten/ours"] = race.ratio(aten, "ours");
  state.counters["limit/ours"] = race.ratio(limit, "ours");
  state.counters["bytes"] = double(subject.bytes());
  state.SetLabel(aten + " " + limit);
}

}  // namespace

void add_update_benchmarks() {
  add_cases("update", shape_names(), {at::kFloat, at::kBFloat16, at::kHalf}, update,
            flags().rounds);
}

}  // namespace polyak::bench
