// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/checkpoint/safetensors_format.h"
#include "polyak/checkpoint/safetensors_input.h"
#include "polyak/core/log.h"

namespace polyak {
namespace safetensors {
namespace {

using pickle::printable;

/// LibTorch's operators support no more.
constexpr size_t kMostDimensions = 64;
/// Of JSON in an index; a header has 3.
constexpr size_t kDeepest = 100;

// The header

/// A tensor as the header describes it.
struct Entry {
  std::string name;
  const Dtype* dtype = nullptr;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;  // of its data, from the end of the header

  uint64_t begin() const { return (*offsets)[0]; }
  uint64_t end() const { return (*offsets)[1]; }
};

struct Header {
  std::vector<Entry> entries;
  SafetensorsMetadata metadata;
};

class HeaderReader : public JsonReader {
 public:
  HeaderReader() : JsonReader("its header") {}

  Header take() { return std::move(header_); }

  bool start_object(size_t /*size*/) override {
    if (place_ == Place::start) {
      place_ = Place::names;
    } else if (place_ != Place::names) {
      return other("an object");
    } else if (key_ != kMetadataKey) {
      place_ = Place::tensor;
      header_.entries.emplace_back().name = std::move(key_);
    } else {
      if (has_metadata_) fail<DamagedCheckpointError>("its header has two {}", kMetadataKey);
      has_metadata_ = true;
      place_ = Place::metadata;
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) check_complete(header_.entries.back());
    place_ = Place::names;
    return true;
  }

  bool key(std::string& key) override {
    key_ = std::move(key);
    if (place_ == Place::tensor) check_field();
    return true;
  }

  bool string(std::string& text) override {
    if (place_ == Place::metadata) {
      if (!header_.metadata.emplace(key_, std::move(text)).second) {
        fail<DamagedCheckpointError>("its {} has '{}' twice", kMetadataKey, printable(key_));
      }
      return true;
    }
    if (place_ != Place::tensor || key_ != "dtype") return other("a string");
    Entry& entry = header_.entries.back();
    entry.dtype = find_dtype(text);
    if (entry.dtype == nullptr) {
      fail<CheckpointError>("tensor '{}': unknown dtype '{}'; the format has {}",
                            printable(entry.name), printable(text), dtype_names());
    }
    return true;
  }

  bool start_array(size_t /*size*/) override {
    if (place_ != Place::tensor || key_ == "dtype") return other("an array");
    place_ = Place::numbers;
    numbers().emplace();
    return true;
  }

  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::numbers) return other("a number");
    const size_t most = key_ == "shape" ? kMostDimensions : 2;
    if (numbers()->size() == most) {
      fail<DamagedCheckpointError>("tensor '{}': its {} has more than {} numbers",
                                   printable(header_.entries.back().name), key_, most);
    }
    numbers()->push_back(value);
    return true;
  }

  bool number_integer(int64_t value) override {
    return value < 0 ? other("a negative number") : number_unsigned(0);  // JSON's -0
  }

 private:
  enum class Place { start, names, metadata, tensor, numbers };

  bool other(const char* kind) override {
    switch (place_) {
      case Place::start:
        fail<DamagedCheckpointError>("its header is {}, expected an object", kind);
      case Place::names:
        if (key_ == kMetadataKey) {
          fail<DamagedCheckpointError>("its {} is {}, expected an object of strings", kMetadataKey,
                                       kind);
        }
        fail<DamagedCheckpointError>(
            "tensor '{}': is {}, expected an object with dtype, shape and data_offsets",
            printable(key_), kind);
      case Place::metadata:
        fail<DamagedCheckpointError>("its {} '{}' is {}, expected a string", kMetadataKey,
                                     printable(key_), kind);
      case Place::tensor:
        fail<DamagedCheckpointError>("tensor '{}': its {} is {}, expected {}",
                                     printable(header_.entries.back().name), key_, kind,
                                     key_ == "dtype" ? "a string" : "an array of integers");
      case Place::numbers:
        fail<DamagedCheckpointError>("tensor '{}': its {} contains {}, expected integers >= 0",
                                     printable(header_.entries.back().name), key_, kind);
    }
    return false;  // not reached
  }

