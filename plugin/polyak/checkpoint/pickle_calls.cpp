// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_calls.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "polyak/core/error.h"

namespace polyak::pickle {
namespace {

/// LibTorch's operators support no more.
constexpr size_t kMaxDimensions = 64;

[[noreturn]] void damaged(const char* what) {
  throw Damage{what};
}

/// A function that creates objects of other classes gets the class first.
std::string class_of(const Global& function, const std::vector<Node*>& arguments) {
  const auto* const first = arguments.empty() ? nullptr : arguments[0]->as<Global>();
  return first != nullptr && first->name == Name::foreign ? first->dotted : function.dotted;
}

std::vector<int64_t> ints(Node* node) {
  const auto* const sequence = node->as<Sequence>();
  if (sequence == nullptr) damaged("a shape that is not a tuple");
  // Checked before the loop: a pickle may use one long list for many shapes.
  if (sequence->items.size() > kMaxDimensions) {
    fail<CheckpointError>("a shape of {} dimensions; the limit is {}", sequence->items.size(),
                          kMaxDimensions);
  }
  std::vector<int64_t> values;
  for (Node* const item : sequence->items) values.push_back(integer(item));
  return values;
}

bool has_flag(Node& metadata, std::string_view name) {
  const auto* const mapping = metadata.as<Mapping>();
  if (mapping == nullptr || mapping->entries.size() > 2) damaged("an invalid tensor");
  return std::any_of(mapping->entries.begin(), mapping->entries.end(), [&](const auto& entry) {
    const auto* const key = entry.first->template as<std::string>();
    const auto* const value = entry.second->template as<bool>();
    return key != nullptr && *key == name && value != nullptr && *value;
  });
}

at::Tensor strided(const StoredElements& stored, c10::ScalarType dtype,
                   const std::vector<Node*>& items) {
  const int64_t offset = integer(items[1]);
  const auto sizes = ints(items[2]);
  const auto strides = ints(items[3]);
  const auto needed = elements_needed(offset, sizes, strides);
  const auto [first, held] = stored.part.value_or(std::pair<int64_t, int64_t>(
      0, static_cast<int64_t>(stored.storage.nbytes() / c10::elementSize(dtype))));
  if (!needed) {
    fail<CheckpointError>("a tensor of impossible shape: size [{}], stride [{}], offset {}",
                          fmt::join(sizes, ", "), fmt::join(strides, ", "), offset);
  }
  if (*needed > held) {
    fail<CheckpointError>("a tensor needs {} elements, but its storage has {}", *needed, held);
  }
  return at::empty({0}, at::TensorOptions().dtype(dtype))
      .set_(stored.storage, first + offset, sizes, strides);
}

/// The entry of a dict, if that is a dict itself.
Mapping* find_mapping(Mapping& mapping, std::string_view name) {
  for (const auto& [key, value] : mapping.entries) {
    const auto* const text = key->as<std::string>();
    if (text != nullptr && *text == name) return value->as<Mapping>();
  }
  return nullptr;
}

/// How many entries as_module() looks at.
size_t size_of_state(const Mapping& attributes) {
  size_t size = attributes.entries.size();
  for (const auto& [key, value] : attributes.entries) {
    if (const auto* const members = value->as<Mapping>()) size += members->entries.size();
  }
  return size;
}

/// The state of an object, if it is that of a module: nothing else has these attributes.
std::optional<Module> as_module(const std::string& class_name, Node* state) {
  auto* const attributes = state->as<Mapping>();
  if (attributes == nullptr) return std::nullopt;
  Module module;
  const auto add_members = [&](const Mapping& members) {
    for (const auto& [key, value] : members.entries) {
      const auto* const name = key->as<std::string>();
      const bool is_member = value->as<at::Tensor>() != nullptr || value->as<Module>() != nullptr;
      if (name != nullptr && is_member) module.members.emplace_back(*name, value);
    }
  };
  if (class_name.rfind("__torch__.", 0) == 0) {  // TorchScript
    add_members(*attributes);
    return module;
  }
  const auto* const parameters = find_mapping(*attributes, "_parameters");
  const auto* const buffers = find_mapping(*attributes, "_buffers");
  const auto* const children = find_mapping(*attributes, "_modules");
  if (parameters == nullptr || buffers == nullptr || children == nullptr) return std::nullopt;
  for (const Mapping* members : {parameters, buffers, children}) add_members(*members);
  return module;
}

}  // namespace

int64_t integer(Node* node) {
  if (const auto* value = node->as<int64_t>()) return *value;
  damaged("a number that is not an int");
}

void Calls::spend(size_t copies) const {
  if (!budget_.spend(copies)) fail<CheckpointError>(kTooManyCopies);
}

Node* Calls::call(Node* callable, Node* argument_tuple) {
  const auto* const arguments = argument_tuple->as<Sequence>();
  if (arguments == nullptr || arguments->kind != Value::Kind::tuple) {
    damaged("a call without a tuple of arguments");
  }
  if (const auto* object = callable->as<Opaque>()) return make(Opaque{object->class_name});
  const auto* const function = callable->as<Global>();
  if (function == nullptr) damaged("a call of an object that is not callable");
  const auto& items = arguments->items;
  switch (function->name) {
    case Name::foreign:
      return make(Opaque{class_of(*function, items)});
    case Name::maker:
      return make(Opaque{function->dotted});
    case Name::ordered_dict:
      return make_ordered_dict(items);
    case Name::counter:
      return make_counter(items);
    case Name::default_dict:
      return make(Mapping{{}, false});
    case Name::set:
      return make_set(items);
    case Name::encode:
      return make_bytes(items);
    case Name::bytes:
      return make(Bytes{});
    case Name::rebuild_tensor_v1:
      return make_first_tensor(items);
    case Name::rebuild_tensor:
    case Name::rebuild_tensor_v3:
      return make_tensor(items, function->name == Name::rebuild_tensor_v3);
    case Name::rebuild_parameter:
      if (items.size() < 3) damaged("an invalid parameter");
      return items[0];  // a tensor, or what stands for one
    case Name::rebuild_from_type: {
      // (function, type, arguments, state): a tensor with attributes, or of a subclass.
      if (items.size() != 4) damaged("an invalid tensor");
      if (++nested_calls_ > kMaxDepth) damaged("a tensor of a type of a type");
      Node* const made = call(items[0], items[2]);
      --nested_calls_;
      return made;
    }
    case Name::size:
      if (items.size() != 1) damaged("an invalid torch.Size");
      return make_size(ints(items[0]));
    case Name::numpy_dtype:
      return make_numpy_type(items);
    case Name::numpy_scalar:
      return make_numpy_scalar(items);
    case Name::storage:
      break;
  }
  damaged("a call of a storage class");
}

void Calls::build(Node* object, Node* state) {
  if (const auto* const opaque = object->as<Opaque>()) {
    // Many objects may have one state.
    if (const auto* const attributes = state->as<Mapping>()) spend(size_of_state(*attributes));
    if (std::optional<Module> module = as_module(opaque->class_name, state)) {
      object->data = std::move(*module);
    }
    return;
  }
  if (auto* const type = object->as<NumpyType>()) {
    const auto* const items = state->as<Sequence>();
    const auto* const order =
        items == nullptr || items->items.size() < 2 ? nullptr : items->items[1]->as<std::string>();
    type->big_endian = order != nullptr && *order == ">";
    return;
  }
  // The `_metadata` of a state_dict, or the attributes of a tensor: not needed.
  const auto* const mapping = object->as<Mapping>();
  const bool has_attributes =
      mapping != nullptr ? mapping->ordered : object->as<at::Tensor>() != nullptr;
  if (!has_attributes) damaged("attributes for an object that has none");
}

Node* Calls::make_ordered_dict(const Arguments& arguments) {
  Mapping mapping{{}, true};
  if (arguments.size() > 1) damaged("an invalid OrderedDict");
  if (!arguments.empty()) {  // pairs, as Python 2 wrote it
    const auto* const pairs = arguments[0]->as<Sequence>();
    if (pairs == nullptr) damaged("an invalid OrderedDict");
    spend(pairs->items.size());
    for (Node* const item : pairs->items) {
      const auto* const pair = item->as<Sequence>();
      if (pair == nullptr || pair->items.size() != 2) damaged("an invalid OrderedDict");
      mapping.entries.emplace_back(pair->items[0], pair->items[1]);
    }
  }
  return make(std::move(mapping));
}

Node* Calls::make_counter(const Arguments& arguments) {
  if (arguments.empty()) return make(Mapping{{}, false});
  const auto* const mapping = arguments[0]->as<Mapping>();
  if (arguments.size() != 1 || mapping == nullptr) damaged("an invalid Counter");
  spend(mapping->entries.size());
  return make(Mapping{mapping->entries, false});
}

Node* Calls::make_set(const Arguments& arguments) {
  Sequence set{{}, Value::Kind::set};
  if (!arguments.empty()) {
    const auto* const items = arguments[0]->as<Sequence>();
    if (arguments.size() != 1 || items == nullptr) damaged("an invalid set");
    spend(items->items.size());
    set.items = items->items;
  }
  return make(std::move(set));
}

/// Protocol 2 has no bytes: `_codecs.encode(text, 'latin1')` creates them.
Node* Calls::make_bytes(const Arguments& arguments) {
  const auto* const text = arguments.empty() ? nullptr : arguments[0]->as<std::string>();
  if (text == nullptr) damaged("invalid bytes");
  spend(text->size());
  std::string bytes;
  for (size_t i = 0; i < text->size(); ++i) {
    const auto first = static_cast<unsigned char>((*text)[i]);
    if (first < 0x80) {
      bytes += (*text)[i];
    } else if (first <= 0xc3) {  // the two bytes of U+0080 to U+00FF
      const auto second = static_cast<unsigned char>((*text)[++i]);
      bytes += static_cast<char>((first & 0x03) << 6 | (second & 0x3f));
    } else {
      damaged("bytes that are not in Latin-1");
    }
  }
  return make(Bytes{std::move(bytes)});
}

/// numpy.dtype('f8', False, True)
Node* Calls::make_numpy_type(const Arguments& arguments) {
  const auto* const code = arguments.empty() ? nullptr : arguments[0]->as<std::string>();
  const std::string text = code == nullptr ? "" : *code;
  const bool known = text.size() == 2 && std::string_view("biuf").find(text[0]) < 4 &&
                     std::string_view("1248").find(text[1]) < 4;
  if (!known) return make(Opaque{"numpy.dtype"});
  return make(NumpyType{text[0], static_cast<size_t>(text[1] - '0')});
}

/// numpy's scalar(dtype, bytes), such as numpy.float64(0.5)
Node* Calls::make_numpy_scalar(const Arguments& arguments) {
  const auto* const type = arguments.empty() ? nullptr : arguments[0]->as<NumpyType>();
  const auto* const bytes = arguments.size() < 2 ? nullptr : arguments[1]->as<Bytes>();
  if (type == nullptr || bytes == nullptr) return make(Opaque{"numpy.generic"});
  if (bytes->data.size() != type->size) damaged("a number of numpy of another size");
  std::string data = bytes->data;
  if (type->big_endian) std::reverse(data.begin(), data.end());
  if (type->kind == 'f') return make_numpy_real(data);
  uint64_t bits = 0;
  std::memcpy(&bits, data.data(), data.size());
  const unsigned unused = 64 - 8 * static_cast<unsigned>(data.size());
  if (type->kind == 'b') return make(bits != 0);
  if (type->kind == 'i') {
    return make(static_cast<int64_t>(bits << unused) >> unused);  // sign extension
  }
  if (bits > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return make(Opaque{"numpy.uint64"});
  }
  return make(static_cast<int64_t>(bits));
}

Node* Calls::make_numpy_real(const std::string& data) {
  const auto read_as = [&](auto value) {
    std::memcpy(&value, data.data(), sizeof(value));
    return make(static_cast<double>(value));
  };
  if (data.size() == sizeof(double)) return read_as(double{});
  if (data.size() == sizeof(float)) return read_as(float{});
  if (data.size() == sizeof(at::Half)) return read_as(at::Half{});
  damaged("a number of numpy of another size");
}

Node* Calls::make_size(const std::vector<int64_t>& sizes) {
  Sequence sequence{{}, Value::Kind::tuple};
  for (const int64_t size : sizes) sequence.items.push_back(make(size));
  return make(std::move(sequence));
}

/// (storage, offset, size, stride), before PyTorch 0.4.
Node* Calls::make_first_tensor(const Arguments& items) {
  auto* const stored = items.size() != 4 ? nullptr : items[0]->as<StoredElements>();
  if (stored == nullptr || !stored->dtype || c10::isQIntType(*stored->dtype)) {
    damaged("an invalid tensor");
  }
  return make(strided(*stored, *stored->dtype, items));
}

/// (storage, offset, size, stride, requires_grad, hooks[, dtype][, metadata]), the dtype for
/// those that have no storage class.
Node* Calls::make_tensor(const Arguments& items, bool has_dtype) {
  const size_t least = has_dtype ? 7 : 6;
  auto* const stored = items.empty() ? nullptr : items[0]->as<StoredElements>();
  if (stored == nullptr || items.size() < least || items.size() > least + 1) {
    damaged("an invalid tensor");
  }
  std::optional<c10::ScalarType> dtype = stored->dtype;
  if (has_dtype) {
    const auto* const global = items[6]->as<Global>();
    if (global == nullptr || stored->part) damaged("a tensor without a dtype");
    const std::string_view dotted = global->dotted;
    dtype = find_dtype(dotted.substr(dotted.rfind('.') + 1));
    if (!dtype) return make(Opaque{fmt::format("a tensor of dtype {}", dotted)});
  }
  if (!dtype || c10::isQIntType(*dtype)) damaged("a tensor without a dtype");
  at::Tensor tensor = strided(*stored, *dtype, items);
  if (items.size() > least) {
    if (has_flag(*items[least], "conj")) tensor = tensor.conj();  // a view: copies nothing
    if (has_flag(*items[least], "neg")) tensor = tensor._neg_view();
  }
  return make(std::move(tensor));
}

}  // namespace polyak::pickle
