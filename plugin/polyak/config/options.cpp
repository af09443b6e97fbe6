// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/options.h"

namespace polyak {

namespace {

/// Shows an OptionReader what visit() offers to be set.
class ReadOnly : public OptionVisitor {
 public:
  explicit ReadOnly(OptionReader& reader) : reader_(reader) {}

 protected:
  void visit(const Key& key, OptionValue value) override {
    std::visit([&](const auto& member) { show(key, member); }, value);
  }
  void visit_rest(const Rest& rest, Node* value) override { reader_.rest(rest, *value); }

 private:
  template <class T>
  void show(const Key& key, const T* member) {
    reader_.key(key, member);
  }
  void show(const Key& key, const TextOption& option) {
    const std::optional<std::string> text = option.get(option.member);
    if (option.numeric) {
      const Node node = text ? Node::scalar(*text, false) : Node();
      Key typed = key;
      typed.type = option.nullable ? "length or null" : "length";
      return reader_.key(typed, &node);
    }
    option.nullable ? reader_.key(key, &text) : reader_.key(key, &text.value());
  }
  void show(const Key& key, const NestedOption& option) {
    const Options* const value = option.get(option.member);
    const Node node = value ? options_to_node(*value) : Node();
    Key typed = key;
    typed.type = "mapping or null";
    reader_.key(typed, &node);
  }

  OptionReader& reader_;
};

}  // namespace

OptionVisitor::~OptionVisitor() = default;
OptionReader::~OptionReader() = default;
Options::~Options() = default;

void Options::inspect(OptionReader& reader) const {
  ReadOnly visitor(reader);
  const_cast<Options*>(this)->visit(visitor);  // ReadOnly changes nothing, by its type
}

OptionError::OptionError(std::string key, const std::string& problem)
    : ConfigError(fmt::format("{}: {}", key, problem)), key_(std::move(key)), problem_(problem) {}
OptionError::~OptionError() = default;

void OptionVisitor::key(const char* name, OptionValue value, const char* doc, Bounds bounds) {
  visit(Key{name, doc, bounds, {}, false, nullptr, {}}, value);
}

void OptionVisitor::choice(const char* name, OptionValue value,
                           std::initializer_list<const char*> choices, const char* doc) {
  visit(Key{name, doc, {}, {choices.begin(), choices.end()}, false, nullptr, {}}, value);
}

void OptionVisitor::required(const char* name, OptionValue value, const char* doc, Bounds bounds) {
  visit(Key{name, doc, bounds, {}, true, nullptr, {}}, value);
}

void OptionVisitor::any(const char* name, Node* value, const char* type, const char* doc,
                        Bounds bounds, bool required) {
  visit(Key{name, doc, bounds, {}, required, type, {}}, value);
}

void OptionVisitor::component(const char* name, Node* value, const char* kind, const char* doc,
                              Blocks::Form form) {
  blocks(name, value, doc, {form, kind, nullptr, nullptr}, false);
}

void OptionVisitor::required_component(const char* name, Node* value, const char* kind,
                                       const char* doc, Blocks::Form form) {
  blocks(name, value, doc, {form, kind, nullptr, nullptr}, true);
}

void OptionVisitor::blocks(const char* name, Node* value, const char* doc, const Blocks& blocks,
                           bool required) {
  visit(Key{name, doc, {}, {}, required, nullptr, blocks}, value);
}

void OptionVisitor::nested(const char* name, NestedOption value, const char* doc,
                           std::unique_ptr<Options> (*make)()) {
  visit(Key{name, doc, {}, {}, false, nullptr, {Blocks::Form::one, nullptr, make, nullptr}}, value);
}

}  // namespace polyak
