// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/attached_runner.h"

#include <ATen/ATen.h>

#include "polyak/version.h"

namespace polyak {

AttachedRunner::AttachedRunner(const AttachConfig& config, const Catalog& catalog,
                               std::vector<NamedTensor> tensors, int64_t steps)
    : model_(std::move(tensors)) {
  RunLength length;
  length.by_epoch = false;
  length.max_iters = config.max_iters.value_or(0);
  loop_.set_length(length, steps);
  for (const Node& hook : config.custom_hooks.items()) {
    hooks_.add(hook, catalog.of<Hook>(), {&catalog});
  }
  hooks_.check_run(*this);
  loop_.before_run();
  loop_.before_train();
}

void AttachedRunner::set_tensors(std::vector<NamedTensor> tensors) {
  model_ = ModelRef(std::move(tensors));
  // Immediately: the next list may have the address of one that an average knows.
  for (const NamedAverage& item : averages()) item.average->rebind(model_);
}

void AttachedRunner::step() {
  static const Scalars& kNoLosses = *new Scalars;  // never destroyed: threads may outlive main
  loop_.after_step();
  loop_.after_iter(kNoLosses);
}

Value AttachedRunner::checkpoint() {
  averages().warn_of_nonfinite(progress().iter);  // the loss is the program's own
  Value meta = Value::dict();
  meta.set("iter", progress().iter);
  meta.set("polyak_version", POLYAK_VERSION);
  Value state_dict = Value::dict({}, /*ordered=*/true);
  for (const NamedTensor& item : model_.tensors()) state_dict.set(item.name, item.tensor.detach());
  Value checkpoint = Value::dict();
  checkpoint.set("meta", std::move(meta));
  checkpoint.set("state_dict", std::move(state_dict));
  hooks_.call([&](Hook& hook) { hook.before_save_checkpoint(*this, checkpoint); });
  return checkpoint;
}

void check_attached_hooks(const AttachConfig& config, const Catalog& catalog) {
  const AttachedRunner runner(config, catalog, {{"number", at::zeros({1}), false}});
}

}  // namespace polyak
