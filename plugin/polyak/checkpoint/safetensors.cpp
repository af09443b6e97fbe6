// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/safetensors_format.h"
#include "polyak/checkpoint/savable.h"

namespace polyak {
namespace safetensors {
namespace {

/// In the order in which Python's library sorts them, from the end of a file to its start: larger
/// elements come first in a file, so that all data is aligned.
constexpr std::array<Dtype, 22> kDtypes{{
    {"BOOL", 8, "bool"},
    {"F4", 4, ""},
    {"F6_E2M3", 6, ""},
    {"F6_E3M2", 6, ""},
    {"U8", 8, "uint8"},
    {"I8", 8, "int8"},
    {"F8_E5M2", 8, "float8_e5m2"},
    {"F8_E4M3", 8, "float8_e4m3fn"},
    {"F8_E8M0", 8, "float8_e8m0fnu"},
    {"F8_E4M3FNUZ", 8, "float8_e4m3fnuz"},
    {"F8_E5M2FNUZ", 8, "float8_e5m2fnuz"},
    {"I16", 16, "int16"},
    {"U16", 16, "uint16"},
    {"F16", 16, "float16"},
    {"BF16", 16, "bfloat16"},
    {"I32", 32, "int32"},
    {"U32", 32, "uint32"},
    {"F32", 32, "float32"},
    {"C64", 64, "complex64"},
    {"F64", 64, "float64"},
    {"I64", 64, "int64"},
    {"U64", 64, "uint64"},
}};

template <class Match>
const Dtype* find_in_table(Match match) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(), match);
  return found == kDtypes.end() ? nullptr : &*found;
}

}  // namespace

const Dtype* find_dtype(std::string_view name) {
  return find_in_table([&](const Dtype& dtype) { return dtype.name == name; });
}

const Dtype* find_dtype(c10::ScalarType dtype) {
  return find_in_table([&](const Dtype& row) { return scalar_type(row) == dtype; });
}

std::optional<c10::ScalarType> scalar_type(const Dtype& dtype) {
  return pickle::find_dtype(dtype.torch_name);
}

std::string dtype_names() {
  std::vector<std::string_view> names;
  for (const Dtype& dtype : kDtypes) names.push_back(dtype.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

bool is_index(std::string_view path) {
  constexpr std::string_view kEnd = ".safetensors.index.json";
  return path.size() >= kEnd.size() && path.substr(path.size() - kEnd.size()) == kEnd;
}

bool is_start(std::string_view head) {
  if (head.size() <= kLengthSize || head[kLengthSize] != '{') return false;
  uint64_t length = 0;
  std::memcpy(&length, head.data(), sizeof(length));
  return length <= kLongestHeader;
}

namespace {

/// A tensor, and where it is in the file.
struct Placed {
  std::string name;
  at::Tensor tensor;
  const Dtype* dtype;
};

std::string quoted(const std::string& text, const char* what) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail<CheckpointError>("{} '{}' is not valid UTF-8", what, pickle::printable(text));
  }
}

const Dtype& dtype_to_write(const std::string& name, const at::Tensor& tensor) {
  std::string reason = why_not_savable(tensor);
  const Dtype* const dtype = reason.empty() ? find_dtype(tensor.scalar_type()) : nullptr;
  if (reason.empty() && dtype == nullptr) {
    reason = fmt::format("the format does not support its dtype {}; convert it first",
                         c10::toString(tensor.scalar_type()));
  }
  if (!reason.empty()) {
    fail<CheckpointError>("{}: this tensor cannot be saved: {}", pickle::printable(name), reason);
  }
  return *dtype;
}

void check_is_tensors(const Value& value) {
  if (!value.is_dict()) {
    fail<CheckpointError>("a .safetensors file holds a dict of tensors, not a {}",
                          value.kind_name());
  }
  const Value* const state_dict = value.find("state_dict");
  if (state_dict != nullptr && !state_dict->is_tensor()) {
    fail<CheckpointError>(
        "a .safetensors file holds only tensors under names, and this is a whole checkpoint: write "
        "its 'state_dict', or write a .pth file");
  }
  std::unordered_set<std::string_view> names;
  for (const auto& [key, item] : value.entries()) {
    if (key.kind() != Value::Kind::string) {
      fail<CheckpointError>("the key {} is an int; a .safetensors file holds tensors under names",
                            key.as_int());
    }
    const std::string& name = key.as_string();
    if (item.is_opaque()) {
      fail<CheckpointError>("{}: an object that only Python can read, {}, cannot be saved",
                            pickle::printable(name), item.type_name());
    }
    if (!item.is_tensor()) {
      fail<CheckpointError>(
          "{}: is of the kind {}, and a .safetensors file holds only tensors under names; write a "
          ".pth file for the rest",
          pickle::printable(name), item.kind_name());
    }
    if (name == kMetadataKey) {
      fail<CheckpointError>("{}: no tensor can have this name, which the format uses itself", name);
    }
    if (!names.insert(name).second) {
      fail<CheckpointError>("{}: two tensors have this name", pickle::printable(name));
    }
  }
}

/// Readers restore the name of a tied tensor from the metadata, so no other text may look like one.
void check_metadata(const Value& tensors, const SafetensorsMetadata& metadata) {
  for (const auto& [name, text] : metadata) {
    if (name == kFormatKey || tensors.contains(name) || !tensors.contains(text)) continue;
    fail<CheckpointError>(
        "the metadata '{}' is '{}', the name of a tensor: a reader would take the one for another "
        "name of the other; change that text",
        pickle::printable(name), pickle::printable(text));
  }
}

/// The tensors that have data in the file, in the file's order. The other names of tied tensors go
/// into the metadata.
std::vector<Placed> place_tensors(const Value& value, SafetensorsMetadata& metadata) {
  // What makes two tensors one: all that their values depend on.
  using Identity = std::tuple<const c10::StorageImpl*, int64_t, std::vector<int64_t>,
                              std::vector<int64_t>, c10::ScalarType, bool, bool>;
  std::map<Identity, std::string> kept;
  std::vector<Placed> placed;
  for (const auto& [key, item] : value.entries()) {
    const std::string& name = key.as_string();
    const at::Tensor& tensor = item.as_tensor();
    const Dtype& dtype = dtype_to_write(name, tensor);
    if (tensor.numel() > 0) {
      const auto [first, added] = kept.try_emplace(
          Identity{tensor.storage().unsafeGetStorageImpl(), tensor.storage_offset(),
                   tensor.sizes().vec(), tensor.strides().vec(), tensor.scalar_type(),
                   tensor.is_conj(), tensor.is_neg()},
          name);
      if (!added && name != kFormatKey) {
        // Where the metadata has another text under this name, the tensor needs data of its own.
        if (metadata.emplace(name, first->second).first->second == first->second) continue;
      }
    }
    placed.push_back({name, tensor, &dtype});
  }
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;  // both are in one table
  });
  return placed;
}

