// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/check_invalid_loss_hook.h"

#include <ATen/Functions.h>
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <utility>

#include "polyak/runtime/runner.h"

namespace polyak {

void CheckInvalidLossHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("interval", &interval_, "Iterations from one check to the next.", steps_from(1));
}

CheckInvalidLossHook::CheckInvalidLossHook(const CheckInvalidLossHookOptions& options)
    : options_(options) {
  check_options(options_, "CheckInvalidLossHook");
}

void CheckInvalidLossHook::before_train(Runner& runner) {
  problem_.clear();
  steps_seen_ = runner.progress().optimizer_steps;
}

void CheckInvalidLossHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                            const Scalars& outputs) {
  const int64_t iteration = runner.progress().iter + 1;
  const int64_t steps = runner.progress().optimizer_steps;
  const bool stepped = steps < 0 || steps != std::exchange(steps_seen_, steps);
  const std::shared_ptr<ProcessGroup> processes = runner.process_group();
  const bool alone = size_of(processes.get()) == 1;
  if (iteration % options_.interval() == 0) look_at(iteration, outputs);
  // Several processes must end together, so they tell each other after an optimizer step.
  if (!alone && !stepped) return;
  if (!alone) {
    const at::Tensor bad = at::full({1}, problem_.empty() ? 0 : 1, at::kLong);
    const std::vector<at::Tensor> all = processes->all_gather(bad, "comparing losses");
    for (size_t rank = 0; problem_.empty() && rank < all.size(); ++rank) {
      if (all[rank].item<int64_t>() == 0) continue;
      problem_ = fmt::format(
          "CheckInvalidLossHook: rank {} has a loss that is not finite, up to iteration {}", rank,
          iteration);
    }
  }
  if (!problem_.empty()) throw Error(problem_);
}

/// Remembers the first loss that is not finite.
void CheckInvalidLossHook::look_at(int64_t iteration, const Scalars& outputs) {
  if (!problem_.empty()) return;
  for (const auto& [name, value] : outputs) {
    if (std::isfinite(value) || name.find("loss") == std::string::npos) continue;
    problem_ = fmt::format(
        "CheckInvalidLossHook: iteration {}: {} is {}; lower the learning rate, clip the "
        "gradients, or look at this batch; the last checkpoint has weights from before",
        iteration, name, value);
    return;
  }
}

}  // namespace polyak
