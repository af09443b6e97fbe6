// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "polyak/config/key.h"
#include "polyak/config/node.h"

namespace polyak {

/// A pointer to the member that a key sets. std::optional members accept null.
using OptionValue =
    std::variant<bool*, int64_t*, double*, std::string*, std::optional<bool>*,
                 std::optional<int64_t>*, std::optional<double>*, std::optional<std::string>*,
                 std::vector<int64_t>*, std::vector<double>*, std::vector<std::string>*, Node*>;

/// Visits the keys of an Options struct: base class of the YAML reader, the range check and the
/// documentation.
class POLYAK_API OptionVisitor {
 public:
  virtual ~OptionVisitor();
  /// A key, the member it sets, its documentation and its range.
  void key(const char* name, OptionValue value, const char* doc, Bounds bounds = {});
  /// A key whose value is one of a few strings.
  void choice(const char* name, OptionValue value, std::initializer_list<const char*> choices,
              const char* doc);
  /// Like key(), but a config must set it.
  void required(const char* name, OptionValue value, const char* doc, Bounds bounds = {});
  /// All other keys, as a mapping. At most one call, after all others.
  virtual void rest(Node* value, const char* doc) = 0;

 protected:
  virtual void visit(const Key& key, OptionValue value) = 0;
};

/// Base class of all Options structs. visit() lists the keys once: name, member, range and
/// documentation. The YAML reader, the unknown-key error, `polyak describe` and docs/reference.md
/// use that list.
struct POLYAK_API Options {
  virtual ~Options();
  /// Passes each key to the visitor.
  virtual void visit(OptionVisitor& visitor) = 0;
  /// Checks what ranges of single keys cannot express. Throws ConfigError; the reader adds the
  /// place.
  virtual void validate() const {}
};

/// Sets options from a mapping, or from null, which sets none, and checks them. `owner` is the name
/// of the class in messages.
/// @throws ConfigError for an unknown key (with the closest known one), a wrong type, or a value
/// out of range.
POLYAK_API void read_options(const Node& node, Options& options, const std::string& owner);

/// Checks ranges, choices and validate(). Constructors call it, so that the same rules hold for C++
/// callers.
/// @throws ConfigError
POLYAK_API void check_options(const Options& options, const std::string& owner);

/// A mapping of every key to its current value; read_options() restores the options from it.
POLYAK_API Node options_to_node(const Options& options);

/// A key as the documentation shows it.
struct KeyDescription {
  std::string name;
  std::string type;  // "number", "integer", "boolean", "string", "list of integers", ..., "or null"
  std::string default_value;  // as YAML; empty if required
  std::string range;          // "in (0, 1)", "one of a, b"; empty if unrestricted
  std::string doc;
  bool required = false;
  bool rest = false;  // represents all other keys; its name is "..."
};
/// The keys in the order of visit().
POLYAK_API std::vector<KeyDescription> describe_options(const Options& options);

}  // namespace polyak
