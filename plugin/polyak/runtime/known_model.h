// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/TensorImpl.h>
#include <c10/core/UndefinedTensorImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <memory>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/core/export.h"

namespace polyak {

/// Recognises a model later without keeping it alive. An address alone is not enough: a new model
/// may be built at the address of a destroyed one. A module that a shared_ptr owns is recognised by
/// its owner, any other model by its tensors, of which half may have been replaced.
class POLYAK_API KnownModel {
 public:
  explicit KnownModel(const ModelRef& model);
  /// Whether the handle refers to this model. The handle's model must be alive.
  bool is(const ModelRef& model) const;

 private:
  using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

  const void* address_;
  std::weak_ptr<const void> owner_;
  bool owned_;
  std::vector<WeakTensor> tensors_;
};

}  // namespace polyak
