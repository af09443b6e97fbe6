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

/// A model that can be recognised later without being kept alive. An address alone does not tell:
/// a new model may lie where one that is gone lay. A module that a shared_ptr owns is known by its
/// owner, any other model by its tensors, of which half may have been replaced.
class POLYAK_API KnownModel {
 public:
  explicit KnownModel(const ModelRef& model);
  /// Whether the handle, which must be to a living model, is to this one.
  bool is(const ModelRef& model) const;

 private:
  using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

  const void* address_;
  std::weak_ptr<const void> owner_;
  bool owned_;
  std::vector<WeakTensor> tensors_;
};

}  // namespace polyak
