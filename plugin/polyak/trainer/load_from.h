// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/config/options.h"
#include "polyak/runtime/tensor_names.h"

namespace polyak {

/// `load_from`: a path, or a mapping for a file whose weights need a choice.
struct LoadFromOptions : Options {
  std::string path;
  std::string key;
  Node prefix;
  std::vector<std::string> exclude;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;

  /// What `prefix` and `exclude` say.
  NameRules rules() const;
};

/// Reads the value of `load_from`: null, a path or a mapping.
/// @throws ConfigError
LoadFromOptions read_load_from(const Node& node);

}  // namespace polyak
