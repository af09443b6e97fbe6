// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/check_invalid_loss_hook.h"

#include <cmath>
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

void CheckInvalidLossHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                            const Scalars& outputs) {
  const int64_t iteration = runner.progress().iter + 1;
  const int64_t steps = runner.progress().optimizer_steps;
  const bool stepped = steps != std::exchange(steps_seen_, steps);
  // The processes know each other's losses after an optimizer step, and must end together.
  if (size_of(runner.process_group().get()) > 1 && !stepped) return;
  if (iteration % options_.interval() != 0) return;
  for (const auto& [name, value] : outputs) {
    if (std::isfinite(value) || name.find("loss") == std::string::npos) continue;
    fail<Error>(
        "CheckInvalidLossHook: iteration {}: {} is {}; lower the learning rate, clip the "
        "gradients, or look at this batch; the last checkpoint has weights from before",
        iteration, name, value);
  }
}

}  // namespace polyak
