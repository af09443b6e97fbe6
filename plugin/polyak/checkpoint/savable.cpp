// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/savable.h"

#include <fmt/format.h>

#include <sstream>

#include "polyak/checkpoint/pickle_format.h"

namespace polyak {

std::string why_not_savable(const at::Tensor& tensor) {
  if (!tensor.defined()) return "it is undefined";
  if (tensor.is_quantized()) return "it is quantized; save tensor.dequantize()";
  if (tensor.is_sparse() || tensor.layout() != at::kStrided) {
    std::ostringstream layout;
    layout << tensor.layout();
    return fmt::format("its layout is {}; save tensor.to_dense()", layout.str());
  }
  if (tensor.is_meta()) return "it is on the meta device and has no values";
  if (tensor.is_nested() || !tensor.has_storage()) return "it has no storage";
  const auto needed =
      pickle::elements_needed(tensor.storage_offset(), tensor.sizes(), tensor.strides());
  const size_t held = tensor.storage().nbytes() / tensor.element_size();
  if (!needed || static_cast<size_t>(*needed) > held) {
    return "its storage is smaller than the tensor; was it freed?";
  }
  return "";
}

}  // namespace polyak
