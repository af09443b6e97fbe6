// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/problems.h"

#include <algorithm>
#include <tuple>

namespace polyak {
namespace {

std::string count_of(const std::vector<Problem>& problems) {
  return fmt::format("{} problems", problems.size());
}

std::string lines_of(const std::vector<Problem>& problems) {
  std::string text;
  for (const Problem& problem : problems) text += (text.empty() ? "" : "\n") + problem.line;
  return problems.size() == 1 ? text : fmt::format("{}\n{}", text, count_of(problems));
}

bool same_place(const Place& a, const Place& b) {
  return std::tie(a.file, a.line, a.column) == std::tie(b.file, b.line, b.column);
}

std::string last_key(const std::string& path) {
  return path.substr(path.rfind('.') + 1);
}

// Problems of files by their places, then those of the command line in their order.
bool stands_before(const Problem& a, const Problem& b) {
  const bool in_files = a.place.line > 0 && b.place.line > 0;
  if (!in_files) return a.place.line > 0 && b.place.line <= 0;
  return std::tie(a.place.file, a.place.line, a.place.column) <
         std::tie(b.place.file, b.place.line, b.place.column);
}

}  // namespace

ProblemsError::ProblemsError(std::vector<Problem> problems)
    : ConfigError(lines_of(problems)), problems_(std::move(problems)) {}
ProblemsError::~ProblemsError() = default;

void Problems::add(const ConfigError& error) {
  if (const auto* several = dynamic_cast<const ProblemsError*>(&error)) {
    for (const Problem& problem : several->problems()) add(problem);
  } else {
    add(Problem{{}, "", error.what(), error.what()});
  }
}

void Problems::add(const Problem& problem) {
  const bool known = std::any_of(problems_.begin(), problems_.end(), [&](const Problem& other) {
    if (!same_place(problem.place, other.place)) return false;
    if (problem.path == other.path) return !problem.path.empty() || problem.line == other.line;
    const bool by_alias = problem.place.line > 0 && last_key(problem.path) == last_key(other.path);
    return by_alias && problem.reason == other.reason;
  });
  if (!known) problems_.push_back(problem);
}

void Problems::throw_all() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(), stands_before);
  throw ProblemsError(std::move(sorted));
}

std::string explained(const ConfigError& error, const std::string& start) {
  const auto* const placed = dynamic_cast<const ProblemsError*>(&error);
  if (!placed) return fmt::format("{}{}\n", start, error.what());
  std::string text;
  for (const Problem& problem : placed->problems()) {
    text += fmt::format("{}{}\n{}", start, problem.line, excerpt(problem.place));
  }
  if (placed->problems().size() > 1) {
    text += fmt::format("{}{}\n", start, count_of(placed->problems()));
  }
  return text;
}

}  // namespace polyak
