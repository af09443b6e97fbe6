// SPDX-License-Identifier: Apache-2.0
#include "polyak/core/error.h"

#include <new>

namespace polyak {

// Out of line, so that each class has a single type_info and catches in other libraries match.
Error::~Error() = default;
ConfigError::~ConfigError() = default;
SizeError::~SizeError() = default;
CheckpointError::~CheckpointError() = default;
DataError::~DataError() = default;
PluginError::~PluginError() = default;

std::string first_line(const std::exception& error) {
  std::string text = error.what();
  text.resize(std::min(text.find('\n'), text.size()));
  return text;
}

bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return true;
  if (dynamic_cast<const std::length_error*>(&error)) return true;
  // Some versions of LibTorch have no exception class for this.
  const std::string text = first_line(error);
  for (const char* part :
       {"allocate memory", "out of memory", "Storage size calculation overflowed",
        "integer multiplication overflow"}) {
    if (text.find(part) != std::string::npos) return true;
  }
  return false;
}

}  // namespace polyak
