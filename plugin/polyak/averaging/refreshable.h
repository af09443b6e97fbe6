// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polyak {

/// A module whose tensors are brought up to date by a call before others read them.
class Refreshable {
 public:
  /// Brings the module's tensors up to date.
  virtual void refresh_module() const = 0;

 protected:
  ~Refreshable() = default;
};

}  // namespace polyak
