// One update of one average, in every way there is.
#include <ATen/ATen.h>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

void update(benchmark::State& state, const Case& of) {
  const auto model = make_model(of.name, of.dtype);
  const auto ema = make_average(model);
  const std::vector<at::Tensor> averages = averages_of(*ema), sources = model->values();
  const int64_t size = model->numel();
  // The limit's average lies in memory of the same kind as ours, ATen's in LibTorch's.
  const at::Tensor flat = at::randn({size}).to(of.dtype);
  const auto flat_ema = make_average(std::make_shared<Parameters>(std::vector<at::Tensor>{flat}));
  const at::Tensor flat_average = averages_of(*flat_ema).front();
  std::vector<at::Tensor> others;
  others.reserve(averages.size());
  for (const at::Tensor& average : averages) others.push_back(at::empty_like(average));

  std::vector<Way> ways = aten_ways(others, sources);
  ways.insert(ways.begin(), {"ours", [&] { ema->update_parameters(model); }, averages, sources});
  ways.push_back(plain_loop_way(flat_average, flat));
  ways.push_back(kernel_way("limit:kernel", {flat_average}, {flat}));
  const bool many_small = of.name == "10000x100" || of.name == "200x64";
  if (many_small) ways.push_back(kernel_way("kernel_only", averages, sources));

  Race race;
  for (const Way& way : ways) {
    check(way);
    race.add(way.name, way.run);
  }
  race.run(state, flags().tiny ? 1 : of.name == "200x64" ? 100 : many_small ? 5 : 1);
  const std::string aten = race.fastest("aten:"), limit = race.fastest("limit:");
  state.SetLabel(aten + " " + limit);
  state.counters["best_aten/ours"] = race.ratio(aten, "ours");
  state.counters["limit/ours"] = race.ratio(limit, "ours");
  state.counters["bytes"] = double(size) * (8 + double(flat.element_size()));
  // What checks of storage, counting and the rest cost beside the kernel.
  if (many_small) state.counters["beside_kernel_us"] = race.difference_us("ours", "kernel_only");
}

}  // namespace

void add_update_benchmarks() {
  add_cases("update", shape_names(), {at::kFloat, at::kBFloat16, at::kHalf}, update,
            flags().rounds);
}

}  // namespace polyak::bench
