// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polyak {

/// A module whose tensors are brought up to date by a call before others read them.
class Refreshable {
 public:
  virtual void refresh_module() const = 0;

 protected:
  ~Refreshable() = default;
};

}  // namespace polyak
