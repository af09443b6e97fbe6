// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/value.h"

#include <algorithm>

namespace polyak {
namespace {

constexpr size_t kKeysInMessage = 12;

std::string key_text(const Value& key) {
  return key.kind() == Value::Kind::integer ? fmt::format("{}", key.as_int())
                                            : fmt::format("'{}'", key.as_string());
}

void check_key(const Value& key) {
  if (key.kind() != Value::Kind::string && key.kind() != Value::Kind::integer) {
    fail<CheckpointError>("a key of a dict must be a str or an int, not a {}", key.kind_name());
  }
}

bool same_key(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.kind() == Value::Kind::string) return a.as_string() == b.as_string();
  return a.kind() == Value::Kind::integer && a.as_int() == b.as_int();
}

std::string keys_text(const std::vector<Value::Entry>& entries) {
  if (entries.empty()) return "the dict is empty";
  std::string text = "the keys are: ";
  const size_t shown = std::min(entries.size(), kKeysInMessage);
  for (size_t i = 0; i < shown; ++i) {
    text += (i == 0 ? "" : ", ") + key_text(entries[i].first);
  }
  if (shown < entries.size()) text += fmt::format(" and {} more", entries.size() - shown);
  return text;
}

[[noreturn]] void fail_kind(const char* wanted, const Value& value) {
  if (value.is_opaque()) {
    fail<CheckpointError>("expected {}, found an object that only Python can read: {}", wanted,
                          value.type_name());
  }
  fail<CheckpointError>("expected {}, found {}", wanted, value.kind_name());
}

}  // namespace

Value::Value(bool value) : data_(value) {}
Value::Value(int value) : data_(static_cast<int64_t>(value)) {}
Value::Value(int64_t value) : data_(value) {}
Value::Value(double value) : data_(value) {}
Value::Value(const char* value) : data_(std::string(value)) {}
Value::Value(std::string value) : data_(std::move(value)) {}
Value::Value(at::Tensor value) : data_(std::move(value)) {}

Value Value::list(std::vector<Value> items) {
  Value value;
  value.data_ = List{std::move(items), Kind::list};
  return value;
}

Value Value::tuple(std::vector<Value> items) {
  Value value;
  value.data_ = List{std::move(items), Kind::tuple};
  return value;
}

Value Value::set_of(std::vector<Value> items) {
  Value value;
  value.data_ = List{std::move(items), Kind::set};
  return value;
}

Value Value::dict(std::vector<Entry> entries, bool ordered) {
  for (const auto& entry : entries) check_key(entry.first);
  Value value;
  value.data_ = Dict{std::move(entries), ordered};
  return value;
}

Value Value::opaque(std::string class_name) {
  Value value;
  value.data_ = Opaque{std::move(class_name)};
  return value;
}

Value::Kind Value::kind() const {
  // The alternatives of data_ are in the order of Kind, but list, tuple and set share one.
  if (const auto* list = std::get_if<List>(&data_)) return list->kind;
  if (std::holds_alternative<Dict>(data_)) return Kind::dict;
  if (std::holds_alternative<Opaque>(data_)) return Kind::opaque;
  return static_cast<Kind>(data_.index());
}

const char* Value::kind_name() const {
  switch (kind()) {
    case Kind::none:
      return "None";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return "str";
    case Kind::tensor:
      return "Tensor";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::dict:
      return "dict";
    case Kind::set:
      return "set";
    case Kind::opaque:
      break;
  }
  return type_name().c_str();
}

bool Value::as_bool() const {
  if (const auto* value = std::get_if<bool>(&data_)) return *value;
  fail_kind("bool", *this);
}

int64_t Value::as_int() const {
  if (const auto* value = std::get_if<int64_t>(&data_)) return *value;
  fail_kind("int", *this);
}

double Value::as_real() const {
  if (const auto* value = std::get_if<double>(&data_)) return *value;
  if (const auto* value = std::get_if<int64_t>(&data_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<at::Tensor>(&data_)) {
    if (value->dim() == 0 && value->is_floating_point()) return value->item<double>();
  }
  fail_kind("float", *this);
}

const std::string& Value::as_string() const {
  if (const auto* value = std::get_if<std::string>(&data_)) return *value;
  fail_kind("str", *this);
}

const at::Tensor& Value::as_tensor() const {
  if (const auto* value = std::get_if<at::Tensor>(&data_)) return *value;
  fail_kind("Tensor", *this);
}

const std::vector<Value>& Value::items() const {
  if (const auto* value = std::get_if<List>(&data_)) return value->items;
  fail_kind("list, tuple or set", *this);
}

std::vector<Value>& Value::items() {
  return const_cast<std::vector<Value>&>(std::as_const(*this).items());
}

const std::vector<Value::Entry>& Value::entries() const {
  if (const auto* value = std::get_if<Dict>(&data_)) return value->entries;
  fail_kind("dict", *this);
}

std::vector<Value::Entry>& Value::entries() {
  return const_cast<std::vector<Entry>&>(std::as_const(*this).entries());
}

bool Value::ordered() const {
  if (const auto* value = std::get_if<Dict>(&data_)) return value->ordered;
  fail_kind("dict", *this);
}

const std::string& Value::type_name() const {
  if (const auto* value = std::get_if<Opaque>(&data_)) return value->class_name;
  fail_kind("an opaque object", *this);
}

const Value* Value::find(const Value& key) const {
  check_key(key);
  for (const auto& entry : entries()) {
    if (same_key(entry.first, key)) return &entry.second;
  }
  return nullptr;
}

Value* Value::find(const Value& key) {
  return const_cast<Value*>(std::as_const(*this).find(key));
}

const Value& Value::at(const Value& key) const {
  if (const Value* value = find(key)) return *value;
  fail<CheckpointError>("no key {}; {}", key_text(key), keys_text(entries()));
}

Value& Value::at(const Value& key) {
  return const_cast<Value&>(std::as_const(*this).at(key));
}

Value& Value::set(const Value& key, Value value) {
  if (Value* old = find(key)) return *old = std::move(value);
  return entries().emplace_back(key, std::move(value)).second;
}

bool Value::erase(const Value& key) {
  check_key(key);
  auto& all = entries();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Entry& entry) { return same_key(entry.first, key); });
  if (found == all.end()) return false;
  all.erase(found);
  return true;
}

}  // namespace polyak
