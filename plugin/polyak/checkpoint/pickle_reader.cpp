// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_reader.h"

#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>

#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <unordered_map>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pth.h"

namespace polyak::pickle {
namespace {

/// LibTorch's operators support no more.
constexpr size_t kMaxDimensions = 64;

/// A pickle may refer to one object many times, and a tree of values copies it each time. Ordinary
/// files do so for a few small objects; this limits what a hostile one can expand to.
constexpr size_t kFreeCopies = 1 << 20;
constexpr size_t kCopiesPerByte = 16;

/// The Python names that a pickle may use.
enum class Name { ordered_dict, rebuild_tensor, rebuild_parameter, size, storage };

struct Global {
  Name name;
  const StorageType* type = nullptr;  // of a storage
};

struct StoredElements {
  c10::Storage storage;
  c10::ScalarType dtype;
};

/// An object while the pickle is read. Objects refer to each other as in Python, possibly in
/// cycles, so one list owns them all and objects hold plain pointers.
struct Node;
struct Sequence {
  std::vector<Node*> items;
  bool tuple;
};
struct Mapping {
  std::vector<std::pair<Node*, Node*>> entries;
  bool ordered;
};
struct Node {
  std::variant<std::monostate, bool, int64_t, double, std::string, at::Tensor, Sequence, Mapping,
               Global, StoredElements>
      data;

  template <class T>
  T* as() {
    return std::get_if<T>(&data);
  }
};

class Reader {
 public:
  Reader(std::string_view bytes, const StorageLoader& load_storage)
      : bytes_(bytes),
        load_storage_(load_storage),
        copies_left_(kFreeCopies + kCopiesPerByte * bytes.size()) {}

  Value run() {
    try {
      while (step()) {
      }
    } catch (const DamagedCheckpointError&) {
      throw;  // concerns a record of the archive, not the key it is read for
    } catch (const CheckpointError& error) {
      const std::string path = path_in_progress();
      if (path.empty()) throw;
      fail<CheckpointError>("{}: {}", path, error.what());
    }
    return to_value(*pop());
  }

 private:
  [[noreturn]] void damaged(const char* what) const {
    fail<CheckpointError>("the pickle is damaged at byte {}: {}", position_, what);
  }

  // Bytes.

  std::string_view take(size_t count) {
    if (count > bytes_.size() - position_) damaged("it ends unexpectedly");
    const auto taken = bytes_.substr(position_, count);
    position_ += count;
    return taken;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
    return value;
  }

  std::string_view line() {
    const size_t end = bytes_.find('\n', position_);
    if (end == std::string_view::npos) damaged("a name is not terminated");
    const auto text = take(end - position_);
    ++position_;
    return text;
  }

  // The stack. A mark is the height of the stack when it was set; objects below it are out of
  // reach.

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  template <class T>
  void push(T value) {
    nodes_.push_back(Node{std::move(value)});
    stack_.push_back(&nodes_.back());
  }

  Node* top() const {
    if (stack_.size() <= floor()) damaged("an object is missing on the stack");
    return stack_.back();
  }

  Node* pop() {
    Node* const node = top();
    stack_.pop_back();
    return node;
  }

  std::vector<Node*> pop_last(size_t count) {
    if (stack_.size() - floor() < count) damaged("an object is missing on the stack");
    std::vector<Node*> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }

  std::vector<Node*> pop_to_mark() {
    if (marks_.empty()) damaged("a mark is missing on the stack");
    auto items = pop_last(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }

  template <class T>
  T& top_as(const char* what) const {
    if (T* found = top()->as<T>()) return *found;
    damaged(what);
  }

  void remember(uint32_t index) { memo_[index] = top(); }

  void recall(uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) damaged("it refers to an object that does not exist");
    stack_.push_back(found->second);
  }

  // Executes one opcode. Returns false at the end.

