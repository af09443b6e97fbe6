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

Node present_value(const OptionValue& target) {
  return std::visit([](const auto* value) { return to_node(*value); }, target);
}

class Writer : public OptionVisitor {
 public:
  Node node = Node::mapping();

  void rest(Node* value, const char*) override {
    if (value->is_null()) return;
    for (const auto& [name, entry] : value->entries()) node.set(name, entry);
  }

 protected:
  void visit(const Key& key, OptionValue target) override {
    node.set(key.name, present_value(target));
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

std::string default_text(const OptionValue& target) {
  std::string text = present_value(target).dump();
  text.pop_back();  // the newline
  return text;
}

class Describer : public OptionVisitor {
 public:
  std::vector<KeyDescription> keys;

  void rest(Node*, const char* doc) override {
    KeyDescription description;
    description.name = "...";
    description.type = "any";
    description.doc = doc;
    description.rest = true;
    keys.push_back(std::move(description));
  }

 protected:
  void visit(const Key& key, OptionValue target) override {
    KeyDescription description;
    description.name = key.name;
    description.type = std::visit([](const auto* value) { return type_name(value); }, target);
    if (!key.required) description.default_value = default_text(target);
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
  const_cast<Options&>(options).visit(writer);  // the writer changes nothing
  return writer.node;
}

std::vector<KeyDescription> describe_options(const Options& options) {
  Describer describer;
  const_cast<Options&>(options).visit(describer);  // the describer changes nothing
  return describer.keys;
}

}  // namespace polyak
