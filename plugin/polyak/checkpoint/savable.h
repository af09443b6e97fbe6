// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace polyak {

/// Why a file cannot hold the values of a tensor, as the end of a sentence that names the tensor:
/// "it is quantized; save tensor.dequantize()". "" if it can; whether the file's format has the
/// dtype is another question.
std::string why_not_savable(const at::Tensor& tensor);

}  // namespace polyak
