// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "polyak/checkpoint/pickle_nodes.h"

namespace polyak::pickle {

/// Creates what the calls of a pickle would create, for the functions that it knows. Calls nothing:
/// what a foreign function or class would create is an Opaque with the name of its class.
class Calls {
 public:
  /// Both outlive this object.
  Calls(Nodes& nodes, Budget& budget) : nodes_(nodes), budget_(budget) {}

  /// The result of `callable(*argument_tuple)`.
  /// @throws Damage if the arguments do not fit a function that it knows
  /// @throws CheckpointError for a tensor that cannot be
  Node* call(Node* callable, Node* argument_tuple);

  /// Gives an object its attributes. Those of modules are their tensors; of others, nothing but
  /// numpy's byte order is needed.
  /// @throws Damage if it cannot have any
  void build(Node* object, Node* state);

 private:
  using Arguments = std::vector<Node*>;

  template <class T>
  Node* make(T value) {
    return add(nodes_, std::move(value));
  }
  void spend(size_t copies) const;

  Node* make_ordered_dict(const Arguments& arguments);
  Node* make_counter(const Arguments& arguments);
  Node* make_set(const Arguments& arguments);
  Node* make_bytes(const Arguments& arguments);
  Node* make_numpy_type(const Arguments& arguments);
  Node* make_numpy_scalar(const Arguments& arguments);
  Node* make_numpy_real(const std::string& data);
  Node* make_size(const std::vector<int64_t>& sizes);
  Node* make_first_tensor(const Arguments& items);
  Node* make_tensor(const Arguments& items, bool has_dtype);

  Nodes& nodes_;
  Budget& budget_;
  size_t nested_calls_ = 0;
};

/// The number that a node holds. @throws Damage if it is not an int
int64_t integer(Node* node);

}  // namespace polyak::pickle
