// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/options.h"

namespace polyak {
namespace {

template <class T>
Node to_node(const T& value) {
  return Node(value);
}

template <class T>
Node to_node(const std::optional<T>& value) {
  return value ? Node(*value) : Node();
}

template <class T>
Node to_node(const std::vector<T>& values) {
  return Node::sequence(std::vector<Node>(values.begin(), values.end()));
}

Node present_value(const ConstOptionValue& present) {
  return std::visit([](const auto* value) { return to_node(*value); }, present);
}

class Writer : public OptionReader {
 public:
  Node node = Node::mapping();

  void key(const Key& key, ConstOptionValue value) override {
    node.set(key.name, present_value(value));
  }
  void rest(const Rest&, const Node& value) override {
    if (value.is_null()) return;
    for (const auto& [name, entry] : value.entries()) node.set(name, entry);
  }
};

std::string type_name(const bool*) {
  return "boolean";
}
std::string type_name(const int64_t*) {
  return "integer";
}
std::string type_name(const double*) {
  return "number";
}
std::string type_name(const std::string*) {
  return "string";
}
std::string type_name(const Node*) {
  return "any";
}

template <class T>
std::string type_name(const std::optional<T>*) {
  return fmt::format("{} or null", type_name(static_cast<const T*>(nullptr)));
}

template <class T>
std::string type_name(const std::vector<T>*) {
  return fmt::format("list of {}s", type_name(static_cast<const T*>(nullptr)));
}

// What stands below a key, by the kind's name: "hook", "list of hooks".
std::string type_of_blocks(const Key& key) {
  const std::string one = key.blocks.kind ? key.blocks.kind : "mapping";
  switch (key.blocks.form) {
    case Blocks::Form::one_or_text:
      return one + " or string";
    case Blocks::Form::one_or_list:
      return fmt::format("{0} or list of {0}s", one);
    case Blocks::Form::list:
      return fmt::format("list of {}s", one);
    case Blocks::Form::list_of_lists:
      return fmt::format("list of lists of {}s", one);
    case Blocks::Form::by_name:
      return fmt::format("{}s by name", one);
    default:
      return one;
  }
}

std::string type_text(const Key& key, const ConstOptionValue& value) {
  if (key.type) return key.type;
  if (key.blocks.form == Blocks::Form::none) {
    return std::visit([](const auto* member) { return type_name(member); }, value);
  }
  const bool nullable = !key.required && present_value(value).is_null();
  return type_of_blocks(key) + (nullable ? " or null" : "");
}

std::string default_text(const ConstOptionValue& value) {
  std::string text = present_value(value).dump();
  text.pop_back();  // the newline
  return text;
}

class Describer : public OptionReader {
 public:
  std::vector<KeyDescription> keys;

  void rest(const Rest& rest, const Node&) override {
    KeyDescription description;
    description.name = "...";
    description.type = "any";
    description.doc = rest.doc;
    description.rest = true;
    keys.push_back(std::move(description));
  }

  void key(const Key& key, ConstOptionValue value) override {
    KeyDescription description;
    description.name = key.name;
    description.type = type_text(key, value);
    if (!key.required) description.default_value = default_text(value);
    description.range = key.choices.empty()
                            ? key.bounds.text()
                            : fmt::format("one of {}", fmt::join(key.choices, ", "));
    description.doc = key.doc;
    description.required = key.required;
    keys.push_back(std::move(description));
  }
};

}  // namespace

Node options_to_node(const Options& options) {
  Writer writer;
  options.inspect(writer);
  return writer.node;
}

std::vector<KeyDescription> describe_options(const Options& options) {
  Describer describer;
  options.inspect(describer);
  return describer.keys;
}

}  // namespace polyak
