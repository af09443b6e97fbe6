// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_writer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <unordered_map>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/savable.h"

namespace polyak::pickle {
namespace {

/// A storage that is more than this many times larger than its only tensor is not saved as a whole.
constexpr size_t kMaxSlack = 2;

class Writer {
 public:
  Pickled run(const Value& root) {
    check(root);
    op(Op::proto);
    raw(kProtocol);
    put(root);
    op(Op::stop);
    return std::move(out_);
  }

 private:
  // The first pass: finds values that cannot be saved, and counts the users of each storage.
  void check(const Value& value) {
    if (path_.depth() > kMaxDepth) {
      path_.fail_here(fmt::format("nested more than {} deep", kMaxDepth));
    }
    switch (value.kind()) {
      case Value::Kind::string:
        check_string(value.as_string());
        break;
      case Value::Kind::tensor:
        check_tensor(value.as_tensor());
        break;
      case Value::Kind::opaque:
        path_.fail_here(fmt::format("an object that only Python can read, {}, cannot be saved",
                                    value.type_name()));
      case Value::Kind::list:
      case Value::Kind::tuple:
      case Value::Kind::set:
        for (size_t i = 0; i < value.items().size(); ++i) {
          path_.push(static_cast<int64_t>(i));
          check(value.items()[i]);
          path_.pop();
        }
        break;
      case Value::Kind::dict:
        for (const auto& [key, item] : value.entries()) {
          if (key.kind() == Value::Kind::integer) {
            path_.push(key.as_int());
          } else if (key.kind() == Value::Kind::string) {
            check_string(key.as_string());
            path_.push(key.as_string());
          } else {
            path_.fail_here(fmt::format("a key of this dict is a {}; only str and int can be saved",
                                        key.kind_name()));
          }
          check(item);
          path_.pop();
        }
        break;
      default:
        break;
    }
  }

  void check_string(const std::string& text) const {
    if (text.size() > std::numeric_limits<uint32_t>::max()) {
      path_.fail_here("a str of more than 4 GiB cannot be saved");
    }
    if (!is_utf8(text)) path_.fail_here("a str is not valid UTF-8, so Python could not read it");
  }

  void check_tensor(const at::Tensor& tensor) {
    const auto refuse = [&](const std::string& reason) {
      path_.fail_here("this tensor cannot be saved: " + reason);
    };
    if (const std::string reason = why_not_savable(tensor); !reason.empty()) refuse(reason);
    if (find_storage_type(tensor.scalar_type()) == nullptr) {
      refuse(fmt::format("the format does not support its dtype {}; convert it first",
                         c10::toString(tensor.scalar_type())));
    }
    ++uses_[tensor.storage().unsafeGetStorageImpl()];
  }

  static size_t elements_in_storage(const at::Tensor& tensor) {
    return tensor.storage().nbytes() / tensor.element_size();
  }

  // The second pass writes.
  void put(const Value& value) {
    switch (value.kind()) {
      case Value::Kind::none:
        op(Op::none);
        break;
      case Value::Kind::boolean:
        op(value.as_bool() ? Op::new_true : Op::new_false);
        break;
      case Value::Kind::integer:
        put_int(value.as_int());
        break;
      case Value::Kind::real:
        put_real(value.as_real());
        break;
      case Value::Kind::string:
        put_string(value.as_string());
        break;
      case Value::Kind::tensor:
        put_tensor(value.as_tensor());
        break;
      case Value::Kind::list:
        put_list(value.items());
        break;
      case Value::Kind::set:
        put_global("__builtin__", "set");  // protocol 2 has Python 2's name for it
        put_list(value.items());
        op(Op::tuple1);
        op(Op::reduce);
        break;
      case Value::Kind::tuple:
        if (value.items().empty()) {
          op(Op::empty_tuple);
          break;
        }
        op(Op::mark);
        for (const auto& item : value.items()) put(item);
        op(Op::tuple);
        break;
      case Value::Kind::dict:
        value.ordered() ? put_empty_ordered_dict() : op(Op::empty_dict);
        if (value.entries().empty()) break;
        op(Op::mark);
        for (const auto& [key, item] : value.entries()) {
          put(key);
          put(item);
        }
        op(Op::set_items);
        break;
      case Value::Kind::opaque:  // check() refused it
        break;
    }
  }

