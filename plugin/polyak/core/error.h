// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// Base class of all errors that Polyak throws. `what()` is one complete message: the place, what
/// is wrong, and what would be right. It has no backtrace.
class POLYAK_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~Error() override;
};

/// A config, an option or the command line is invalid. The command exits with status 2.
class POLYAK_API ConfigError : public Error {
 public:
  using Error::Error;
  ~ConfigError() override;
};

/// A config asks for more memory than is available or a limit allows.
class POLYAK_API SizeError : public ConfigError {
 public:
  using ConfigError::ConfigError;
  ~SizeError() override;
};

/// A checkpoint cannot be read or written, or does not fit the model.
class POLYAK_API CheckpointError : public Error {
 public:
  using Error::Error;
  ~CheckpointError() override;
};

/// A data file is missing, truncated, or in the wrong format.
class POLYAK_API DataError : public Error {
 public:
  using Error::Error;
  ~DataError() override;
};

/// A shared library cannot be loaded as a plugin.
class POLYAK_API PluginError : public Error {
 public:
  using Error::Error;
  ~PluginError() override;
};

/// Throws E with a formatted message.
template <class E = Error, class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

/// The first line of an exception's message. LibTorch appends a backtrace to what(), which users do
/// not need.
POLYAK_API std::string first_line(const std::exception& error);

/// Whether an allocator of LibTorch or the C++ library refused a request.
POLYAK_API bool is_out_of_memory(const std::exception& error);

}  // namespace polyak