  std::optional<std::vector<uint64_t>>& numbers() {
    Entry& entry = header_.entries.back();
    return key_ == "shape" ? entry.shape : entry.offsets;
  }

  void check_field() const {
    const Entry& entry = header_.entries.back();
    const bool known = key_ == "dtype" || key_ == "shape" || key_ == "data_offsets";
    if (!known) {
      fail<DamagedCheckpointError>(
          "tensor '{}': has the unknown key '{}'; the format has dtype, shape and data_offsets",
          printable(entry.name), printable(key_));
    }
    const bool twice = key_ == "dtype"   ? entry.dtype != nullptr
                       : key_ == "shape" ? entry.shape.has_value()
                                         : entry.offsets.has_value();
    if (twice) {
      fail<DamagedCheckpointError>("tensor '{}': has two {}", printable(entry.name), key_);
    }
  }

  static void check_complete(const Entry& entry) {
    const char* const missing = entry.dtype == nullptr ? "dtype"
                                : !entry.shape         ? "shape"
                                : !entry.offsets       ? "data_offsets"
                                                       : nullptr;
    if (missing != nullptr) {
      fail<DamagedCheckpointError>("tensor '{}': has no {}", printable(entry.name), missing);
    }
    if (entry.offsets->size() != 2) {
      fail<DamagedCheckpointError>("tensor '{}': its data_offsets have {} numbers, expected 2",
                                   printable(entry.name), entry.offsets->size());
    }
  }

