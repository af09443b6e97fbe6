// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_reader.h"

#include <cstring>
#include <unordered_map>

#include "polyak/checkpoint/pickle_calls.h"
#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pickle_input.h"
#include "polyak/checkpoint/pickle_nodes.h"
#include "polyak/checkpoint/pickle_values.h"
#include "polyak/checkpoint/pth.h"

namespace polyak::pickle {
namespace {

class Reader {
 public:
  Reader(Input& input, const StorageLoader& load_storage)
      : input_(input), load_storage_(load_storage), calls_(nodes_, budget_) {}

  Value run() {
    try {
      while (step()) {
      }
      return to_value(*pop(), budget_);
    } catch (const Damage& damage) {
      damaged(damage.what);
    } catch (const DamagedCheckpointError&) {
      throw;  // concerns a record of the archive, not the key it is read for
    } catch (const CheckpointError& error) {
      const std::string path = path_in_progress();
      if (path.empty()) throw;
      fail<CheckpointError>("{}: {}", path, error.what());
    }
  }

 private:
  [[noreturn]] void damaged(const char* what) const {
    fail<DamagedCheckpointError>("the pickle is damaged at byte {}: {}", input_.position(), what);
  }

  // Bytes.

  std::string_view take(uint64_t count) {
    const auto taken = input_.take(count);
    budget_.earn(count);
    return taken;
  }

  std::string_view line() {
    const auto text = input_.line();
    budget_.earn(text.size());
    return text;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
    return value;
  }

  // The stack. A mark is the height of the stack when it was set; objects below it are out of
  // reach.

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  template <class T>
  void push(T value) {
    stack_.push_back(add(nodes_, std::move(value)));
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

  void remember(size_t index) { memo_[index] = top(); }

  void recall(size_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) damaged("it refers to an object that does not exist");
    stack_.push_back(found->second);
  }

  // Executes one opcode. Returns false at the end.

