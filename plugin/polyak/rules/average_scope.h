// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/rules/tensor_mode.h"

namespace polyak {

/// What an average does with the buffers whose name matches.
struct BufferRule {
  std::string match;                      // a regular expression, as in AverageScope
  TensorMode mode = TensorMode::average;  // average, copy or keep
};

/// Which of a model's tensors are averaged, and what happens to the others. Patterns are regular
/// expressions (ECMAScript, without references back) that match anywhere in a dotted name, as
/// Python's `re.search` does: `^backbone\.` is a prefix, `bias$` an ending. Of several that match,
/// `keep` comes before `exclude`, and `exclude` before `include`.
///
/// It is the part of AverageOptions with these keys. The default covers everything.
struct POLYAK_API AverageScope {
  std::vector<std::string> include;  // parameters that are averaged; empty: all
  std::vector<std::string> exclude;  // parameters that are not: TensorMode::share
  std::vector<std::string> keep;     // parameters that keep the value of the first update
  Node buffers = Node::sequence();   // {match, mode} of buffers; the first that matches counts
  bool share_frozen = false;         // share parameters that do not require a gradient

  /// Passes the keys to the visitor.
  void visit(OptionVisitor& visitor);
  /// @throws OptionError for an invalid pattern or mode, with the key and the place in its list
  void check() const;
  /// `buffers` as typed rules, and the list that holds such rules.
  /// @throws OptionError
  std::vector<BufferRule> buffer_rules() const;
  static Node buffers_of(const std::vector<BufferRule>& rules);
  /// Whether all tensors are treated alike, apart from buffers.
  bool covers_all() const {
    return include.empty() && exclude.empty() && keep.empty() && !has_buffer_rules();
  }
  bool operator==(const AverageScope& other) const;

 private:
  bool has_buffer_rules() const;
};

/// The patterns of a scope, compiled.
class POLYAK_API ScopeMatcher {
 public:
  /// Compiles them. Buffers without a rule of their own are averaged if `update_buffers`.
  /// @throws OptionError as AverageScope::check()
  ScopeMatcher(const AverageScope& scope, bool update_buffers);
  ~ScopeMatcher();
  ScopeMatcher(ScopeMatcher&&) noexcept;
  ScopeMatcher& operator=(ScopeMatcher&&) noexcept;

  /// What happens to a parameter or buffer of this name.
  TensorMode mode_of(const std::string& name, bool buffer) const;
  /// @throws OptionError for the first pattern that matches none of the names, with the nearest
  void check_matched(const std::vector<std::string>& parameters,
                     const std::vector<std::string>& buffers) const;

 private:
  struct Patterns;
  std::unique_ptr<const Patterns> patterns_;
  bool update_buffers_;
};

}  // namespace polyak
