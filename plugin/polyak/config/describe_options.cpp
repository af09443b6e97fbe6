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
  void rest(const Node& value, const char*) override {
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

std::string default_text(const ConstOptionValue& value) {
  std::string text = present_value(value).dump();
  text.pop_back();  // the newline
  return text;
}

class Describer : public OptionReader {
 public:
  std::vector<KeyDescription> keys;

  void rest(const Node&, const char* doc) override {
    KeyDescription description;
    description.name = "...";
    description.type = "any";
    description.doc = doc;
    description.rest = true;
    keys.push_back(std::move(description));
  }

  void key(const Key& key, ConstOptionValue value) override {
    KeyDescription description;
    description.name = key.name;
    description.type =
        key.type ? key.type
                 : std::visit([](const auto* member) { return type_name(member); }, value);
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
