// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

/// Where the keys of a block stand, for errors that concern two of them.
class POLYAK_API KeyPlaces {
 public:
  /// Keeps the places of a mapping's keys; of anything else, none.
  void keep(const Node& block);
  /// Throws OptionError at `key`: both keys say the same, and one of them must go.
  [[noreturn]] void fail_for_two(const char* key, const char* other) const;

 private:
  std::map<std::string, Place> places_;
};

}  // namespace polyak
