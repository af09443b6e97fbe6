// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/averaging/slot.h"
#include "polyak/rules/precision.h"

// The dtype of an average, and whether the average can move in it.
namespace polyak {

bool is_half(at::ScalarType type);

/// The largest fraction of a number that rounding its average may lose.
double rounding_of(at::ScalarType type, bool compensated);

/// The average with everything that is kept of it: in float64 if it has a residual.
at::Tensor exact_value(const Slot& slot);

/// Makes `data` the tensor of the module and of its aliases; the average keeps its value.
void set_module_tensor(Slot& slot, const at::Tensor& data);

/// Gives the average the dtype that belongs to the module's tensor, and that tensor's device. Its
/// value stays. Does nothing if both are right already.
void settle_precision(Slot& slot, Precision precision);

/// Warns once if an average cannot move: if an update of a value that differs from its source by
/// less than 5 % would be rounded away.
class StallCheck {
 public:
  /// Whether check() has not been called yet.
  bool is_due() const { return !checked_; }
  /// @param weight the weight of updates for most of the run
  /// @return a warning; empty if there is nothing to report
  std::string check(const Slots& slots, double weight);
  /// The same for one half precision tensor that the caller averages; ignores other dtypes.
  std::string check_half(const at::Tensor& averaged, double weight);

 private:
  bool checked_ = false;
  bool half_checked_ = false;
};

}  // namespace polyak