  void put_list(const std::vector<Value>& items) {
    op(Op::empty_list);
    if (items.empty()) return;
    op(Op::mark);
    for (const auto& item : items) put(item);
    op(Op::appends);
  }

  void put_tensor(at::Tensor tensor) {
    // The storage of a lazily conjugated or negated view holds other values.
    tensor = tensor.detach().resolve_conj().resolve_neg();
    const auto* const impl = tensor.storage().unsafeGetStorageImpl();
    const size_t bytes = tensor.nbytes();
    const auto users = uses_.find(impl);
    const bool shared = users != uses_.end() && users->second > 1;
    const bool compact = !shared && tensor.storage().nbytes() / kMaxSlack > bytes;

    put_global("torch._utils", "_rebuild_tensor_v2");
    op(Op::mark);
    if (compact) {
      out_.storages.push_back(tensor);
      put_storage(out_.storages.size() - 1, tensor.scalar_type(), tensor.numel());
      put_int(0);
      put_ints(tensor.sizes());
      put_ints(contiguous_strides(tensor.sizes()));
    } else {
      // Two dtypes on one storage (view_as_real) get a record each: in Python a storage has one
      // dtype.
      const auto elements = static_cast<int64_t>(elements_in_storage(tensor));
      const auto [known, added] =
          records_.try_emplace({impl, tensor.scalar_type()}, out_.storages.size());
      if (added) out_.storages.push_back(tensor.as_strided({elements}, {1}, 0));
      put_storage(known->second, tensor.scalar_type(), elements);
      put_int(tensor.storage_offset());
      put_ints(tensor.sizes());
      put_ints(tensor.strides());
    }
    op(Op::new_false);
    put_empty_ordered_dict();
    op(Op::tuple);
    op(Op::reduce);
  }

  void put_storage(size_t record, c10::ScalarType dtype, int64_t elements) {
    op(Op::mark);
    put_string("storage");
    put_global("torch", find_storage_type(dtype)->name);
    put_string(std::to_string(record));
    put_string("cpu");
    put_int(elements);
    op(Op::tuple);
    op(Op::bin_persid);
  }

  static std::vector<int64_t> contiguous_strides(c10::IntArrayRef sizes) {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= std::max<int64_t>(sizes[i], 1);
    }
    return strides;
  }

  void put_empty_ordered_dict() {
    put_global("collections", "OrderedDict");
    op(Op::empty_tuple);
    op(Op::reduce);
  }

  void put_global(const char* module, const char* name) {
    op(Op::global);
    out_.bytes += fmt::format("{}\n{}\n", module, name);
  }

  void put_ints(c10::IntArrayRef values) {
    if (values.empty()) {
      op(Op::empty_tuple);
      return;
    }
    op(Op::mark);
    for (const int64_t value : values) put_int(value);
    op(Op::tuple);
  }

  void put_int(int64_t value) {
    if (value >= 0 && value <= std::numeric_limits<uint8_t>::max()) {
      op(Op::bin_int1);
      raw(static_cast<uint8_t>(value));
    } else if (value >= 0 && value <= std::numeric_limits<uint16_t>::max()) {
      op(Op::bin_int2);
      raw(static_cast<uint16_t>(value));
    } else if (value >= std::numeric_limits<int32_t>::min() &&
               value <= std::numeric_limits<int32_t>::max()) {
      op(Op::bin_int);
      raw(static_cast<int32_t>(value));
    } else {
      op(Op::long1);
      raw(static_cast<uint8_t>(sizeof(value)));
      raw(value);
    }
  }

  void put_real(double value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    op(Op::bin_float);
    raw(__builtin_bswap64(bits));  // the only big-endian number of the format
  }

  void put_string(std::string_view text) {
    op(Op::bin_unicode);
    raw(static_cast<uint32_t>(text.size()));
    out_.bytes += text;
  }

  void op(Op code) { out_.bytes += static_cast<char>(code); }

  template <class T>
  void raw(T value) {
    out_.bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }

  Pickled out_;
  KeyPath path_;
  std::unordered_map<const c10::StorageImpl*, size_t> uses_;
  std::map<std::pair<const c10::StorageImpl*, c10::ScalarType>, size_t> records_;
};

}  // namespace

Pickled write(const Value& value) {
  return Writer().run(value);
}

}  // namespace polyak::pickle
