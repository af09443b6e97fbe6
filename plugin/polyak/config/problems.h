// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "polyak/config/place.h"
#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// One thing that is wrong with a config.
struct Problem {
  Place place;         // of the key or value
  std::string path;    // of the key; "" if unknown
  std::string reason;  // what is wrong, and what would be right
  std::string line;    // all of it: "file:line:col: key.path: reason", as far as it is known
};

/// What is wrong with a config, at its place: one problem or several. what() has a line for each,
/// and, if there are several, one with their number.
class POLYAK_API ProblemsError : public ConfigError {
 public:
  /// @param problems at least one
  explicit ProblemsError(std::vector<Problem> problems);
  /// The same with another what().
  ProblemsError(std::vector<Problem> problems, const std::string& message)
      : ConfigError(message), problems_(std::move(problems)) {}
  ~ProblemsError() override;
  /// In the order of their places.
  const std::vector<Problem>& problems() const { return problems_; }

 private:
  std::vector<Problem> problems_;
};

/// Collects what is wrong with parts of a config that do not depend on each other, so that all of
/// it is reported at once.
class POLYAK_API Problems {
 public:
  /// Calls a function, and keeps the problems that it throws as a ConfigError.
  /// @return whether it threw none
  template <class Function>
  bool attempt(Function&& function) {
    try {
      function();
      return true;
    } catch (const ConfigError& error) {
      add(error);
      return false;
    }
  }
  /// Adds the problems of an error. One key has one problem, the first, and what stands in a file
  /// once, but is meant several times by an alias, is reported once.
  void add(const ConfigError& error);
  /// Whether there are none so far.
  bool empty() const { return problems_.empty(); }
  /// Throws ProblemsError, sorted by place, unless there are none.
  void throw_all() const;

 private:
  void add(const Problem& problem);

  std::vector<Problem> problems_;
};

/// The line of a file that a place names, with its key or value underlined, as compilers show it;
/// each line ends with a newline. "" if the text is unknown.
POLYAK_API std::string excerpt(const Place& place);

/// The whole message of an error for people: each problem's line after `start`, its excerpt below
/// it, and the number of problems if there are several. Ends with a newline.
POLYAK_API std::string explained(const ConfigError& error, const std::string& start = "");

}  // namespace polyak
