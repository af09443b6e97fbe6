// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// The file that a shell would start: a name with a slash is a path, another is looked up in PATH.
/// @throws ConfigError when there is none that can be executed
POLYAK_API std::string find_program(const std::string& name);

/// Refuses, without running it, a program in which a preloaded library could do nothing or harm:
/// one that is no dynamically linked program of this machine, that loads no LibTorch, or another
/// one than Polyak's.
/// @throws ConfigError
POLYAK_API void check_program(const std::string& path);

}  // namespace polyak