  bool step() {
    const auto code = number<unsigned char>();
    switch (static_cast<Op>(code)) {
      case Op::proto:
        if (const auto protocol = number<unsigned char>();
            protocol < kProtocol || protocol > kNewestProtocol) {
          fail<CheckpointError>("pickle protocol {}; this reader supports {} to {}", protocol,
                                kProtocol, kNewestProtocol);
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
        push_long(number<uint8_t>());
        break;
      case Op::long4:
        push_long(number<uint32_t>());
        break;
      case Op::bin_float:
        push(real());
        break;
      case Op::bin_unicode:
        push(string(number<uint32_t>()));
        break;
      case Op::short_bin_unicode:
        push(string(number<uint8_t>()));
        break;
      case Op::bin_unicode8:
        push(string(number<uint64_t>()));
        break;
      case Op::bin_string:
        push_python2_string(number<uint32_t>());
        break;
      case Op::short_bin_string:
        push_python2_string(number<uint8_t>());
        break;
      case Op::bin_bytes:
        push(Bytes{std::string(take(number<uint32_t>()))});
        break;
      case Op::short_bin_bytes:
        push(Bytes{std::string(take(number<uint8_t>()))});
        break;
      case Op::bin_bytes8:
      case Op::byte_array8:
        push(Bytes{std::string(take(number<uint64_t>()))});
        break;
      case Op::empty_list:
        push(Sequence{{}, Value::Kind::list});
        break;
      case Op::empty_tuple:
        push(Sequence{{}, Value::Kind::tuple});
        break;
      case Op::empty_set:
        push(Sequence{{}, Value::Kind::set});
        break;
      case Op::empty_dict:
        push(Mapping{{}, false});
        break;
      case Op::tuple:
        push(Sequence{pop_to_mark(), Value::Kind::tuple});
        break;
      case Op::tuple1:
        push(Sequence{pop_last(1), Value::Kind::tuple});
        break;
      case Op::tuple2:
        push(Sequence{pop_last(2), Value::Kind::tuple});
        break;
      case Op::tuple3:
        push(Sequence{pop_last(3), Value::Kind::tuple});
        break;
      case Op::frozen_set:
        push(Sequence{pop_to_mark(), Value::Kind::set});
        break;
      case Op::append:
        add_items(pop_last(1), Value::Kind::list);
        break;
      case Op::appends:
        add_items(pop_to_mark(), Value::Kind::list);
        break;
      case Op::add_items:
        add_items(pop_to_mark(), Value::Kind::set);
        break;
      case Op::set_item:
        set_items(pop_last(2));
        break;
      case Op::set_items:
        set_items(pop_to_mark());
        break;
      case Op::global: {
        const std::string module(line());
        push(find_global(module, line()));
        break;
      }
      case Op::stack_global: {
        const auto names = pop_last(2);
        const auto* const module = names[0]->as<std::string>();
        const auto* const name = names[1]->as<std::string>();
        if (module == nullptr || name == nullptr) damaged("a name that is not a str");
        push(find_global(*module, *name));
        break;
      }
      case Op::new_obj_ex:
        pop();  // keyword arguments
        call();
        break;
      case Op::new_obj:
      case Op::reduce:
        call();
        break;
      case Op::build: {
        Node* const state = pop();
        calls_.build(top(), state);
        break;
      }
      case Op::bin_persid:
        push_persistent();
        break;
      case Op::bin_put:
        remember(number<uint8_t>());
        break;
      case Op::long_bin_put:
        remember(number<uint32_t>());
        break;
      case Op::memoize:
        remember(memo_.size());
        break;
      case Op::frame:
        number<uint64_t>();  // only a hint to read ahead
        break;
      case Op::pop:
        if (stack_.size() > floor()) {
          stack_.pop_back();
        } else {
          pop_to_mark();
        }
        break;
      case Op::pop_mark:
        pop_to_mark();
        break;
      case Op::dup:
        stack_.push_back(top());
        break;
      case Op::bin_get:
        recall(number<uint8_t>());
        break;
      case Op::long_bin_get:
        recall(number<uint32_t>());
        break;
      default:
        fail<CheckpointError>(
            "the pickle has opcode 0x{:02x} at byte {}, which this reader does not support", code,
            input_.position() - 1);
    }
    return true;
  }

  void push_long(size_t size) {
    const auto digits = take(size);
    if (digits.size() > sizeof(int64_t)) {
      push(Opaque{"int of more than 64 bits"});
      return;
    }
    int64_t value = 0;
    if (!digits.empty()) {
      value = static_cast<signed char>(digits.back()) < 0 ? -1 : 0;  // sign extension
      std::memcpy(&value, digits.data(), digits.size());
    }
    push(value);
  }

  double real() {
    const uint64_t bits = __builtin_bswap64(number<uint64_t>());
    double value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  std::string string(uint64_t size) {
    const auto text = take(size);
    if (!is_utf8(text)) damaged("a str is not UTF-8");
    return std::string(text);
  }

  /// Python 2 had one type for texts and bytes.
  void push_python2_string(size_t size) {
    const auto text = take(size);
    if (is_utf8(text)) {
      push(std::string(text));
    } else {
      push(Bytes{std::string(text)});
    }
  }

  void add_items(const std::vector<Node*>& items, Value::Kind kind) {
    if (top()->as<Opaque>() != nullptr) return;
    auto& sequence = top_as<Sequence>("items for an object that has none");
    if (sequence.kind != kind) damaged("items for an object of another kind");
    sequence.items.insert(sequence.items.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<Node*>& items) {
    if (top()->as<Opaque>() != nullptr) return;
    auto& dict = top_as<Mapping>("entries for an object that is not a dict");
    if (items.size() % 2 != 0) damaged("a key without a value");
    for (size_t i = 0; i < items.size(); i += 2) dict.entries.emplace_back(items[i], items[i + 1]);
  }

  void call() {
    Node* const arguments = pop();
    stack_.push_back(calls_.call(pop(), arguments));
  }

  /// An object that the pickle refers to by a tuple. In the format before PyTorch 1.6 that may also
  /// be a class of a module with its source: ('module', class, file, source).
  void push_persistent() {
    const auto* const id = pop()->as<Sequence>();
    if (id == nullptr || id->kind != Value::Kind::tuple) damaged("a storage is missing");
    const auto* const tag = id->items.empty() ? nullptr : id->items[0]->as<std::string>();
    if (tag != nullptr && *tag == "module" && id->items.size() == 4 &&
        id->items[1]->as<Global>() != nullptr) {
      stack_.push_back(id->items[1]);
      return;
    }
    if (tag == nullptr || *tag != "storage") damaged("a storage is missing");
    push(stored_elements(id->items));
  }

  /// ('storage', torch.FloatStorage, key, location, number of elements[, view])
  StoredElements stored_elements(const std::vector<Node*>& id) {
    if (id.size() != 5 && id.size() != 6) damaged("a storage is missing");
    const auto* const global = id[1]->as<Global>();
    const auto* const key = id[2]->as<std::string>();
    const int64_t elements = integer(id[4]);
    if (global == nullptr || key == nullptr || global->name != Name::storage) {
      damaged("a storage is missing");
    }
    const size_t element_size = global->type == nullptr ? 1 : c10::elementSize(global->type->dtype);
    size_t bytes = 0;
    if (elements < 0 ||
        __builtin_mul_overflow(static_cast<size_t>(elements), element_size, &bytes)) {
      fail<CheckpointError>("an impossible storage of {} elements", elements);
    }
    StoredElements stored{load_storage_(*key, bytes, element_size), std::nullopt, std::nullopt};
    if (global->type != nullptr) stored.dtype = global->type->dtype;
    if (id.size() == 6 && id[5]->as<std::monostate>() == nullptr) {
      stored.part = part_of_storage(id[5], elements);
    }
    return stored;
  }

  /// (key, offset, number of elements): in PyTorch's first versions, a storage that was a part of
  /// another.
  std::pair<int64_t, int64_t> part_of_storage(Node* node, int64_t elements) const {
    const auto* const view = node->as<Sequence>();
    if (view == nullptr || view->items.size() != 3) damaged("a part of a storage is missing");
    const int64_t offset = integer(view->items[1]);
    const int64_t size = integer(view->items[2]);
    if (offset < 0 || size < 0 || offset > elements || size > elements - offset) {
      fail<CheckpointError>("{} elements from the element {} of a storage that has {}", size,
                            offset, elements);
    }
    return {offset, size};
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

  Input& input_;
  const StorageLoader& load_storage_;
  Nodes nodes_;
  Budget budget_;
  Calls calls_;
  std::vector<Node*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<size_t, Node*> memo_;
};

}  // namespace

Value read(Input& input, const StorageLoader& load_storage) {
  return Reader(input, load_storage).run();
}

}  // namespace polyak::pickle
