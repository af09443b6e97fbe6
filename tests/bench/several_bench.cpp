// SPDX-License-Identifier: Apache-2.0
// Three averages over one model: in one pass, and in three.
#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

void several(benchmark::State& state, const Case& of) {
  const auto model = make_model(of.name, of.dtype);
  std::vector<std::unique_ptr<AveragedModel>> owned;
  std::vector<AveragedModel*> emas;
  std::vector<at::Tensor> averages, sources;
  for (int i = 0; i < 3; ++i) {
    owned.push_back(make_average(model));
    emas.push_back(owned.back().get());
    for (const at::Tensor& average : averages_of(*emas.back())) averages.push_back(average);
    for (const at::Tensor& source : model->values()) sources.push_back(source);
  }
  const auto together = [&] { update_together(emas, model); };
  const auto one_by_one = [&] {
    for (AveragedModel* ema : emas) ema->update_parameters(model);
  };
  Race race;
  for (const Way& way : {Way{"ours", together, averages, sources},
                         Way{"one_by_one", one_by_one, averages, sources}}) {
    check(way);
    race.add(way.name, way.run);
  }
  race.run(state);
}

}  // namespace

void add_several_benchmarks() {
  add_cases("several", {"resnet50", "vit_b_16"}, {at::kFloat, at::kBFloat16}, several,
            flags().rounds);
}

}  // namespace polyak::bench