  bool step() {
    const auto code = number<unsigned char>();
    switch (static_cast<Op>(code)) {
      case Op::proto:
        if (const auto protocol = number<unsigned char>(); protocol != kProtocol) {
          fail<CheckpointError>(
              "pickle protocol {}; this reader supports {}, the default of torch.save", protocol,
              kProtocol);
        }
        break;
      case Op::stop:
        return false;
      case Op::mark:
        marks_.push_back(stack_.size());
        break;
      case Op::none:
        push(std::monostate());
        break;
      case Op::new_true:
        push(true);
        break;
      case Op::new_false:
        push(false);
        break;
      case Op::bin_int:
        push(int64_t{number<int32_t>()});
        break;
      case Op::bin_int1:
        push(int64_t{number<uint8_t>()});
        break;
      case Op::bin_int2:
        push(int64_t{number<uint16_t>()});
        break;
      case Op::long1:
        push(long_int());
        break;
      case Op::bin_float:
        push(real());
        break;
      case Op::bin_unicode:
        push(string());
        break;
      case Op::empty_list:
        push(Sequence{{}, false});
        break;
      case Op::empty_tuple:
        push(Sequence{{}, true});
        break;
      case Op::empty_dict:
        push(Mapping{{}, false});
        break;
      case Op::tuple:
        push(Sequence{pop_to_mark(), true});
        break;
      case Op::tuple1:
        push(Sequence{pop_last(1), true});
        break;
      case Op::tuple2:
        push(Sequence{pop_last(2), true});
        break;
      case Op::tuple3:
        push(Sequence{pop_last(3), true});
        break;
      case Op::append:
        append(pop_last(1));
        break;
      case Op::appends:
        append(pop_to_mark());
        break;
      case Op::set_item:
        set_items(pop_last(2));
        break;
      case Op::set_items:
        set_items(pop_to_mark());
        break;
      case Op::global:
        push(global());
        break;
      case Op::reduce:
        reduce();
        break;
      case Op::build:
        // The attributes of an OrderedDict: the `_metadata` of a state_dict, which is not needed.
        pop();
        if (!top_as<Mapping>("attributes for an object that has none").ordered) {
          damaged("attributes for a plain dict");
        }
        break;
      case Op::bin_persid:
        push(stored_elements());
        break;
      case Op::bin_put:
        remember(number<uint8_t>());
        break;
      case Op::long_bin_put:
        remember(number<uint32_t>());
        break;
      case Op::bin_get:
        recall(number<uint8_t>());
        break;
      case Op::long_bin_get:
        recall(number<uint32_t>());
        break;
      default:
        --position_;
        fail<CheckpointError>(
            "the pickle has opcode 0x{:02x} at byte {}, which this reader does not support", code,
            position_);
    }
    return true;
  }

  int64_t long_int() {
    const auto digits = take(number<uint8_t>());
    if (digits.size() > sizeof(int64_t)) fail<CheckpointError>("an int of more than 64 bits");
    if (digits.empty()) return 0;
    int64_t value = static_cast<signed char>(digits.back()) < 0 ? -1 : 0;  // sign extension
    std::memcpy(&value, digits.data(), digits.size());
    return value;
  }