  Place place_ = Place::start;
  std::string key_;
  bool has_metadata_ = false;
  Header header_;
};

/// Says what a file is that is no .safetensors file, where that is known.
void refuse_other_kinds(std::string_view bytes) {
  const auto starts = [&](std::string_view start) {
    return bytes.substr(0, start.size()) == start;
  };
  if (starts("PK\x03\x04")) {
    fail<CheckpointError>("is a zip archive, as torch.save writes it; rename it to .pth");
  }
  if (starts("version https://git-lfs")) {
    fail<CheckpointError>("is only Git LFS's pointer to a file; fetch the file by 'git lfs pull'");
  }
  if (starts("<")) {
    fail<CheckpointError>("is a web page, not a checkpoint; download the file itself");
  }
}

/// The text of the header.
std::string_view find_header(std::string_view bytes) {
  if (!is_start(bytes)) refuse_other_kinds(bytes);
  if (bytes.size() < kLengthSize) {
    fail<DamagedCheckpointError>(
        "is truncated: a .safetensors file starts with 8 bytes that state the length of its "
        "header, and this file has {}",
        bytes.size());
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  bytes.remove_prefix(kLengthSize);
  if (length > kLongestHeader) {
    fail<DamagedCheckpointError>(
        "is not a .safetensors file: its first 8 bytes state a header of {} bytes, and the format "
        "allows {}",
        length, kLongestHeader);
  }
  if (!bytes.empty() && length > 0 && bytes.front() != '{') {
    fail<DamagedCheckpointError>("is not a .safetensors file: its header does not start with '{{'");
  }
  if (length > bytes.size()) {
    fail<DamagedCheckpointError>("is truncated: its header has {} bytes, of which {} are there",
                                 length, bytes.size());
  }
  return bytes.substr(0, length);
}

/// The size of the data that a tensor of this dtype and shape has.
uint64_t bytes_of(const Entry& entry) {
  // LibTorch's strides count what is below 2^63, as if no dimension were 0.
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t elements = 1;
  uint64_t bits = 0;
  bool empty = false;
  bool fits = true;
  for (const uint64_t size : *entry.shape) {
    if (size == 0) empty = true;
    fits = fits && !__builtin_mul_overflow(elements, std::max<uint64_t>(size, 1), &elements);
  }
  fits = fits && !__builtin_mul_overflow(elements, entry.dtype->bits, &bits) && bits <= kMost;
  if (!fits) {
    fail<DamagedCheckpointError>("tensor '{}': has the impossible shape [{}]",
                                 printable(entry.name), fmt::join(*entry.shape, ", "));
  }
  if (empty) return 0;
  if (bits % 8 != 0) {
    fail<DamagedCheckpointError>(
        "tensor '{}': {} elements of dtype {} do not fill a whole number of bytes",
        printable(entry.name), elements, entry.dtype->name);
  }
  return bits / 8;
}

void check_sizes(const std::vector<Entry>& entries, uint64_t data_size) {
  for (const Entry& entry : entries) {
    if (entry.begin() > entry.end()) {
      fail<DamagedCheckpointError>("tensor '{}': its data ends at {}, before its start at {}",
                                   printable(entry.name), entry.end(), entry.begin());
    }
    const uint64_t needed = bytes_of(entry);
    if (entry.end() - entry.begin() != needed) {
      fail<DamagedCheckpointError>(
          "tensor '{}': has {} bytes of data, but its shape [{}] of dtype {} needs {}",
          printable(entry.name), entry.end() - entry.begin(), fmt::join(*entry.shape, ", "),
          entry.dtype->name, needed);
    }
    if (entry.end() > data_size) {
      fail<DamagedCheckpointError>(
          "is truncated: tensor '{}' ends at byte {} of the data, which has {}",
          printable(entry.name), entry.end(), data_size);
    }
  }
}

/// Each byte of the data belongs to one tensor.
void check_cover(const std::vector<Entry>& entries, uint64_t data_size) {
  std::vector<const Entry*> by_place;
  by_place.reserve(entries.size());
  for (const Entry& entry : entries) by_place.push_back(&entry);
  std::sort(by_place.begin(), by_place.end(), [](const Entry* a, const Entry* b) {
    return std::make_pair(a->begin(), a->end()) < std::make_pair(b->begin(), b->end());
  });
  uint64_t covered = 0;
  const Entry* previous = nullptr;
  for (const Entry* const entry : by_place) {
    if (entry->begin() < covered) {
      fail<DamagedCheckpointError>("tensor '{}': its data overlaps with that of '{}'",
                                   printable(entry->name), printable(previous->name));
    }
    if (entry->begin() > covered) {
      fail<DamagedCheckpointError>("bytes {} to {} of its data, before tensor '{}', belong to none",
                                   covered, entry->begin(), printable(entry->name));
    }
    covered = entry->end();
    previous = entry;
  }
  if (covered != data_size) {
    fail<DamagedCheckpointError>("its last {} bytes belong to no tensor", data_size - covered);
  }
}

/// @param items each with a tensor's name, which `name_of` gives
template <class Items, class NameOf>
void check_names(const Items& items, const char* place, NameOf name_of) {
  std::vector<std::string_view> names;
  names.reserve(items.size());
  for (const auto& item : items) names.push_back(name_of(item));
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    fail<DamagedCheckpointError>("tensor '{}': is in {} twice", printable(*twice), place);
  }
}

Header read_header(std::string_view json, uint64_t data_size) {
  HeaderReader reader;
  reader.read(json);
  Header header = reader.take();
  check_names(header.entries, "the header",
              [](const Entry& entry) -> std::string_view { return entry.name; });
  check_sizes(header.entries, data_size);
  check_cover(header.entries, data_size);
  return header;
}

// The tensors

struct Contents {
  std::vector<Value::Entry> tensors;
  SafetensorsMetadata metadata;
};

Contents read_contents(const std::string& path) {
  const auto file = std::make_shared<MappedFile>(path);
  const std::string_view json = find_header(file->bytes());
  const size_t data_start = kLengthSize + json.size();
  Header header = read_header(json, file->bytes().size() - data_start);
  Contents contents;
  contents.tensors.reserve(header.entries.size());
  for (Entry& entry : header.entries) {
    const std::optional<c10::ScalarType> dtype = scalar_type(*entry.dtype);
    if (!dtype) {
      contents.tensors.emplace_back(
          std::move(entry.name),
          Value::opaque(fmt::format("a tensor of dtype {}", entry.dtype->name)));
      continue;
    }
    const std::vector<int64_t> shape(entry.shape->begin(), entry.shape->end());
    contents.tensors.emplace_back(std::move(entry.name),
                                  tensor_of(file, file->data() + data_start + entry.begin(),
                                            entry.end() - entry.begin(), *dtype, shape));
  }
  contents.metadata = std::move(header.metadata);
  return contents;
}

/// The metadata has the other names of tied tensors.
void restore_tied(Contents& contents) {
  std::unordered_map<std::string_view, const Value*> known;
  for (const auto& [name, tensor] : contents.tensors) known.emplace(name.as_string(), &tensor);
  std::vector<Value::Entry> restored;
  for (const auto& [name, kept] : contents.metadata) {
    const auto found = known.find(kept);
    if (name == kFormatKey || found == known.end() || known.count(name) > 0) continue;
    const Value& tensor = *found->second;
    restored.emplace_back(name, tensor.is_tensor() ? Value(tensor.as_tensor().detach()) : tensor);
  }
  std::move(restored.begin(), restored.end(), std::back_inserter(contents.tensors));
}

// The index

/// An index: which shard has which tensor.
struct Index {
  std::vector<std::pair<std::string, std::string>> shards;  // of each tensor, in the file's order
  SafetensorsMetadata metadata;
};

class IndexReader : public JsonReader {
 public:
  IndexReader() : JsonReader("the index") {}

