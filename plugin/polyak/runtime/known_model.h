// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/TensorImpl.h>
#include <c10/core/UndefinedTensorImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/averaging/model_identity.h"
#include "polyak/core/export.h"

namespace polyak {

/// Recognises a model later without keeping it alive: by its ModelIdentity or, if that is only an
/// address (as for a local variable), by its tensors, half of which may have been replaced.
class POLYAK_API KnownModel {
 public:
  explicit KnownModel(const ModelRef& model);
  /// Whether the handle refers to this model. The handle's model must be alive.
  bool is(const ModelRef& model) const;

 private:
  using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

  ModelIdentity identity_;
  std::vector<WeakTensor> tensors_;  // where the identity is not certain
};

}  // namespace polyak
