// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/runtime_info_hook.h"

#include "polyak/runtime/runner.h"

namespace polyak {

void RuntimeInfoHook::before_train_iter(Runner& runner, int64_t /*batch*/) {
  if (const auto rate = runner.learning_rate()) runner.log("lr", *rate);
}

void RuntimeInfoHook::after_train_iter(Runner& runner, int64_t /*batch*/, const Scalars& outputs) {
  for (const auto& [name, value] : outputs) runner.log(name, value);
}

}  // namespace polyak
