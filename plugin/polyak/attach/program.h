// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// The file that a shell would start: a name with a slash is a path, any other name is looked up in
/// PATH.
/// @throws ConfigError if there is no executable file
POLYAK_API std::string find_program(const std::string& name);

/// What a program shows of itself without being run.
struct ProgramFacts {
  std::string libtorch;  // the path of the LibTorch that it loads
  /// The classes of LibTorch's optimizers that it or one of its own libraries refers to: "Adam".
  std::vector<std::string> optimizers;
  bool own_optimizer = false;  // it has a class of its own that derives from LibTorch's Optimizer
};

/// Checks, without running it, that the library can be preloaded into a program: that it is a
/// dynamically linked program for this machine, and that it loads the same LibTorch as Polyak.
/// @throws ConfigError
POLYAK_API ProgramFacts check_program(const std::string& path);

}  // namespace polyak
