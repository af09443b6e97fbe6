// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// The tensors of a state dict without their values: names, shapes and dtypes.
class POLYAK_API StateLayout {
 public:
  /// Of the entries of a dict that are tensors under names.
  /// @throws CheckpointError for a tensor that is not dense, and if there are none
  explicit StateLayout(const Value& state_dict);

  /// How another state dict differs in names, shapes or kinds of numbers (real, complex, integer,
  /// bool); "" if it does not. The names stand for the two in the text.
  std::string difference(const StateLayout& other, const std::string& this_name,
                         const std::string& other_name) const;

  struct Item {
    std::string name;
    std::vector<int64_t> sizes;
    at::ScalarType dtype;
    size_t same_as;  // the index of the first item that has the same memory
    size_t at;       // the index in the dict
  };
  const std::vector<Item>& items() const { return items_; }
  /// Names of entries that are no tensors.
  const std::vector<std::string>& others() const { return others_; }

 private:
  std::vector<Item> items_;
  std::vector<std::string> others_;
};

/// A tensor in another dtype.
/// @throws CheckpointError, with `name`, if that turns a finite number into an infinity
at::Tensor narrowed(const at::Tensor& tensor, at::ScalarType dtype, const std::string& name);

/// A linear combination of state dicts. It holds one float64 (or complex128) tensor for each one of
/// theirs, and no state dict.
class POLYAK_API WeightedSum {
 public:
  /// @param copied names of tensors that are taken from the last state dict, like integers are
  explicit WeightedSum(std::set<std::string> copied = {});
  /// Adds `coefficient` times a state dict, whose layout is that of the first one.
  /// @throws CheckpointError if it has another layout, or a tensor that is added holds a NaN or an
  ///   infinity; names the tensor
  void add(const Value& state_dict, double coefficient);
  /// The sum times `factor` as an ordered dict, and what is copied. Tensors that were tied in every
  /// state dict are tied.
  /// @param dtype of floating-point tensors: `float32`, ...; "": as in the last state dict
  /// @throws CheckpointError if that dtype cannot hold a value
  Value result(const std::string& dtype = "", double factor = 1) const;

 private:
  struct Entry {
    StateLayout::Item item;  // of the last state dict
    at::Tensor sum;          // undefined for one that is copied
    at::Tensor last;         // a copy; undefined for one that is summed
  };
  std::set<std::string> copied_;
  std::vector<Entry> entries_;
};

}  // namespace polyak
