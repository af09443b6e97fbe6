// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

// What the pickle writer and the pickle reader share.

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Checkpoints hold little-endian numbers, and this code does not swap bytes"
#endif

namespace polyak::pickle {

/// The opcodes of pickle protocols 2 to 5. The writer uses those of protocol 2, the default of
/// torch.save.
enum class Op : unsigned char {
  mark = '(',
  stop = '.',
  none = 'N',
  new_true = 0x88,
  new_false = 0x89,
  bin_int = 'J',
  bin_int1 = 'K',
  bin_int2 = 'M',
  long1 = 0x8a,
  bin_float = 'G',
  bin_unicode = 'X',
  empty_list = ']',
  append = 'a',
  appends = 'e',
  empty_tuple = ')',
  tuple = 't',
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  empty_dict = '}',
  set_item = 's',
  set_items = 'u',
  global = 'c',
  reduce = 'R',
  build = 'b',
  bin_persid = 'Q',
  bin_put = 'q',
  long_bin_put = 'r',
  bin_get = 'h',
  long_bin_get = 'j',
  proto = 0x80,
  // What only the reader knows.
  pop = '0',
  pop_mark = '1',
  dup = '2',
  bin_bytes = 'B',
  short_bin_bytes = 'C',
  bin_string = 'T',
  short_bin_string = 'U',
  new_obj = 0x81,
  long4 = 0x8b,
  short_bin_unicode = 0x8c,
  bin_unicode8 = 0x8d,
  bin_bytes8 = 0x8e,
  empty_set = 0x8f,
  add_items = 0x90,
  frozen_set = 0x91,
  new_obj_ex = 0x92,
  stack_global = 0x93,
  memoize = 0x94,
  frame = 0x95,
  byte_array8 = 0x96,
};

constexpr unsigned char kProtocol = 2;        // that the writer uses
constexpr unsigned char kNewestProtocol = 5;  // that the reader supports

/// The maximum nesting of values: each level takes a stack frame here, in Value and in Python.
constexpr size_t kMaxDepth = 100;

/// Python states the dtype of a storage by a class, such as `torch.FloatStorage`.
struct StorageType {
  c10::ScalarType dtype;
  const char* name;
};
/// nullptr if the format has no such type. By a name, also those of quantized elements, which the
/// writer does not write and of which the reader makes no tensor.
const StorageType* find_storage_type(c10::ScalarType dtype);
const StorageType* find_storage_type(std::string_view name);

/// The dtype that Python calls `torch.<name>`, such as `float8_e4m3fn`. nullopt if this LibTorch
/// has no such dtype.
std::optional<c10::ScalarType> find_dtype(std::string_view name);

/// The number of elements that a storage needs for such a tensor. nullopt for an invalid tensor:
/// negative numbers, or a number of elements that does not fit in 64 bits.
std::optional<int64_t> elements_needed(int64_t offset, c10::IntArrayRef sizes,
                                       c10::IntArrayRef strides);

/// Whether Python can decode the text as a str. Accepts lone surrogates, like Python's pickle.
bool is_utf8(std::string_view text);

/// Text from a file in a form that messages can show: without control characters, and shortened.
std::string printable(std::string_view text);

/// The current position in a tree of values, such as `optimizer.groups[0].lr`. It only refers to
/// the keys, so it costs nothing until a message needs its text.
class KeyPath {
 public:
  void push(std::string_view key) { parts_.emplace_back(key); }
  void push(int64_t index) { parts_.emplace_back(index); }
  void pop() { parts_.pop_back(); }
  size_t depth() const { return parts_.size(); }
  std::string text() const;

  /// Throws a CheckpointError whose message starts with this path.
  [[noreturn]] void fail_here(const std::string& message) const;

 private:
  std::vector<std::variant<int64_t, std::string_view>> parts_;
};

}  // namespace polyak::pickle
