// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

/// The local time in strftime's format, at most 31 characters.
std::string local_time(const char* format);

/// The name of a new run that writes into `work_dir`: the local time as 20260131_235959, followed
/// by a number if another run began in the same second.
POLYAK_API std::string new_timestamp(const std::string& work_dir);

/// Why files cannot be created in the folder, or in its nearest existing parent; "" if they can.
POLYAK_API std::string unwritable_reason(const std::string& folder);

/// Ensures that the folder, or its nearest existing parent, can be written.
/// @throws ConfigError at the key `work_dir` of the config
POLYAK_API void check_writable(const Node& config, const std::string& work_dir);

}  // namespace polyak
