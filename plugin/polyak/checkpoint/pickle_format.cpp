// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_format.h"

#include <algorithm>
#include <array>
#include <map>

#include "polyak/core/error.h"
#include "polyak/core/text.h"

namespace polyak::pickle {
namespace {

constexpr size_t kMaxShown = 120;

constexpr std::array<StorageType, 12> kStorageTypes{{
    {c10::ScalarType::Float, "FloatStorage"},
    {c10::ScalarType::Double, "DoubleStorage"},
    {c10::ScalarType::Half, "HalfStorage"},
    {c10::ScalarType::BFloat16, "BFloat16Storage"},
    {c10::ScalarType::Long, "LongStorage"},
    {c10::ScalarType::Int, "IntStorage"},
    {c10::ScalarType::Short, "ShortStorage"},
    {c10::ScalarType::Char, "CharStorage"},
    {c10::ScalarType::Byte, "ByteStorage"},
    {c10::ScalarType::Bool, "BoolStorage"},
    {c10::ScalarType::ComplexFloat, "ComplexFloatStorage"},
    {c10::ScalarType::ComplexDouble, "ComplexDoubleStorage"},
}};

constexpr std::array<StorageType, 5> kQuantizedTypes{{
    {c10::ScalarType::QInt8, "QInt8Storage"},
    {c10::ScalarType::QUInt8, "QUInt8Storage"},
    {c10::ScalarType::QInt32, "QInt32Storage"},
    {c10::ScalarType::QUInt4x2, "QUInt4x2Storage"},
    {c10::ScalarType::QUInt2x4, "QUInt2x4Storage"},
}};

template <class Types, class Match>
const StorageType* find_type(const Types& types, Match match) {
  const auto found = std::find_if(types.begin(), types.end(), match);
  return found == types.end() ? nullptr : &*found;
}

}  // namespace

const StorageType* find_storage_type(c10::ScalarType dtype) {
  return find_type(kStorageTypes, [&](const StorageType& type) { return type.dtype == dtype; });
}

const StorageType* find_storage_type(std::string_view name) {
  const auto has_name = [&](const StorageType& type) { return type.name == name; };
  const StorageType* const found = find_type(kStorageTypes, has_name);
  return found != nullptr ? found : find_type(kQuantizedTypes, has_name);
}

std::optional<c10::ScalarType> find_dtype(std::string_view name) {
  // Python's name for a dtype is the one in C++ in lower case, except for the oldest.
  static const std::map<std::string_view, c10::ScalarType> kOldNames{
      {"float32", c10::ScalarType::Float},
      {"float64", c10::ScalarType::Double},
      {"float16", c10::ScalarType::Half},
      {"int64", c10::ScalarType::Long},
      {"int32", c10::ScalarType::Int},
      {"int16", c10::ScalarType::Short},
      {"int8", c10::ScalarType::Char},
      {"uint8", c10::ScalarType::Byte},
      {"complex64", c10::ScalarType::ComplexFloat},
      {"complex128", c10::ScalarType::ComplexDouble}};
  if (const auto found = kOldNames.find(name); found != kOldNames.end()) return found->second;
  for (int i = 0; i < static_cast<int>(c10::ScalarType::Undefined); ++i) {
    const auto dtype = static_cast<c10::ScalarType>(i);
    if (!c10::isQIntType(dtype) && lower_case(c10::toString(dtype)) == name) return dtype;
  }
  return std::nullopt;
}

std::optional<int64_t> elements_needed(int64_t offset, c10::IntArrayRef sizes,
                                       c10::IntArrayRef strides) {
  if (offset < 0 || sizes.size() != strides.size()) return std::nullopt;
  int64_t count = 1;  // only checked for overflow: with a stride of 0 it may exceed the storage
  int64_t last = offset;
  bool empty = false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || strides[i] < 0) return std::nullopt;
    if (sizes[i] == 0) {
      empty = true;
      continue;
    }
    int64_t step = 0;
    if (__builtin_mul_overflow(count, sizes[i], &count) ||
        __builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
        __builtin_add_overflow(last, step, &last)) {
      return std::nullopt;
    }
  }
  int64_t needed = offset;
  if (!empty && __builtin_add_overflow(last, 1, &needed)) return std::nullopt;
  return needed;
}

bool is_utf8(std::string_view text) {
  const auto* next = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = next + text.size();
  while (next < end) {
    const unsigned char first = *next++;
    if (first < 0x80) continue;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - next < more) return false;
    // The first byte limits the second: no overlong forms, nothing above U+10FFFF.
    const unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xf4 ? 0x8f : 0xbf;
    if (*next < low || *next > high) return false;
    for (int i = 1; i < more; ++i) {
      if ((next[i] & 0xc0) != 0x80) return false;
    }
    next += more;
  }
  return true;
}

std::string printable(std::string_view text) {
  size_t shown = text.size();
  if (shown > kMaxShown) {
    shown = kMaxShown;
    while (shown > 0 && (text[shown] & 0xc0) == 0x80) --shown;  // not in the middle of a character
  }
  std::string result(text.substr(0, shown));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  }
  return shown < text.size() ? result + "..." : result;
}

std::string KeyPath::text() const {
  std::string text;
  for (const auto& part : parts_) {
    if (const auto* index = std::get_if<int64_t>(&part)) {
      text += fmt::format("[{}]", *index);
    } else {
      text += text.empty() ? "" : ".";
      text += printable(std::get<std::string_view>(part));
    }
  }
  return text;
}

void KeyPath::fail_here(const std::string& message) const {
  fail<CheckpointError>("{}{}{}", text(), parts_.empty() ? "" : ": ", message);
}

}  // namespace polyak::pickle
