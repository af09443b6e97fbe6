#pragma once

#include <functional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// Calls `write` with the name of a new file beside `path`, flushes that file to disk and renames
/// it to `path`. When anything fails the new file is removed, `path` stays as it was, and the error
/// goes on.
/// @throws CheckpointError naming `path` and the reason of the system.
POLYAK_API void replace_file(const std::string& path,
                             const std::function<void(const std::string&)>& write);

/// The same for a text.
POLYAK_API void replace_text_file(const std::string& path, const std::string& text);

}  // namespace polyak
