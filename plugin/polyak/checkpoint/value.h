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

/// One value of a checkpoint, with the types of Python: None, bool, int, float, str, a tensor, a
/// list, a tuple, a set, or a dict that keeps its order (written as collections.OrderedDict if
/// `ordered()`). An object of any other class is opaque: only its class name is known, and it can
/// be neither used nor written. Copies are deep except for tensors, which are handles.
class POLYAK_API Value {
 public:
  /// None, bool, int, float, str, Tensor, list, tuple, dict, set, and an opaque object.
  enum class Kind { none, boolean, integer, real, string, tensor, list, tuple, dict, set, opaque };
  using Entry = std::pair<Value, Value>;  // keys are strings or integers

  Value() = default;  // None
  /// A value of the kind that the argument's type says.
  Value(bool value);
  Value(int value);
  Value(int64_t value);
  Value(double value);
  Value(const char* value);
  Value(std::string value);
  Value(at::Tensor value);
  /// A list, a tuple, a set, a dict of these, in this order.
  static Value list(std::vector<Value> items = {});
  static Value tuple(std::vector<Value> items = {});
  static Value set_of(std::vector<Value> items = {});
  static Value dict(std::vector<Entry> entries = {}, bool ordered = false);
  /// An object of the Python class with this dotted name, such as "argparse.Namespace".
  static Value opaque(std::string class_name);

  /// What this is.
  Kind kind() const;
  bool is_none() const { return kind() == Kind::none; }
  bool is_tensor() const { return kind() == Kind::tensor; }
  bool is_dict() const { return kind() == Kind::dict; }
  bool is_opaque() const { return kind() == Kind::opaque; }
  /// "None", "bool", "int", "float", "str", "Tensor", "list", "tuple", "dict" or "set"; the class
  /// name of an opaque object.
  const char* kind_name() const;

  /// The content. Each throws CheckpointError if the value is of another kind. as_real() also
  /// accepts integers and zero-dimensional floating-point tensors, in which files hold numbers.
  bool as_bool() const;
  int64_t as_int() const;
  double as_real() const;
  const std::string& as_string() const;
  const at::Tensor& as_tensor() const;
  const std::vector<Value>& items() const;  // list, tuple and set
  std::vector<Value>& items();
  const std::vector<Entry>& entries() const;  // dict
  std::vector<Entry>& entries();
  bool ordered() const;

  /// The dotted name of the class of an opaque object.
  const std::string& type_name() const;

  /// Dict access by string or integer key. find() returns nullptr if the key is absent; at() throws
  /// an error that lists the existing keys; set() replaces a value or appends; erase() returns
  /// whether the key was present.
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
    Kind kind;  // list, tuple or set
  };
  struct Dict {
    std::vector<Entry> entries;
    bool ordered;
  };
  struct Opaque {
    std::string class_name;
  };
  std::variant<std::monostate, bool, int64_t, double, std::string, at::Tensor, List, Dict, Opaque>
      data_;
};

}  // namespace polyak
