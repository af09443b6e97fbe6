// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "polyak/config/key.h"
#include "polyak/config/node.h"
#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// A member that a config gives as text, such as an enum or a device. See OptionVisitor::text().
struct TextOption {
  void* member;   // of an Options struct
  bool nullable;  // whether it accepts null
  bool numeric;   // whether a config may also write a number, as for lengths: 2000, 5%
  std::optional<std::string> (*get)(const void* member);              // empty for null
  void (*set)(void* member, const std::optional<std::string>& text);  // @throws ConfigError
};

struct Options;

/// A member that a config gives as a mapping with keys of its own. See OptionVisitor::nested().
struct NestedOption {
  void* member;                               // std::optional<an Options struct>
  const Options* (*get)(const void* member);  // null if it is not set
  Options* (*emplace)(void* member);          // sets the defaults
  void (*reset)(void* member);                // back to not set
};

/// The member that a key sets. std::optional members accept null.
using OptionValue =
    std::variant<bool*, int64_t*, double*, std::string*, std::optional<bool>*,
                 std::optional<int64_t>*, std::optional<double>*, std::optional<std::string>*,
                 std::vector<int64_t>*, std::vector<double>*, std::vector<std::string>*, Node*,
                 TextOption, NestedOption>;

namespace detail {
template <class O>
std::unique_ptr<Options> make_options() {
  return std::make_unique<O>();
}
template <auto Show, auto Parse, class Member>
struct TextMember {
  static constexpr bool kNullable = false;
  static std::optional<std::string> get(const void* member) {
    return Show(*static_cast<const Member*>(member));
  }
  static void set(void* member, const std::optional<std::string>& text) {
    *static_cast<Member*>(member) = Parse(text.value());
  }
};
template <auto Show, auto Parse, class Value>
struct TextMember<Show, Parse, std::optional<Value>> {
  static constexpr bool kNullable = true;
  static std::optional<std::string> get(const void* member) {
    const auto& value = *static_cast<const std::optional<Value>*>(member);
    return value ? std::optional<std::string>(Show(*value)) : std::nullopt;
  }
  static void set(void* member, const std::optional<std::string>& text) {
    auto& value = *static_cast<std::optional<Value>*>(member);
    value = text ? std::optional<Value>(Parse(*text)) : std::nullopt;
  }
};
}  // namespace detail

/// Visits the keys of an Options struct and may set their members: base class of the YAML reader.
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
  /// A member of type T or std::optional<T> that a config gives as text, such as an enum.
  /// `std::string Show(T)` and `T Parse(const std::string&)` convert; Parse throws ConfigError.
  /// `choices` lists the valid texts; empty: any.
  template <auto Show, auto Parse, class Member>
  void text(const char* name, Member* member, std::initializer_list<const char*> choices,
            const char* doc) {
    using Access = detail::TextMember<Show, Parse, Member>;
    choice(name, TextOption{member, Access::kNullable, false, &Access::get, &Access::set}, choices,
           doc);
  }
  /// The same for a member that a config may also give as a number, such as a length.
  template <auto Show, auto Parse, class Member>
  void number_or_text(const char* name, Member* member, const char* doc) {
    using Access = detail::TextMember<Show, Parse, Member>;
    key(name, TextOption{member, Access::kNullable, true, &Access::get, &Access::set}, doc);
  }
  /// A key whose value is of several types, which `type` names for the documentation: "integer or
  /// list of integers". Whoever reads the value checks its type and the bounds.
  void any(const char* name, Node* value, const char* type, const char* doc, Bounds bounds = {},
           bool required = false);
  /// A block, or blocks, that the registry of a kind builds; `kind` is what `polyak list` shows.
  void component(const char* name, Node* value, const char* kind, const char* doc,
                 Blocks::Form form = Blocks::Form::one);
  void required_component(const char* name, Node* value, const char* kind, const char* doc,
                          Blocks::Form form = Blocks::Form::one);
  /// A block, or blocks, with the keys of the Options struct `O`, which the owner of these options
  /// reads. `owner`: who takes the keys, for messages; null: the key.
  template <class O>
  void block(const char* name, Node* value, const char* doc, Blocks::Form form = Blocks::Form::one,
             const char* owner = nullptr) {
    blocks(name, value, doc, {form, nullptr, &detail::make_options<O>, owner}, false);
  }
  template <class O>
  void required_block(const char* name, Node* value, const char* doc,
                      Blocks::Form form = Blocks::Form::one, const char* owner = nullptr) {
    blocks(name, value, doc, {form, nullptr, &detail::make_options<O>, owner}, true);
  }
  /// A mapping with the keys of the Options struct `O`, or null.
  template <class O>
  void nested(const char* name, std::optional<O>* member, const char* doc) {
    nested(name,
           NestedOption{
               member,
               [](const void* at) -> const Options* {
                 const auto& value = *static_cast<const std::optional<O>*>(at);
                 return value ? &*value : nullptr;
               },
               [](void* at) -> Options* { return &static_cast<std::optional<O>*>(at)->emplace(); },
               [](void* at) { static_cast<std::optional<O>*>(at)->reset(); }},
           doc, &detail::make_options<O>);
  }
  /// All other keys, as a mapping. At most one call, after all others.
  void rest(Node* value, const char* doc) { visit_rest(Rest{doc}, value); }
  /// The same for keys of a component.
  void rest(Node* value, const Rest& rest) { visit_rest(rest, value); }

 protected:
  /// What all of them but rest() come down to.
  virtual void visit(const Key& key, OptionValue value) = 0;
  virtual void visit_rest(const Rest& rest, Node* value) = 0;

 private:
  void blocks(const char* name, Node* value, const char* doc, const Blocks& blocks, bool required);
  void nested(const char* name, NestedOption value, const char* doc,
              std::unique_ptr<Options> (*make)());
};

