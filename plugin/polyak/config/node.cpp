// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/node.h"

#include <algorithm>
#include <cmath>

#include "polyak/config/problems.h"
#include "polyak/config/scalar.h"

namespace polyak {
namespace {

ScalarType type_of(const Node& scalar) {
  return scalar.quoted() ? ScalarType::string : scalar_type(scalar.text());
}

bool is_string(const Node& node) {
  return node.is_scalar() && type_of(node) == ScalarType::string;
}

// The text after "got" in messages.
std::string shown(const Node& node) {
  if (is_string(node)) return fmt::format("the string '{}'", node.text());
  return node.is_scalar() ? node.text() : node.kind_name();
}

[[noreturn]] void fail_type(const Node& node, const char* wanted) {
  node.fail(fmt::format("must be {}, got {}", wanted, shown(node)));
}

// As above, for scalars. Adds a hint if the value is only wrong because of its quotes.
[[noreturn]] void fail_scalar(const Node& node, const char* wanted,
                              std::initializer_list<ScalarType> types) {
  const bool right_unquoted = node.quoted() && std::find(types.begin(), types.end(),
                                                         scalar_type(node.text())) != types.end();
  node.fail(fmt::format("must be {}, got {}{}", wanted, shown(node),
                        right_unquoted ? "; drop the quotes" : ""));
}

bool same_number(double a, double b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

bool same_scalar(const Node& a, const Node& b) {
  const ScalarType type = type_of(a);
  if (type != type_of(b)) return false;
  if (a.text() == b.text()) return true;
  switch (type) {
    case ScalarType::boolean:
      return a.as_bool() == b.as_bool();
    case ScalarType::integer: {
      const auto first = parse_integer(a.text());
      return first && first == parse_integer(b.text());
    }
    case ScalarType::number: {
      const auto first = parse_number(a.text()), second = parse_number(b.text());
      return first && second && same_number(*first, *second);
    }
    default:
      return false;
  }
}

bool same_mapping(const Node& a, const Node& b) {
  if (a.entries().size() != b.entries().size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const Node* other = b.find(key);
    if (!other || *other != value) return false;
  }
  return true;
}

}  // namespace

Node::Node(bool value) : kind_(Kind::scalar), text_(value ? "true" : "false") {}
Node::Node(int value) : Node(static_cast<int64_t>(value)) {}
Node::Node(int64_t value) : kind_(Kind::scalar), text_(fmt::format("{}", value)) {}
Node::Node(double value) : kind_(Kind::scalar), text_(number_text(value)) {}
Node::Node(const char* value) : Node(std::string(value)) {}
Node::Node(std::string value) : kind_(Kind::scalar), text_(std::move(value)), quoted_(true) {}

Node Node::sequence(std::vector<Node> items) {
  Node node;
  node.kind_ = Kind::sequence;
  node.items_ = std::move(items);
  node.set_path("");
  return node;
}

Node Node::mapping(std::vector<Entry> entries) {
  Node node;
  node.kind_ = Kind::mapping;
  for (Entry& entry : entries) node.set(entry.first, std::move(entry.second));
  return node;
}

Node Node::scalar(std::string text, bool quoted) {
  Node node;
  if (!quoted && scalar_type(text) == ScalarType::null) return node;
  node.kind_ = Kind::scalar;
  node.text_ = std::move(text);
  node.quoted_ = quoted;
  return node;
}

std::string Node::kind_name() const {
  if (is_null()) return "null";
  if (is_sequence()) return "a list";
  if (is_mapping()) return "a mapping";
  if (is_bool()) return "a boolean";
  if (is_int()) return "an integer";
  return is_number() ? "a number" : "a string";
}

bool Node::is_bool() const {
  return is_scalar() && type_of(*this) == ScalarType::boolean;
}
bool Node::is_int() const {
  return is_scalar() && type_of(*this) == ScalarType::integer;
}
bool Node::is_number() const {
  return is_int() || (is_scalar() && type_of(*this) == ScalarType::number);
}

bool Node::as_bool() const {
  if (!is_bool()) fail_scalar(*this, "true or false", {ScalarType::boolean});
  return text_[0] == 't' || text_[0] == 'T';
}

int64_t Node::as_int() const {
  if (!is_int()) fail_scalar(*this, "an integer", {ScalarType::integer});
  const auto value = parse_integer(text_);
  if (!value) fail(fmt::format("must be an integer that fits in 64 bits, got {}", text_));
  return *value;
}

double Node::as_double() const {
  if (!is_number()) fail_scalar(*this, "a number", {ScalarType::integer, ScalarType::number});
  const auto value = parse_number(text_);
  if (!value) fail(fmt::format("must be a number that a double can hold, got {}", text_));
  return *value;
}

std::string Node::as_string() const {
  if (is_scalar() && !is_string(*this)) {
    fail(fmt::format("must be a string, got {}; put it in quotes: '{}'", text_, text_));
  }
  if (!is_scalar()) fail_type(*this, "a string");
  return text_;
}

const std::vector<Node>& Node::items() const {
  if (!is_sequence()) fail_type(*this, "a list");
  return items_;
}

std::vector<Node>& Node::items() {
  if (!is_sequence()) fail_type(*this, "a list");
  return items_;
}

const std::vector<Node::Entry>& Node::entries() const {
  if (!is_mapping()) fail_type(*this, "a mapping");
  return entries_;
}

const Node* Node::find(std::string_view key) const {
  if (is_null()) return nullptr;
  for (const auto& [name, value] : entries()) {
    if (name == key) return &value;
  }
  return nullptr;
}

Node* Node::find(std::string_view key) {
  return const_cast<Node*>(static_cast<const Node*>(this)->find(key));
}

const Node& Node::at(std::string_view key) const {
  if (const Node* value = find(key)) return *value;
  Node missing;
  missing.place_ = place_;
  missing.path_ = path_of(key);
  missing.fail("is missing");
}

Node& Node::set(const std::string& key, Node value) {
  if (is_null()) kind_ = Kind::mapping;
  value.set_path(path_of(key));
  if (Node* present = find(key)) return *present = std::move(value);
  return entries_.emplace_back(key, std::move(value)).second;
}

void Node::append(Node value) {
  if (is_null()) kind_ = Kind::sequence;
  value.set_path(fmt::format("{}[{}]", path_, items().size()));
  items_.push_back(std::move(value));
}

Node Node::without(const std::vector<std::string>& keys) const {
  Node copy = *this;
  auto unwanted = [&](const Entry& entry) {
    return std::find(keys.begin(), keys.end(), entry.first) != keys.end();
  };
  auto& entries = copy.entries_;
  entries.erase(std::remove_if(entries.begin(), entries.end(), unwanted), entries.end());
  return copy;
}

void Node::set_path(const std::string& path) {
  path_ = path;
  for (size_t i = 0; i < items_.size(); ++i) items_[i].set_path(fmt::format("{}[{}]", path_, i));
  for (auto& [key, value] : entries_) value.set_path(path_of(key));
}

std::string Node::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void Node::fail(const std::string& message) const {
  throw ProblemsError({Problem{place_, path_, message, prefix() + message}});
}

std::string Node::prefix() const {
  std::string text;
  if (place_.line > 0) {
    text = fmt::format("{}:{}:{}: ", place_.file, place_.line, place_.column);
  } else if (!place_.file.empty()) {
    text = fmt::format("{}: ", place_.file);
  }
  return path_.empty() ? text : fmt::format("{}{}: ", text, path_);
}

bool Node::operator==(const Node& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::scalar:
      return same_scalar(*this, other);
    case Kind::sequence:
      return items_ == other.items_;
    case Kind::mapping:
      return same_mapping(*this, other);
    default:
      return true;
  }
}

}  // namespace polyak
