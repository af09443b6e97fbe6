// SPDX-License-Identifier: Apache-2.0
// The averaged weights go into the model and the raw ones come back, as for an evaluation.
#include <ATen/ATen.h>

#include <stdexcept>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i].equal(b[i].to(a[i].scalar_type()))) return false;
  }
  return true;
}

/// MMEngine's EMAHook: a clone and two copies for each tensor.
void exchange_by_copies(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    const at::Tensor aside = b[i].clone();
    b[i].copy_(a[i]);
    a[i].copy_(aside);
  }
}

void swap(benchmark::State& state, const Case& of) {
  const auto model = make_model(of.name, of.dtype);
  const auto ema = make_average(model);
  const std::vector<at::Tensor> live = model->parameters();
  const std::vector<at::Tensor> averages = averages_of(*ema);
  for (const at::Tensor& average : averages) average.mul_(0.5);
  // MMEngine has averages in the model's dtype.
  std::vector<at::Tensor> raw, same_dtype;
  for (const at::Tensor& tensor : live) raw.push_back(tensor.clone());
  for (const at::Tensor& tensor : averages) same_dtype.push_back(tensor.to(of.dtype).clone());

  using Way = std::function<void(const std::function<void()>& evaluate)>;
  const std::vector<std::pair<std::string, Way>> ways{
      {"ours",
       [&](const auto& evaluate) {
         const SwapGuard guard = ema->swap(model);
         evaluate();
       }},
      {"ours_by_copy",
       [&](const auto& evaluate) {
         const SwapGuard guard = ema->swap(model, SwapMode::copy);
         evaluate();
       }},
      {"clone_and_two_copies", [&](const auto& evaluate) {
         exchange_by_copies(live, same_dtype);
         evaluate();
         exchange_by_copies(live, same_dtype);
       }}};
  Race race;
  for (const auto& [name, way] : ways) {
    bool right = false;
    way([&] { right = equal(live, averages); });
    if (!right || !equal(live, raw)) throw std::runtime_error(name + " swaps something else");
    race.add(name, [&way = way] { way([] {}); });
  }
  race.run(state);
}

}  // namespace

void add_swap_benchmarks() {
  add_cases("swap", {"resnet50", "vit_b_16"}, {at::kFloat, at::kBFloat16}, swap, flags().rounds);
}

}  // namespace polyak::bench
