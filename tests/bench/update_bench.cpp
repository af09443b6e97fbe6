// SPDX-License-Identifier: Apache-2.0
// One update of one average, in every way there is.
#include <ATen/ATen.h>

#include <memory>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

constexpr int64_t kLimitRounds = 5;  // for one against the ways of ATen, which take far longer
// In other memory an update takes some percent more or less, so after these all lie anew. Not many
// small tensors: they would come to lie in the holes that the last ones left in the heap.
constexpr int64_t kRoundsInPlace = 3;

bool many_small(const Case& of) {
  return of.name == "10000x100" || of.name == "200x64";
}

/// All ways over one model, each with memory of its own.
struct Ways {
  explicit Ways(const Case& of)
      : model(make_model(of.name, of.dtype)),
        ema(make_average(model)),
        flat(at::randn({model->numel()}).to(of.dtype)),
        flat_ema(make_average(std::make_shared<Parameters>(std::vector<at::Tensor>{flat}))) {
    const std::vector<at::Tensor> averages = averages_of(*ema), sources = model->values();
    // The limit's average lies in memory of the same kind as ours, ATen's in LibTorch's.
    const at::Tensor flat_average = averages_of(*flat_ema).front();
    std::vector<at::Tensor> others;
    others.reserve(averages.size());
    for (const at::Tensor& average : averages) others.push_back(at::empty_like(average));
    ours = {"ours", [this] { ema->update_parameters(model); }, averages, sources};
    aten = aten_ways(others, sources);
    limits = {plain_loop_way(flat_average, flat),
              kernel_way("limit:kernel", {flat_average}, {flat})};
    if (many_small(of)) limits.push_back(kernel_way("kernel_only", averages, sources));
  }

  std::shared_ptr<Parameters> model;
  std::unique_ptr<AveragedModel> ema;
  at::Tensor flat;
  std::unique_ptr<AveragedModel> flat_ema;
  Way ours;
  std::vector<Way> aten, limits;
};

void update(benchmark::State& state, const Case& of) {
  const int64_t calls = flags().tiny ? 1 : of.name == "200x64" ? 100 : many_small(of) ? 5 : 1;
  // Two races: the limit is so near that what disturbs the machine must find both side by side.
  Race against_aten(calls), against_limit(calls);
  std::unique_ptr<Ways> ways;
  const auto enter = [&](Race& race, const std::vector<Way>& others) {
    race.add(ways->ours.name, ways->ours.run);
    for (const Way& way : others) {
      check(way);
      race.add(way.name, way.run);
    }
    race.warm_up();
  };
  int64_t round = 0;
  for (auto _ : state) {
    if (!ways || (round % kRoundsInPlace == 0 && !many_small(of))) {
      ways.reset();  // before there are others
      ways = std::make_unique<Ways>(of);
      check(ways->ours);
      enter(against_aten, ways->aten);
      enter(against_limit, ways->limits);
    }
    ++round;
    against_aten.round();
    for (int64_t i = 0; i < kLimitRounds; ++i) against_limit.round();
    state.SetIterationTime(against_limit.last_us() * 1e-6);
  }
  against_aten.report(state);
  against_limit.report(state);
  const std::string best = against_aten.fastest("aten:"), limit = against_limit.fastest("limit:");
  state.SetLabel(best + " " + limit);
  state.counters["best_aten/ours"] = against_aten.ratio(best, "ours");
  state.counters["limit/ours"] = against_limit.ratio(limit, "ours");
  state.counters["bytes"] = double(ways->model->numel()) * (8 + double(ways->flat.element_size()));
  // What checks of storage, counting and the rest cost beside the kernel.
  if (many_small(of))
    state.counters["beside_kernel_us"] = against_limit.difference_us("ours", "kernel_only");
}

}  // namespace

void add_update_benchmarks() {
  add_cases("update", shape_names(), {at::kFloat, at::kBFloat16, at::kHalf}, update,
            flags().rounds);
}

}  // namespace polyak::bench
