// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/snapshot.h"

#include <ATen/ATen.h>

#include <unordered_map>
#include <utility>
#include <vector>

namespace polyak {
namespace {

class Snapshot {
 public:
  Value copy(const Value& value) {
    switch (value.kind()) {
      case Value::Kind::tensor:
        return copy_tensor(value.as_tensor());
      case Value::Kind::list:
        return Value::list(copy_items(value));
      case Value::Kind::tuple:
        return Value::tuple(copy_items(value));
      case Value::Kind::set:
        return Value::set_of(copy_items(value));
      case Value::Kind::dict: {
        std::vector<Value::Entry> entries;
        entries.reserve(value.entries().size());
        for (const auto& [key, item] : value.entries()) entries.emplace_back(key, copy(item));
        return Value::dict(std::move(entries), value.ordered());
      }
      default:
        return value;
    }
  }

 private:
  std::vector<Value> copy_items(const Value& value) {
    std::vector<Value> items;
    items.reserve(value.items().size());
    for (const Value& item : value.items()) items.push_back(copy(item));
    return items;
  }

  at::Tensor copy_tensor(const at::Tensor& tensor) {
    if (tensor.layout() != at::kStrided || !tensor.has_storage()) {
      return tensor.to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    }
    const at::Tensor plain = tensor.resolve_conj().resolve_neg();
    at::Tensor& bytes = storages_[plain.storage().unsafeGetStorageImpl()];
    if (!bytes.defined()) {
      const auto size = static_cast<int64_t>(plain.storage().nbytes());
      const at::Tensor all =
          at::empty({0}, plain.options().dtype(at::kByte)).set_(plain.storage(), 0, {size}, {1});
      bytes = all.to(at::kCPU, at::kByte, /*non_blocking=*/false, /*copy=*/true);
      held_.push_back(plain);  // so that no other storage gets its address
    }
    return at::empty({0}, at::TensorOptions().dtype(plain.scalar_type()))
        .set_(bytes.storage(), plain.storage_offset(), plain.sizes(), plain.strides());
  }

  std::unordered_map<const void*, at::Tensor> storages_;  // their copies, as bytes
  std::vector<at::Tensor> held_;
};

}  // namespace

Value snapshot(const Value& value) {
  try {
    return Snapshot().copy(value);
  } catch (const c10::Error& error) {
    fail<CheckpointError>("the values to save cannot be copied: {}", first_line(error));
  }
}

}  // namespace polyak