/// The current value of a key. A TextOption is shown as its text.
using ConstOptionValue =
    std::variant<const bool*, const int64_t*, const double*, const std::string*,
                 const std::optional<bool>*, const std::optional<int64_t>*,
                 const std::optional<double>*, const std::optional<std::string>*,
                 const std::vector<int64_t>*, const std::vector<double>*,
                 const std::vector<std::string>*, const Node*>;

/// Reads the keys of an Options struct and their current values: base class of the range check and
/// the documentation. Pointers are valid during the call.
class POLYAK_API OptionReader {
 public:
  virtual ~OptionReader();
  /// A key and its current value.
  virtual void key(const Key& key, ConstOptionValue value) = 0;
  /// All other keys, as a mapping.
  virtual void rest(const Rest& rest, const Node& value) = 0;
};

/// Base class of all Options structs. visit() lists the keys once: name, member, range and
/// documentation. The YAML reader, the unknown-key error, `polyak describe` and docs/reference.md
/// use that list.
struct POLYAK_API Options {
  virtual ~Options();
  /// Passes each key to the visitor.
  virtual void visit(OptionVisitor& visitor) = 0;
  /// Passes each key and its current value to the reader.
  void inspect(OptionReader& reader) const;
  /// Checks what ranges of single keys cannot express. Throws OptionError, which names a key, or
  /// ConfigError; the reader adds the place.
  virtual void validate() const {}
  /// Receives the mapping that the options were read from, or null. For options that need the place
  /// of a key later.
  virtual void keep_places(const Node& /*block*/) {}
};

/// An error in the value of one key. The reader of a config reports it at the place of that key.
class POLYAK_API OptionError : public ConfigError {
 public:
  /// The message is "key: problem". The key may name a part of a value: `exclude[1]`,
  /// `buffers[0].mode`.
  OptionError(std::string key, const std::string& problem);
  ~OptionError() override;
  /// The key whose value is wrong.
  const std::string& key() const { return key_; }
  /// The message without the key.
  const std::string& problem() const { return problem_; }

 private:
  std::string key_;
  std::string problem_;
};

/// Throws OptionError.
template <class... Args>
[[noreturn]] void fail_option(const char* key, fmt::format_string<Args...> format, Args&&... args) {
  throw OptionError(key, fmt::format(format, std::forward<Args>(args)...));
}

/// Sets options from a mapping, or from null, which sets none, and checks them. `owner` is the name
/// of the class in messages.
/// @throws ProblemsError for each unknown key (with the closest known one), wrong type, and value
/// out of range. validate() is called only if there are none.
POLYAK_API void read_options(const Node& node, Options& options, const std::string& owner);

/// Throws ConfigError with the error's problem and the place of its key in `block`, or of the part
/// above it that is there.
[[noreturn]] POLYAK_API void fail_at(const Node& block, const OptionError& error,
                                     const std::string& owner);

/// Checks ranges, choices and validate(). Constructors call it, so that the same rules hold for C++
/// callers.
/// @throws ConfigError
POLYAK_API void check_options(const Options& options, const std::string& owner);

/// A mapping of every key to its current value; read_options() restores the options from it.
POLYAK_API Node options_to_node(const Options& options);

/// A key as the documentation shows it.
struct KeyDescription {
  std::string name;  // as YAML writes it
  std::string type;  // "number", "integer", "boolean", "string", "list of integers", ..., "or null"
  std::string default_value;  // as YAML; empty if required
  std::string range;          // "in (0, 1)", "one of a, b"; empty if unrestricted
  std::string doc;            // of Key
  bool required = false;      // a config must give it
  bool rest = false;          // represents all other keys; its name is "..."
};
/// The keys in the order of visit().
POLYAK_API std::vector<KeyDescription> describe_options(const Options& options);

}  // namespace polyak