void check_header_size(uint64_t size, size_t tensors) {
  if (size <= kLongestHeader) return;
  fail<CheckpointError>(
      "the names and the metadata of {} tensors take more than the {} bytes that the format "
      "allows; "
      "write a .pth file",
      tensors, kLongestHeader);
}

std::string header_of(const std::vector<Placed>& placed, const SafetensorsMetadata& metadata) {
  uint64_t least = 0;  // a text that is far too long is not turned into JSON first
  for (const auto& [name, text] : metadata) least += name.size() + text.size();
  check_header_size(least, placed.size());
  std::string header = fmt::format("{{\"{}\":{{", kMetadataKey);
  bool first = true;
  for (const auto& [name, text] : metadata) {
    header += fmt::format("{}{}:{}", first ? "" : ",", quoted(name, "the metadata"),
                          quoted(text, "in the metadata, the text"));
    first = false;
  }
  header += "}";
  uint64_t offset = 0;
  for (const Placed& part : placed) {
    const uint64_t end = offset + part.tensor.nbytes();
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          quoted(part.name, "the name"), part.dtype->name,
                          fmt::join(part.tensor.sizes(), ","), offset, end);
    offset = end;
  }
  header += "}";
  header.resize((header.size() + kLengthSize - 1) / kLengthSize * kLengthSize, ' ');
  check_header_size(header.size(), placed.size());
  return header;
}

void write_parts(FileSink& sink, const std::string& header, const std::vector<Placed>& placed) {
  const uint64_t length = header.size();
  sink.write(&length, sizeof(length));
  sink.write(header.data(), header.size());
  for (const Placed& part : placed) {
    const at::Tensor values =
        part.tensor.detach().resolve_conj().resolve_neg().to(at::kCPU).contiguous();
    sink.write(values.data_ptr(), values.nbytes());
    sink.check();
  }
  sink.check();
}

}  // namespace
}  // namespace safetensors

void write_safetensors(const std::string& path, const Value& tensors,
                       const SafetensorsMetadata& metadata) {
  try {
    std::vector<safetensors::Placed> placed;
    std::string header;
    try {
      safetensors::check_is_tensors(tensors);
      safetensors::check_metadata(tensors, metadata);
      SafetensorsMetadata all = metadata;
      all.emplace(safetensors::kFormatKey, "pt");
      placed = safetensors::place_tensors(tensors, all);
      header = safetensors::header_of(placed, all);
    } catch (const CheckpointError& error) {
      fail<CheckpointError>("{}: {}", path, error.what());
    }
    replace_file(path, [&](const std::string& name) {
      FileSink sink(name, path);
      safetensors::write_parts(sink, header, placed);
    });
  } catch (const c10::Error& error) {  // a copy from a device failed
    fail<CheckpointError>("{}: cannot be written: {}", path, first_line(error));
  }
}

}  // namespace polyak
