// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// Where a value was written; in a mapping, where its key was. Line and column count from 1; line 0
/// means that it stands in no file, and `file` says where it came from instead, as in
/// "--cfg-options a.b=1".
struct Place {
  std::string file;
  int line = 0;
  int column = 0;
};

/// One value of a config: null, a scalar, a sequence, or a mapping in the order of the file.
/// A plain value type: copies are deep and independent. Every node knows where it was written and
/// its key path (`custom_hooks[0].momentum`), and every error it throws is a ConfigError that says
/// both.
class POLYAK_API Node {
 public:
  enum class Kind { null, scalar, sequence, mapping };
  using Entry = std::pair<std::string, Node>;

  Node() = default;  // null
  Node(bool value);
  Node(int value);
  Node(int64_t value);
  Node(double value);
  Node(const char* value);
  Node(std::string value);
  static Node sequence(std::vector<Node> items = {});
  static Node mapping(std::vector<Entry> entries = {});
  /// A scalar as a YAML file spells it; `quoted` keeps '1', 'true' and 'null' strings.
  static Node scalar(std::string text, bool quoted);

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool is_scalar() const { return kind_ == Kind::scalar; }
  bool is_sequence() const { return kind_ == Kind::sequence; }
  bool is_mapping() const { return kind_ == Kind::mapping; }
  /// "null", "a boolean", "an integer", "a number", "a string", "a list", "a mapping": for
  /// messages.
  std::string kind_name() const;

  /// Scalars. A value of another type is an error: 1.5 and "1" are no integers, 1 is a number,
  /// 'yes' is no boolean. `.nan` and `.inf` are numbers here; ranges refuse them.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  std::string as_string() const;
  bool is_bool() const;
  bool is_int() const;
  bool is_number() const;
  /// The text of a scalar as it was written, without quotes.
  const std::string& text() const { return text_; }
  bool quoted() const { return quoted_; }

  /// The elements of a sequence; an error for anything else.
  const std::vector<Node>& items() const;
  std::vector<Node>& items();
  /// The entries of a mapping in order; an error for anything else.
  const std::vector<Entry>& entries() const;

  /// The value of a key, or nullptr; nullptr as well when this is null. An error for scalars and
  /// lists.
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  /// The value of a key; an error that names the missing key and the mapping's own place.
  const Node& at(std::string_view key) const;
  /// Adds or replaces. A null node becomes a mapping first.
  Node& set(const std::string& key, Node value);
  void append(Node value);
  /// A copy without some keys.
  Node without(const std::vector<std::string>& keys) const;

  const Place& place() const { return place_; }
  void set_place(Place place) { place_ = std::move(place); }
  const std::string& path() const { return path_; }
  /// Sets this node's key path and, from it, those of everything below.
  void set_path(const std::string& path);
  /// The key path of an entry of this mapping, whether it is there or not.
  std::string path_of(std::string_view key) const;

  /// Throws ConfigError: "file:line:col: key.path: message", leaving out what is unknown.
  [[noreturn]] void fail(const std::string& message) const;
  /// "file:line:col: key.path: ", or "" when neither is known.
  std::string prefix() const;

  /// YAML text, with its line end, that parses to an equal node.
  std::string dump() const;
  /// Equal in type and value: 1 is 0x1, but neither 1.0 nor '1'. Places and the order of keys do
  /// not count.
  bool operator==(const Node& other) const;
  bool operator!=(const Node& other) const { return !(*this == other); }

 private:
  Kind kind_ = Kind::null;
  std::string text_;
  bool quoted_ = false;
  std::vector<Node> items_;
  std::vector<Entry> entries_;
  Place place_;
  std::string path_;
};

}  // namespace polyak
