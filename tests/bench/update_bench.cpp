// One update of one average, in every way there is.
#include <ATen/ATen.h>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

constexpr int kLimitRounds = 5;  // of one against the ways of ATen, which take far longer

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

  const Way ours{"ours", [&] { ema->update_parameters(model); }, averages, sources};
  const std::vector<Way> aten = aten_ways(others, sources);
  std::vector<Way> limits{plain_loop_way(flat_average, flat),
                          kernel_way("limit:kernel", {flat_average}, {flat})};
  const bool many_small = of.name == "10000x100" || of.name == "200x64";
  if (many_small) limits.push_back(kernel_way("kernel_only", averages, sources));

  // Two races: the limit is so near that what disturbs the machine must find both side by side.
  const int64_t calls = flags().tiny ? 1 : of.name == "200x64" ? 100 : many_small ? 5 : 1;
  Race against_aten(calls), against_limit(calls);
  const auto enter = [](Race& race, const Way& way) {
    check(way);
    race.add(way.name, way.run);
  };
  for (Race* race : {&against_aten, &against_limit}) enter(*race, ours);
  for (const Way& way : aten) enter(against_aten, way);
  for (const Way& way : limits) enter(against_limit, way);
  for (Race* race : {&against_aten, &against_limit}) race->warm_up();
  for (auto _ : state) {
    against_aten.round();
    for (int i = 0; i < kLimitRounds; ++i) against_limit.round();
    state.SetIterationTime(against_limit.last_us() * 1e-6);
  }
  against_aten.report(state);
  against_limit.report(state);
  const std::string best = against_aten.fastest("aten:"), limit = against_limit.fastest("limit:");
  state.SetLabel(best + " " + limit);
  state.counters["best_aten/ours"] = against_aten.ratio(best, "ours");
  state.counters["limit/ours"] = against_limit.ratio(limit, "ours");
  state.counters["bytes"] = double(size) * (8 + double(flat.element_size()));
  // What checks of storage, counting and the rest cost beside the kernel.
  if (many_small)
    state.counters["beside_kernel_us"] = against_limit.difference_us("ours", "kernel_only");
}

}  // namespace

void add_update_benchmarks() {
  add_cases("update", shape_names(), {at::kFloat, at::kBFloat16, at::kHalf}, update,
            flags().rounds);
}

}  // namespace polyak::bench
