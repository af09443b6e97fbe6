// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/averaging/slot.h"
#include "polyak/rules/precision.h"

// In which dtype an average is kept, and whether it can move there.
namespace polyak {

bool is_half(at::ScalarType type);

/// The largest part of a number that rounding its average may take away.
double rounding_of(at::ScalarType type, bool compensated);

/// The average with all that is kept of it: in float64 where it has a residual.
at::Tensor exact_value(const Slot& slot);

/// Gives the module's tensor, and its aliases, `data`; the average keeps its value.
void set_module_tensor(Slot& slot, const at::Tensor& data);

/// Gives the average the dtype that it should have beside the module's tensor, and that tensor's
/// device. Its value stays. Does nothing where all is as it should be.
/// @param averaged whether the slot is averaged rather than copied, if its numbers can be
void settle_precision(Slot& slot, Precision precision, bool averaged);

/// Says, once, that an average cannot move: where an update of a value that differs from its source
/// by less than 5 % would be rounded away.
class StallCheck {
 public:
  /// Whether check() was not called yet.
  bool is_due() const { return !checked_; }
  /// @param weight the weight of updates for long
  /// @return what to warn of; empty where there is nothing to say
  std::string check(const Slots& slots, bool update_buffers, double weight);
  /// The same for one tensor in half precision that the caller averages; of others says nothing.
  std::string check_half(const at::Tensor& averaged, double weight);

 private:
  bool checked_ = false;
  bool half_checked_ = false;
};

}  // namespace polyak
