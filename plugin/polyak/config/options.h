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

/// A pointer to the member that a key sets. std::optional members take null.
using OptionValue =
    std::variant<bool*, int64_t*, double*, std::string*, std::optional<bool>*,
                 std::optional<int64_t>*, std::optional<double>*, std::optional<std::string>*,
                 std::vector<int64_t>*, std::vector<double>*, std::vector<std::string>*, Node*>;

/// What walks over the keys of an Options struct: the YAML reader, the range check, the
/// documentation.
class POLYAK_API OptionVisitor {
 public:
  virtual ~OptionVisitor();
  void key(const char* name, OptionValue value, const char* doc, Bounds bounds = {});
  void choice(const char* name, OptionValue value, std::initializer_list<const char*> choices,
              const char* doc);
  /// As key(), and a config must give it.
  void required(const char* name, OptionValue value, const char* doc, Bounds bounds = {});
  /// Every key that no other line claims, as a mapping. At most one, and the last.
  virtual void rest(Node* value, const char* doc) = 0;

 protected:
  virtual void visit(const Key& key, OptionValue value) = 0;
};

/// Base of every Options struct. Lists its keys once: name, member, range, one line of prose. The
/// reader, the unknown-key error, `polyak describe`, the JSON schema and docs/reference all come
/// from that list.
struct POLYAK_API Options {
  virtual ~Options();
  virtual void visit(OptionVisitor& visitor) = 0;
  /// What ranges of single keys cannot say. Throws ConfigError; the reader adds the place.
  virtual void validate() const {}
};

/// Sets options from a mapping (null: nothing to set) and checks them. `owner` names the class in
/// messages.
/// @throws ConfigError for an unknown key (with the nearest known one), a wrong type, a value out
/// of range.
POLYAK_API void read_options(const Node& node, Options& options, const std::string& owner);

/// Checks ranges, choices and validate(): what constructors call, so that C++ callers meet the same
/// rules.
POLYAK_API void check_options(const Options& options, const std::string& owner);

/// The mapping that would rebuild these options: every key with its present value.
POLYAK_API Node options_to_node(const Options& options);

/// A key as documentation shows it.
struct KeyDescription {
  std::string name;
  std::string type;  // "number", "integer", "boolean", "string", "list of integers", ..., "or null"
  std::string default_value;  // as YAML; empty when required
  std::string range;          // "in (0, 1)", "one of a, b"; empty when free
  std::string doc;
  bool required = false;
  bool rest = false;  // stands for every other key; its name is "..."
};
POLYAK_API std::vector<KeyDescription> describe_options(const Options& options);

}  // namespace polyak