  double real() {
    const uint64_t bits = __builtin_bswap64(number<uint64_t>());
    double value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  std::string string() {
    const auto text = take(number<uint32_t>());
    if (!is_utf8(text)) damaged("a str is not UTF-8");
    return std::string(text);
  }

  void append(const std::vector<Node*>& items) {
    auto& list = top_as<Sequence>("items for an object that is not a list");
    if (list.tuple) damaged("items for a tuple");
    list.items.insert(list.items.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<Node*>& items) {
    auto& dict = top_as<Mapping>("entries for an object that is not a dict");
    if (items.size() % 2 != 0) damaged("a key without a value");
    for (size_t i = 0; i < items.size(); i += 2) dict.entries.emplace_back(items[i], items[i + 1]);
  }

  Global global() {
    const auto module = line();
    const auto name = line();
    if (module == "collections" && name == "OrderedDict") return {Name::ordered_dict};
    if (module == "torch._utils" && name == "_rebuild_tensor_v2") return {Name::rebuild_tensor};
    if (module == "torch._utils" && name == "_rebuild_parameter") return {Name::rebuild_parameter};
    if (module == "torch" && name == "Size") return {Name::size};
    if (module == "torch" || module == "torch.storage") {
      if (const auto* type = find_storage_type(name)) return {Name::storage, type};
    }
    fail<CheckpointError>(
        "an object of type '{}'; this reader supports tensors, numbers, strings, lists, tuples and "
        "dicts",
        printable(fmt::format("{}.{}", module, name)));
  }

  void reduce() {
    const Node* const arguments_node = pop();
    const auto* const arguments = std::get_if<Sequence>(&arguments_node->data);
    const auto* const function = pop()->as<Global>();
    if (function == nullptr || arguments == nullptr || !arguments->tuple) {
      damaged("a call of an object that is not callable");
    }
    const auto& items = arguments->items;
    switch (function->name) {
      case Name::ordered_dict:
        if (!items.empty()) damaged("an OrderedDict with arguments");
        push(Mapping{{}, true});
        break;
      case Name::rebuild_tensor:
        push(tensor(items));
        break;
      case Name::rebuild_parameter:
        if (items.size() != 3 || items[0]->as<at::Tensor>() == nullptr) {
          damaged("a parameter that is not a tensor");
        }
        stack_.push_back(items[0]);
        break;
      case Name::size:
        if (items.size() != 1) damaged("an invalid torch.Size");
        push_size(ints(items[0]));
        break;
      case Name::storage:
        damaged("a call of a storage class");
    }
  }

  void push_size(const std::vector<int64_t>& sizes) {
    Sequence sequence{{}, true};
    for (const int64_t size : sizes) {
      nodes_.push_back(Node{size});
      sequence.items.push_back(&nodes_.back());
    }
    push(std::move(sequence));
  }

  std::vector<int64_t> ints(Node* node) const {
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

  int64_t integer(Node* node) const {
    if (const auto* value = node->as<int64_t>()) return *value;
    damaged("a number that is not an int");
  }

  /// ('storage', torch.FloatStorage, key, location, number of elements)
  StoredElements stored_elements() {
    const auto* const id = pop()->as<Sequence>();
    if (id == nullptr || !id->tuple || id->items.size() != 5) damaged("a storage is missing");
    const auto* const tag = id->items[0]->as<std::string>();
    const auto* const global = id->items[1]->as<Global>();
    const auto* const key = id->items[2]->as<std::string>();
    const int64_t elements = integer(id->items[4]);
    if (tag == nullptr || *tag != "storage" || global == nullptr || key == nullptr ||
        global->name != Name::storage) {
      damaged("a storage is missing");
    }
    size_t bytes = 0;
    if (elements < 0 || __builtin_mul_overflow(static_cast<size_t>(elements),
                                               c10::elementSize(global->type->dtype), &bytes)) {
      fail<CheckpointError>("an impossible storage of {} elements", elements);
    }
    return {load_storage_(*key, bytes), global->type->dtype};
  }

  /// (storage, offset, size, stride, requires_grad, hooks[, metadata])
  at::Tensor tensor(const std::vector<Node*>& items) const {
    auto* const stored = items.empty() ? nullptr : items[0]->as<StoredElements>();
    if (stored == nullptr || items.size() < 6 || items.size() > 7) damaged("an invalid tensor");
    if (items.size() == 7) {
      fail<CheckpointError>(
          "a tensor with a lazy conj or neg; save tensor.resolve_conj().resolve_neg()");
    }
    const int64_t offset = integer(items[1]);
    const auto sizes = ints(items[2]);
    const auto strides = ints(items[3]);
    const auto needed = elements_needed(offset, sizes, strides);
    const size_t held = stored->storage.nbytes() / c10::elementSize(stored->dtype);
    if (!needed) {
      fail<CheckpointError>("a tensor of impossible shape: size [{}], stride [{}], offset {}",
                            fmt::join(sizes, ", "), fmt::join(strides, ", "), offset);
    }
    if (static_cast<size_t>(*needed) > held) {
      fail<CheckpointError>("a tensor needs {} elements, but its storage has {}", *needed, held);
    }
    return at::empty({0}, at::TensorOptions().dtype(stored->dtype))
        .set_(stored->storage, offset, sizes, strides);
  }

  /// The keys of the objects that are being created, for error messages.
  std::string path_in_progress() const {
    KeyPath path;
    for (size_t i = 0; i <= marks_.size(); ++i) {
      const size_t begin = i == 0 ? 0 : marks_[i - 1];
      const size_t end = i == marks_.size() ? stack_.size() : marks_[i];
      // Keys and values alternate after the mark of a dict; the last key is the current one.
      const bool in_dict = i > 0 && begin > 0 && stack_[begin - 1]->as<Mapping>() != nullptr;
      if (!in_dict || begin == end) continue;
      Node* const key = stack_[begin + ((end - begin - 1) & ~size_t{1})];
      if (const auto* text = key->as<std::string>()) path.push(*text);
      if (const auto* number = key->as<int64_t>()) path.push(*number);
    }
    return path.text();
  }

  // From objects to values.

  void spend(size_t copies) {
    if (copies > copies_left_) path_.fail_here("the same objects are repeated too many times");
    copies_left_ -= copies;
  }

  Value to_value(Node& node) {
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
    if (node.as<std::monostate>() != nullptr) return Value();
    path_.fail_here("a class or a bare storage, which this reader does not support as a value");
  }

  Value sequence_value(const Sequence& sequence) {
    std::vector<Value> items;
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      path_.push(static_cast<int64_t>(i));
      items.push_back(to_value(*sequence.items[i]));
      path_.pop();
    }
    return sequence.tuple ? Value::tuple(std::move(items)) : Value::list(std::move(items));
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
        path_.fail_here("a key of this dict is neither str nor int");
      }
      if (place == entries.size()) entries.emplace_back(to_value(*key), Value());
      entries[place].second = to_value(*item);  // the last of equal keys counts, as in Python
      path_.pop();
    }
    return Value::dict(std::move(entries), mapping.ordered);
  }

  std::string_view bytes_;
  const StorageLoader& load_storage_;
  size_t position_ = 0;
  std::deque<Node> nodes_;
  std::vector<Node*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, Node*> memo_;
  KeyPath path_;
  size_t copies_left_;
};

}  // namespace

Value read(std::string_view bytes, const StorageLoader& load_storage) {
  return Reader(bytes, load_storage).run();
}

}  // namespace polyak::pickle
