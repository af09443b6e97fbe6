// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_core.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <utility>
#include <vector>

#include "polyak/core/error.h"

namespace polyak {

AverageCore::AverageCore(torch::nn::Module& self, const Options& options, Factory factory)
    : options(options),
      counter(self.register_buffer("steps", at::zeros({}, at::kLong))),
      tensors({options.update_buffers, options.precision, options.device}),
      engine(options.update_buffers, options.skip_nonfinite),
      self_(self),
      factory_(std::move(factory)) {}

AverageCore& AverageCore::ready() {
  engine.wait();
  if (counter.was_loaded()) sync_from_module();
  follow_model();
  return *this;
}

AverageCore& AverageCore::ready_for(const char* what) {
  ready();
  if (is_swapped()) fail<Error>("{}: release the guard of swap() first", what);
  return *this;
}

void AverageCore::sync_from_module() {
  const torch::NoGradGuard no_grad;
  tensors.sync_from_module();
  counter.adopt();
}

void AverageCore::follow_model() {
  // During a swap, the model's tensors, or our own, do not hold their own values.
  if (is_swapped() || !counter.is_in_place()) return;
  const torch::NoGradGuard no_grad;
  tensors.follow_model();
  engine.drop_stale_plan(tensors);
}

void AverageCore::bind(const ModelRef& model) {
  const torch::NoGradGuard no_grad;
  const std::vector<NamedTensor> found = model.tensors();
  for (const NamedTensor& item : found) {
    if (item.tensor.layout() != at::kStrided || item.tensor.is_meta()) {
      fail<Error>("{}: is a {} tensor, which cannot be averaged; make it dense before averaging",
                  item.name, item.tensor.is_meta() ? "meta" : "sparse");
    }
  }
  if (!tensors.empty() && tensors.rebind(found, model.class_name())) {
    binding.bind(model);
    follow_model();
  } else {
    ModelCopy made = copy_model(model, found, factory_, options.device);
    tensors.rebuild(found, model.class_name(), made.module);
    copy.module ? self_.replace_module("module", made.module)
                : self_.register_module("module", made.module);
    copy = std::move(made);
    binding.bind(model);
  }
  engine.drop_stale_plan(tensors);
}

void AverageCore::prepare(const ModelRef& model) {
  engine.wait();
  if (counter.differs()) sync_from_module();
  counter.adopt_place();
  if (is_swapped()) {
    fail<Error>(
        "update_parameters: the averaged weights are in the model; release the guard of "
        "swap() first");
  }
  if (!binding.is_current(model)) bind(model);
  if (engine.fits(tensors)) return;
  tensors.check_fit();
  follow_model();
  tensors.settle_precision();
  engine.make_plan(tensors);
}

void AverageCore::refresh_module() {
  if (!counter.is_in_place()) return;  // an average of the enclosing model is swapped in
  const torch::NoGradGuard no_grad;
  tensors.refresh_module();
}

void AverageCore::move(const Move& moved) {
  const torch::NoGradGuard no_grad;
  tensors.move(moved);
  engine.drop_stale_plan(tensors);
}

std::shared_ptr<SwapState> AverageCore::swap_into_model(SwapMode mode) {
  auto state = std::make_shared<SwapState>(mode);
  tensors.put_into_model(*state);
  swap = state;
  return state;
}

std::string AverageCore::count_skipped() {
  ++skipped;
  // 1, 2, 4, 8, ...: a run that diverged logs it a few times only.
  if ((skipped & (skipped - 1)) != 0) return {};
  const std::string* bad = tensors.find_nonfinite();
  return fmt::format(
      "{} holds a NaN or an infinity; the average is unchanged ({} update(s) skipped so "
      "far, {} made)",
      bad ? *bad : "the model", skipped, counter.value());
}

}  // namespace polyak