  Index take() {
    if (!has_map_) {
      fail<CheckpointError>(
          "has no weight_map, so it is not the index of a split .safetensors file");
    }
    return std::move(index_);
  }

  bool start_object(size_t /*size*/) override {
    if (in_map()) return other("an object");
    if (depth_ == 1 && keys_[0] == "weight_map") {
      if (has_map_) fail<DamagedCheckpointError>("the index has two weight_map");
      has_map_ = true;
    }
    if (depth_ == 1) metadata_ = keys_[0] == "metadata";
    return enter();
  }
  bool end_object() override { return leave(); }
  bool start_array(size_t /*size*/) override {
    if (depth_ == 0 || in_map() || at_map()) return other("an array");
    if (depth_ == 1) metadata_ = false;
    return enter();
  }
  bool end_array() override { return leave(); }

  bool key(std::string& key) override {
    if (depth_ <= 2) keys_[depth_ - 1] = std::move(key);
    return true;
  }

  bool string(std::string& text) override {
    if (in_map()) {
      index_.shards.emplace_back(keys_[1], std::move(text));
    } else if (depth_ == 2 && metadata_) {
      index_.metadata.emplace(keys_[1], std::move(text));
    } else {
      return other("a string");
    }
    return true;
  }

 private:
  bool in_map() const { return depth_ == 2 && keys_[0] == "weight_map"; }
  bool at_map() const { return depth_ == 1 && keys_[0] == "weight_map"; }

  bool enter() {
    if (++depth_ > kDeepest) {
      fail<DamagedCheckpointError>("the index is nested more than {} deep", kDeepest);
    }
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }

  /// Anything else may be in the file, but not in the map.
  bool other(const char* kind) override {
    if (depth_ == 0) fail<DamagedCheckpointError>("the index is {}, expected an object", kind);
    if (at_map()) {
      fail<DamagedCheckpointError>("its weight_map is {}, expected an object", kind);
    }
    if (in_map()) {
      fail<DamagedCheckpointError>(
          "tensor '{}': its place in weight_map is {}, expected the name of a file",
          printable(keys_[1]), kind);
    }
    return true;
  }

