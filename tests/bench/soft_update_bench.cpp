// SPDX-License-Identifier: Apache-2.0
// One soft update of a target network, ours and as it is written by hand.
#include <ATen/ATen.h>
#include <torch/version.h>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"
#include "polyak/averaging/soft_update.h"

namespace polyak::bench {
namespace {

void soft(benchmark::State& state, const Case& of) {
  const auto online = make_model(of.name, of.dtype), target = make_model(of.name, of.dtype);
  const std::vector<at::Tensor> averages = target->values(), sources = online->values();
  SoftUpdate follow(target, online);
  std::vector<Way> ways{
      {"ours", [&] { follow(kWeight); }, averages, sources},
      {"function", [&] { soft_update(target, online, kWeight); }, averages, sources},
      // By hand: the lists are made at each update, as nearly everybody writes it, or kept.
      {"lerp",
       [&] {
         const std::vector<at::Tensor> to = target->parameters(), from = online->parameters();
         for (size_t i = 0; i < to.size(); ++i) to[i].lerp_(from[i], kWeight);
       },
       averages, sources},
      {"mul_add",
       [&] {
         const std::vector<at::Tensor> to = target->parameters(), from = online->parameters();
         for (size_t i = 0; i < to.size(); ++i) {
           to[i].mul_(1 - kWeight).add_(from[i], kWeight);
         }
       },
       averages, sources},
      {"kept_lerp",
       [&] {
         for (size_t i = 0; i < averages.size(); ++i) averages[i].lerp_(sources[i], kWeight);
       },
       averages, sources}};
#if TORCH_VERSION_MAJOR >= 2
  ways.push_back(
      {"foreach_lerp", [&] { at::_foreach_lerp_(averages, sources, kWeight); }, averages, sources});
#endif
  Race race(flags().tiny ? 1 : of.name == "resnet50" ? 1 : 100);
  for (const Way& way : ways) {
    check(way);
    race.add(way.name, way.run);
  }
  race.run(state);
}

}  // namespace

void add_soft_update_benchmarks() {
  add_cases("soft_update", {"sac_256", "200x64", "resnet50"}, {at::kFloat}, soft, flags().rounds);
}

}  // namespace polyak::bench
