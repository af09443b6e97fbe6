// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "polyak/config/place.h"
#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// One value of a config: null, a scalar, a sequence, or a mapping in the order of the file.
/// A value type: copies are deep and independent. Every node has a place and a key path
/// (`custom_hooks[0].momentum`), and every error it throws is a ProblemsError that
/// states both.
class POLYAK_API Node {
 public:
  /// What a node may be.
  enum class Kind { null, scalar, sequence, mapping };
  using Entry = std::pair<std::string, Node>;  // a key and its value

  Node() = default;  // null
  /// A scalar of the argument's type.
  Node(bool value);
  Node(int value);
  Node(int64_t value);
  Node(double value);
  Node(const char* value);
  Node(std::string value);
  /// A sequence or a mapping of these, in this order.
  static Node sequence(std::vector<Node> items = {});
  static Node mapping(std::vector<Entry> entries = {});
  /// A scalar as spelled in a YAML file. If `quoted`, '1', 'true' and 'null' are strings.
  static Node scalar(std::string text, bool quoted);

  /// What this is.
  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool is_scalar() const { return kind_ == Kind::scalar; }
  bool is_sequence() const { return kind_ == Kind::sequence; }
  bool is_mapping() const { return kind_ == Kind::mapping; }
  /// "null", "a boolean", "an integer", "a number", "a string", "a list" or "a mapping", for
  /// messages.
  std::string kind_name() const;

  /// The value of a scalar. Throws if it has another type: 1.5 and "1" are not integers, 1 is a
  /// number, 'yes' is not a boolean. `.nan` and `.inf` are numbers here; ranges refuse them.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  std::string as_string() const;
  bool is_bool() const;
  bool is_int() const;
  bool is_number() const;
  /// The text of a scalar as written, without quotes.
  const std::string& text() const { return text_; }
  bool quoted() const { return quoted_; }

  /// The elements of a sequence. Throws for other nodes.
  const std::vector<Node>& items() const;
  std::vector<Node>& items();
  /// The entries of a mapping in order. Throws for other nodes.
  const std::vector<Entry>& entries() const;

  /// The value of a key, or nullptr if it is absent or this node is null. Throws for scalars and
  /// lists.
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  /// The value of a key. Throws if it is absent, with the key's path and the mapping's place.
  const Node& at(std::string_view key) const;
  /// Adds or replaces an entry. A null node becomes a mapping.
  Node& set(const std::string& key, Node value);
  /// Adds an element. A null node becomes a sequence.
  void append(Node value);
  /// A copy without these keys.
  Node without(const std::vector<std::string>& keys) const;

  /// Where it was written.
  const Place& place() const { return place_; }
  void set_place(Place place) { place_ = std::move(place); }
  /// Its key path, such as `custom_hooks[0].momentum`; "" for a whole config.
  const std::string& path() const { return path_; }
  /// Sets the key path of this node and of all nodes below.
  void set_path(const std::string& path);
  /// The key path of an entry of this mapping; it need not exist.
  std::string path_of(std::string_view key) const;

  /// Throws ProblemsError: "file:line:col: key.path: message", without the parts that are unknown.
  [[noreturn]] void fail(const std::string& message) const;
  /// "file:line:col: key.path: ", without the parts that are unknown.
  std::string prefix() const;

  /// YAML text that parses to an equal node, with a newline at the end.
  std::string dump() const;
  /// Whether type and value are equal: 1 equals 0x1, but neither 1.0 nor '1'. Ignores places and
  /// the order of keys.
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
