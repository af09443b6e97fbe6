// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model_identity.h"

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>

namespace polyak {

ModelIdentity::ModelIdentity(const ModelRef& model) : address_(model.identity()) {
  if (model.script()) {
    using Kept = c10::weak_intrusive_ptr<c10::ivalue::Object>;
    kept_memory_ = std::make_shared<const Kept>(model.script()->_ivalue());
    return;
  }
  if (model.is_list()) {
    owner_ = model.list_;
  } else {
    owner_ = model.nn_module()->weak_from_this();
  }
  // If the owner of a module is gone, only its address is known.
  has_owner_ = !owner_.expired();
}

}  // namespace polyak