  size_t depth_ = 0;
  std::string keys_[2];
  bool has_map_ = false;
  bool metadata_ = false;  // whether the value at depth 1 is the object of that name
  Index index_;
};

Index read_index_file(const std::string& path) {
  const MappedFile file(path);
  refuse_other_kinds(file.bytes());
  if (file.bytes().size() > kLongestHeader) {
    fail<DamagedCheckpointError>("has {} bytes; an index has at most {}", file.bytes().size(),
                                 kLongestHeader);
  }
  IndexReader reader;
  reader.read(file.bytes());
  return reader.take();
}

/// A shard is beside its index, wherever that was written.
void check_shard_name(const std::string& tensor, const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." &&
                     name.find_first_of("/\\") == std::string::npos &&
                     std::none_of(name.begin(), name.end(),
                                  [](char c) { return static_cast<unsigned char>(c) < ' '; });
  if (!plain) {
    fail<CheckpointError>(
        "tensor '{}': its shard is '{}', which is not the plain name of a file beside the index",
        printable(tensor), printable(name));
  }
}

using Tensors = std::unordered_map<std::string, Value>;

/// Says which tensors of a shard stay out, as the index does not name them.
void log_rest(const std::string& path, const std::string& shard, const Tensors& rest) {
  if (rest.empty()) return;
  const auto least = std::min_element(
      rest.begin(), rest.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  log_info("{}: does not name {} of the tensors in {}, such as '{}'; ignored", path, rest.size(),
           printable(shard), printable(least->first));
}

Contents read_shards(const std::string& path) {
  Index index = read_index_file(path);
  check_names(index.shards, "weight_map",
              [](const auto& place) -> std::string_view { return place.first; });
  Contents contents;
  contents.metadata = std::move(index.metadata);
  std::map<std::string, Tensors> shards;
  for (const auto& [tensor, name] : index.shards) {
    check_shard_name(tensor, name);
    shards[name];
  }
  for (auto& [name, tensors] : shards) {
    const auto shard = std::filesystem::path(path).parent_path() / name;
    std::error_code ignored;
    if (!std::filesystem::exists(shard, ignored)) {
      fail<CheckpointError>(
          "its shard '{}' is not in the same folder; a split file needs all of its shards",
          printable(name));
    }
    try {
      Contents part = read_contents(shard.string());
      for (auto& [key, tensor] : part.tensors) tensors.emplace(key.as_string(), std::move(tensor));
      contents.metadata.merge(part.metadata);
    } catch (const DamagedCheckpointError& error) {
      fail<DamagedCheckpointError>("its shard '{}': {}", printable(name), error.what());
    } catch (const CheckpointError& error) {
      fail<CheckpointError>("its shard '{}': {}", printable(name), error.what());
    }
  }
  for (auto& [tensor, name] : index.shards) {
    Tensors& there = shards[name];
    const auto found = there.find(tensor);
    if (found == there.end()) {
      fail<DamagedCheckpointError>("tensor '{}': is not in its shard '{}'", printable(tensor),
                                   printable(name));
    }
    contents.tensors.emplace_back(std::move(tensor), std::move(found->second));
    there.erase(found);
  }
  for (const auto& [name, rest] : shards) log_rest(path, name, rest);
  return contents;
}

/// Names the file in errors.
template <class Read>
auto name_in_errors(const std::string& path, Read read) {
  try {
    return read();
  } catch (const DamagedCheckpointError& error) {
    fail<DamagedCheckpointError>("{}: {}", path, error.what());
  } catch (const CheckpointError& error) {
    fail<CheckpointError>("{}: {}", path, error.what());
  } catch (const std::exception& error) {  // of an allocator
    fail<CheckpointError>("{}: cannot be read: {}", path, first_line(error));
  }
}

}  // namespace
}  // namespace safetensors

Value read_safetensors(const std::string& path) {
  return safetensors::name_in_errors(path, [&] {
    safetensors::Contents contents = safetensors::is_index(path) ? safetensors::read_shards(path)
                                                                 : safetensors::read_contents(path);
    safetensors::restore_tied(contents);
    return Value::dict(std::move(contents.tensors), /*ordered=*/true);
  });
}

SafetensorsMetadata read_safetensors_metadata(const std::string& path) {
  return safetensors::name_in_errors(path, [&] {
    if (safetensors::is_index(path)) return safetensors::read_index_file(path).metadata;
    const safetensors::MappedFile file(path);
    const std::string_view json = safetensors::find_header(file.bytes());
    const size_t data_size = file.bytes().size() - safetensors::kLengthSize - json.size();
    return safetensors::read_header(json, data_size).metadata;
  });
}

}  // namespace polyak
