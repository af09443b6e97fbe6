// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

/// The local time by strftime's format, at most 31 characters.
std::string local_time(const char* format);

/// What names a run that writes into `work_dir`: the local time as 20260131_235959, with a number
/// behind it where another run began in the same second.
POLYAK_API std::string new_timestamp(const std::string& work_dir);

/// Why files cannot be made in the folder, or in the nearest one above it that exists; "" where
/// they can.
POLYAK_API std::string unwritable_reason(const std::string& folder);

/// Makes sure that the folder, or the nearest one above it that exists, can be written.
/// @throws ConfigError at the key `work_dir` of the config
POLYAK_API void check_writable(const Node& config, const std::string& work_dir);

}  // namespace polyak
