// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// Base of every error that Polyak throws on purpose. `what()` is one complete message for a
/// person: place, what is wrong, what would be right; never a backtrace.
class POLYAK_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~Error() override;
};

/// A config, an option or the command line is wrong. The command ends with exit status 2.
class POLYAK_API ConfigError : public Error {
 public:
  using Error::Error;
  ~ConfigError() override;
};

/// A config asks for more memory than there is, or than a stated bound allows.
class POLYAK_API SizeError : public ConfigError {
 public:
  using ConfigError::ConfigError;
  ~SizeError() override;
};

/// A checkpoint cannot be written, read, or does not fit the model.
class POLYAK_API CheckpointError : public Error {
 public:
  using Error::Error;
  ~CheckpointError() override;
};

/// A data file is missing, truncated, or not what its name says.
class POLYAK_API DataError : public Error {
 public:
  using Error::Error;
  ~DataError() override;
};

/// A shared library cannot serve as a plugin.
class POLYAK_API PluginError : public Error {
 public:
  using Error::Error;
  ~PluginError() override;
};

/// Throws E with a message made by fmt.
template <class E = Error, class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

/// The first line of an exception's message. LibTorch appends a backtrace to what(); no user needs
/// it.
POLYAK_API std::string first_line(const std::exception& error);

/// Whether an allocator, LibTorch's or the C++ library's, refused what was asked of it.
POLYAK_API bool is_out_of_memory(const std::exception& error);

}  // namespace polyak
