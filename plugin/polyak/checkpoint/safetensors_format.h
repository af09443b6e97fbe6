// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// What the .safetensors writer and reader share. The format: the length of the header as 8 bytes;
// the header, a JSON object of tensors by name; their data, one after the other.

namespace polyak::safetensors {

/// The longest header that readers accept, in bytes.
constexpr uint64_t kLongestHeader = 100'000'000;
/// The bytes before the header.
constexpr uint64_t kLengthSize = 8;
/// The header's key that is no tensor.
constexpr std::string_view kMetadataKey = "__metadata__";
/// The name in the metadata that says which library's tensors these are, never a tied tensor.
constexpr std::string_view kFormatKey = "format";

/// A dtype of the format.
struct Dtype {
  std::string_view name;        // in the file
  unsigned bits;                // of an element
  std::string_view torch_name;  // in Python's torch, without "torch."; "" if elements share bytes
};

/// nullptr if the format has no such dtype.
const Dtype* find_dtype(std::string_view name);
const Dtype* find_dtype(c10::ScalarType dtype);

/// The dtype in LibTorch; nullopt if this LibTorch has none.
std::optional<c10::ScalarType> scalar_type(const Dtype& dtype);

/// The names of all dtypes, for messages.
std::string dtype_names();

/// Whether a file is, by its name, the index of one that is split into shards.
bool is_index(std::string_view path);

/// Whether the first bytes of a file, 9 or more, may be those of a .safetensors file.
bool is_start(std::string_view head);

}  // namespace polyak::safetensors
