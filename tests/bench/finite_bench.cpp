// SPDX-License-Identifier: Apache-2.0
// What it costs to know that all numbers are finite: before each update, and now and then.
#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"
#include "polyak/averaging/averages.h"

namespace polyak::bench {
namespace {

void finite(benchmark::State& state, const Case& of) {
  const auto model = make_model(of.name, of.dtype);
  const auto plain = make_average(model);
  ExponentialMovingAverage careful(
      model, ExponentialMovingAverageOptions().momentum(kWeight).skip_nonfinite(true));
  careful.update_parameters(model);
  const std::vector<at::Tensor> sources = model->values();
  Race race(of.name == "200x64" && !flags().tiny ? 100 : 1);
  for (const Way& way :
       {Way{"ours", [&] { plain->update_parameters(model); }, averages_of(*plain), sources},
        Way{"skip_nonfinite", [&] { careful.update_parameters(model); }, averages_of(careful),
            sources}}) {
    check(way);
    race.add(way.name, way.run);
  }
  race.add("find_nonfinite", [&] {
    if (!plain->find_nonfinite().empty()) throw std::runtime_error("the average is not finite");
  });
  race.run(state);
}

}  // namespace

void add_finite_benchmarks() {
  add_cases("finite", {"resnet50", "vit_b_16", "200x64"}, {at::kFloat, at::kBFloat16}, finite,
            flags().rounds);
}

}  // namespace polyak::bench
