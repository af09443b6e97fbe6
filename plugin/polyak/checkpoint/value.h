// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// One value of a checkpoint, as Python would see it: None, bool, int, float, str, a tensor, a
/// list, a tuple, or a dict that keeps its order (written as collections.OrderedDict when
/// `ordered()`). Copies are deep except for tensors, which are handles.
class POLYAK_API Value {
 public:
  enum class Kind { none, boolean, integer, real, string, tensor, list, tuple, dict };
  using Entry = std::pair<Value, Value>;  // keys are strings or integers

  Value() = default;  // None
  Value(bool value);
  Value(int value);
  Value(int64_t value);
  Value(double value);
  Value(const char* value);
  Value(std::string value);
  Value(at::Tensor value);
  static Value list(std::vector<Value> items = {});
  static Value tuple(std::vector<Value> items = {});
  static Value dict(std::vector<Entry> entries = {}, bool ordered = false);

  Kind kind() const;
  bool is_none() const { return kind() == Kind::none; }
  bool is_tensor() const { return kind() == Kind::tensor; }
  bool is_dict() const { return kind() == Kind::dict; }
  const char* kind_name()
      const;  // "None", "bool", "int", "float", "str", "Tensor", "list", "tuple", "dict"

  /// Each throws CheckpointError when the kind is another; as_real takes integers too, and
  /// floating-point tensors without dimensions, which is how files hold numbers.
  bool as_bool() const;
  int64_t as_int() const;
  double as_real() const;
  const std::string& as_string() const;
  const at::Tensor& as_tensor() const;
  const std::vector<Value>& items() const;  // list and tuple
  std::vector<Value>& items();
  const std::vector<Entry>& entries() const;  // dict
  std::vector<Entry>& entries();
  bool ordered() const;

  /// Dict access by string or integer key. find() gives nullptr when the key is absent; at() throws
  /// and names the key and the ones there are; set() adds at the end or replaces; erase() says if
  /// it was there.
  const Value* find(const Value& key) const;
  Value* find(const Value& key);
  const Value& at(const Value& key) const;
  Value& at(const Value& key);
  Value& set(const Value& key, Value value);
  bool erase(const Value& key);
  bool contains(const Value& key) const { return find(key) != nullptr; }

 private:
  struct List {
    std::vector<Value> items;
    bool tuple;
  };
  struct Dict {
    std::vector<Entry> entries;
    bool ordered;
  };
  std::variant<std::monostate, bool, int64_t, double, std::string, at::Tensor, List, Dict> data_;
};

}  // namespace polyak
