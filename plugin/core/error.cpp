#include "polyak/core/error.h"

namespace polyak {

// Out of line, so that each class has one type_info, here: a catch in another library must match.
Error::~Error() = default;
ConfigError::~ConfigError() = default;
CheckpointError::~CheckpointError() = default;
DataError::~DataError() = default;
PluginError::~PluginError() = default;

std::string first_line(const std::exception& error) {
  std::string text = error.what();
  text.resize(std::min(text.find('\n'), text.size()));
  return text;
}

}  // namespace polyak
