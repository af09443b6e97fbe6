// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_values.h"

#include <map>

namespace polyak::pickle {
namespace {

class Converter {
 public:
  explicit Converter(Budget& budget) : budget_(budget) {}

  Value value_of(Node& node) {
    if (path_.depth() > kMaxDepth) {
      path_.fail_here(fmt::format("nested more than {} deep, or contains itself", kMaxDepth));
    }
    spend(1);
    if (const auto* value = node.as<bool>()) return Value(*value);
    if (const auto* value = node.as<int64_t>()) return Value(*value);
    if (const auto* value = node.as<double>()) return Value(*value);
    if (const auto* value = node.as<at::Tensor>()) return Value(*value);
    if (const auto* value = node.as<std::string>()) {
      spend(value->size());
      return Value(*value);
    }
    if (const auto* value = node.as<Sequence>()) return sequence_value(*value);
    if (const auto* value = node.as<Mapping>()) return mapping_value(*value);
    if (const auto* value = node.as<Module>()) {
      std::vector<Value::Entry> entries;
      add_tensors(*value, "", entries);
      return Value::dict(std::move(entries), /*ordered=*/true);
    }
    if (node.as<std::monostate>() != nullptr) return Value();
    if (const auto* object = node.as<Opaque>()) return opaque(object->class_name);
    if (const auto* global = node.as<Global>()) return opaque(global->dotted);
    if (node.as<Bytes>() != nullptr) return opaque("bytes");
    if (node.as<NumpyType>() != nullptr) return opaque("numpy.dtype");
    return opaque("torch.storage.TypedStorage");
  }

 private:
  void spend(size_t copies) {
    if (!budget_.spend(copies)) path_.fail_here(kTooManyCopies);
  }

  /// What the module's state_dict() would hold.
  void add_tensors(const Module& module, const std::string& prefix,
                   std::vector<Value::Entry>& entries) {
    for (const auto& [name, node] : module.members) {
      path_.push(name);
      if (path_.depth() > kMaxDepth) path_.fail_here("modules are nested too deep");
      const std::string dotted = prefix + name;
      spend(1 + dotted.size());
      if (const auto* tensor = node->as<at::Tensor>()) entries.emplace_back(dotted, *tensor);
      if (const auto* child = node->as<Module>()) add_tensors(*child, dotted + ".", entries);
      path_.pop();
    }
  }

  Value opaque(const std::string& class_name) {
    std::string shown = printable(class_name);
    spend(shown.size());
    return Value::opaque(std::move(shown));
  }

  Value sequence_value(const Sequence& sequence) {
    std::vector<Value> items;
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      path_.push(static_cast<int64_t>(i));
      items.push_back(value_of(*sequence.items[i]));
      path_.pop();
    }
    if (sequence.kind == Value::Kind::set) return Value::set_of(std::move(items));
    return sequence.kind == Value::Kind::tuple ? Value::tuple(std::move(items))
                                               : Value::list(std::move(items));
  }

  Value mapping_value(const Mapping& mapping) {
    std::vector<Value::Entry> entries;
    std::map<std::variant<int64_t, std::string_view>, size_t> places;
    for (const auto& [key, item] : mapping.entries) {
      size_t place = entries.size();
      if (const auto* text = key->as<std::string>()) {
        path_.push(*text);
        place = places.try_emplace(*text, place).first->second;
      } else if (const auto* number = key->as<int64_t>()) {
        path_.push(*number);
        place = places.try_emplace(*number, place).first->second;
      } else {
        return opaque("a dict with keys that are neither str nor int");
      }
      if (place == entries.size()) entries.emplace_back(value_of(*key), Value());
      entries[place].second = value_of(*item);  // the last of equal keys counts, as in Python
      path_.pop();
    }
    return Value::dict(std::move(entries), mapping.ordered);
  }

  Budget& budget_;
  KeyPath path_;
};

}  // namespace

Value to_value(Node& root, Budget& budget) {
  return Converter(budget).value_of(root);
}

}  // namespace polyak::pickle
