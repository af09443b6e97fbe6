// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/value.h"

// The objects of a pickle while it is read.
namespace polyak::pickle {

/// The Python names that have a meaning here. All others are foreign.
enum class Name {
  foreign,
  maker,  // of objects of the class that the name says
  ordered_dict,
  counter,
  default_dict,
  set,
  encode,
  bytes,
  rebuild_tensor_v1,
  rebuild_tensor,
  rebuild_tensor_v3,
  rebuild_parameter,
  rebuild_from_type,
  size,
  storage,
  numpy_dtype,
  numpy_scalar
};

/// A class or a function.
struct Global {
  Name name;
  std::string dotted;
  const StorageType* type = nullptr;  // of a typed storage
};

struct StoredElements {
  c10::Storage storage;
  std::optional<c10::ScalarType> dtype;             // empty: the tensor says it
  std::optional<std::pair<int64_t, int64_t>> part;  // the first element and how many; empty: all
};

struct Bytes {
  std::string data;
};

/// numpy.dtype of a number: its kind (b, i, u, f) and its size in bytes.
struct NumpyType {
  char kind;
  size_t size;
  bool big_endian = false;
};

/// An object that only Python could create.
struct Opaque {
  std::string class_name;
};

/// An object while the pickle is read. Objects refer to each other as in Python, possibly in
/// cycles, so one list owns them all and objects hold plain pointers.
struct Node;
struct Sequence {
  std::vector<Node*> items;
  Value::Kind kind;  // list, tuple or set
};
struct Mapping {
  std::vector<std::pair<Node*, Node*>> entries;
  bool ordered;
};
/// An object of a class of torch.nn.Module, or of TorchScript: what its state dict would hold.
struct Module {
  std::vector<std::pair<std::string, Node*>> members;  // tensors and modules by their names
};
struct Node {
  std::variant<std::monostate, bool, int64_t, double, std::string, at::Tensor, Sequence, Mapping,
               Global, StoredElements, Bytes, NumpyType, Opaque, Module>
      data;

  template <class T>
  T* as() {
    return std::get_if<T>(&data);
  }
};

/// Owns the objects.
using Nodes = std::deque<Node>;

template <class T>
Node* add(Nodes& nodes, T value) {
  nodes.push_back(Node{std::move(value)});
  return &nodes.back();
}

/// What `module.name` means.
Global find_global(std::string_view module, std::string_view name);

/// Thrown for a pickle that contradicts itself; the reader adds the place.
struct Damage {
  const char* what;
};

/// A pickle may refer to one object many times, and a tree of values copies it each time. Ordinary
/// files do so for a few small objects; this limits what a hostile one can expand to.
class Budget {
 public:
  /// For so many bytes of the pickle.
  void earn(size_t bytes) { left_ += kPerByte * bytes; }

  /// Whether so many copies, of objects or bytes, may still be made.
  bool spend(size_t copies) {
    if (copies > left_) return false;
    left_ -= copies;
    return true;
  }

 private:
  static constexpr size_t kFree = 1 << 20;
  static constexpr size_t kPerByte = 16;
  size_t left_ = kFree;
};

constexpr const char* kTooManyCopies = "the same objects are repeated too many times";

}  // namespace polyak::pickle
