// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/weighted_sum.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/utils.h>

#include <map>
#include <tuple>
#include <utility>

#include "polyak/checkpoint/savable.h"
#include "polyak/core/error.h"
#include "polyak/core/text.h"
#include "polyak/runtime/publish.h"
#include "polyak/runtime/state_dict.h"

namespace polyak {
namespace {

bool is_summed(at::ScalarType dtype) {
  return at::isFloatingType(dtype) || at::isComplexType(dtype);
}

std::string sizes_text(const std::vector<int64_t>& sizes) {
  return fmt::format("[{}]", fmt::join(sizes, ", "));
}

}  // namespace

StateLayout::StateLayout(const Value& state_dict) {
  using Memory =
      std::tuple<const void*, std::vector<int64_t>, std::vector<int64_t>, at::ScalarType>;
  std::map<Memory, size_t> seen;
  size_t at = 0;
  for (const auto& [key, value] : state_dict.entries()) {
    const size_t place = at++;
    if (key.kind() != Value::Kind::string || !value.is_tensor()) {
      others_.push_back(key.kind() == Value::Kind::string ? key.as_string()
                                                          : fmt::format("{}", key.as_int()));
      continue;
    }
    const at::Tensor& tensor = value.as_tensor();
    const std::string reason = why_not_savable(tensor);
    if (!reason.empty()) {
      fail<CheckpointError>("'{}' cannot be averaged: {}", shortened(key.as_string()), reason);
    }
    size_t same_as = items_.size();
    if (tensor.numel() > 0) {
      same_as = seen.emplace(Memory{tensor.data_ptr(), tensor.sizes().vec(), tensor.strides().vec(),
                                    tensor.scalar_type()},
                             same_as)
                    .first->second;
    }
    items_.push_back({key.as_string(), tensor.sizes().vec(), tensor.scalar_type(), same_as, place});
  }
  if (items_.empty()) fail<CheckpointError>("holds no tensors to average");
}

std::string StateLayout::difference(const StateLayout& other, const std::string& this_name,
                                    const std::string& other_name) const {
  std::map<std::string, const Item*> theirs;
  for (const Item& item : other.items_) theirs.emplace(item.name, &item);
  std::vector<std::string> only_here;
  std::vector<std::string> only_there;
  std::vector<std::string> shapes;
  std::vector<std::string> dtypes;
  for (const Item& item : items_) {
    const auto found = theirs.find(item.name);
    if (found == theirs.end()) {
      only_here.push_back(item.name);
      continue;
    }
    const Item& its = *found->second;
    if (its.sizes != item.sizes) {
      shapes.push_back(fmt::format("{} ({} and {})", shortened(item.name), sizes_text(item.sizes),
                                   sizes_text(its.sizes)));
    } else if (!same_numbers(its.dtype, item.dtype)) {
      dtypes.push_back(fmt::format("{} ({} and {})", shortened(item.name), at::toString(item.dtype),
                                   at::toString(its.dtype)));
    }
    theirs.erase(found);
  }
  for (const Item& item : other.items_) {
    if (theirs.count(item.name)) only_there.push_back(item.name);
  }
  std::vector<std::string> parts;
  const auto add = [&](const std::string& what, const std::vector<std::string>& names) {
    if (!names.empty()) parts.push_back(fmt::format("{}: {}", what, list_names(names)));
  };
  add(fmt::format("only {} has", this_name), only_here);
  add(fmt::format("only {} has", other_name), only_there);
  add("of another shape", shapes);
  add("of another kind of numbers", dtypes);
  return fmt::format("{}", fmt::join(parts, "; "));
}

WeightedSum::WeightedSum(std::set<std::string> copied) : copied_(std::move(copied)) {}

void WeightedSum::add(const Value& state_dict, double coefficient) {
  const torch::NoGradGuard no_grad;
  const StateLayout layout(state_dict);
  const bool is_first = entries_.empty();
  if (is_first) {
    for (const StateLayout::Item& item : layout.items()) entries_.push_back({item, {}, {}});
  }
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < layout.items().size(); ++i) places.emplace(layout.items()[i].name, i);
  if (places.size() != entries_.size()) {
    fail<CheckpointError>("holds {} tensors, but the first file {}", places.size(),
                          entries_.size());
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    const std::string& name = entry.item.name;
    const auto found = places.find(name);
    if (found == places.end()) {
      fail<CheckpointError>("holds no '{}', which the first file has", shortened(name));
    }
    const StateLayout::Item& now = layout.items()[found->second];
    if (now.sizes != entry.item.sizes || !same_numbers(now.dtype, entry.item.dtype)) {
      fail<CheckpointError>("'{}' is a {} of the shape {}, but a {} of the shape {} in the first",
                            shortened(name), at::toString(now.dtype), sizes_text(now.sizes),
                            at::toString(entry.item.dtype), sizes_text(entry.item.sizes));
    }
    entry.item.dtype = now.dtype;
    if (entries_[entry.item.same_as].item.name != layout.items()[now.same_as].name) {
      entry.item.same_as = i;  // tied in some files only
    }
    const at::Tensor& tensor = state_dict.entries()[now.at].second.as_tensor();
    if (!is_summed(now.dtype) || copied_.count(name)) {
      entry.last = tensor.detach().cpu().clone(at::MemoryFormat::Contiguous);
      continue;
    }
    const at::Tensor wide = tensor.detach().to(
        at::kCPU, at::isComplexType(now.dtype) ? at::kComplexDouble : at::kDouble);
    if (!wide.isfinite().all().item<bool>()) {
      fail<CheckpointError>("'{}' holds a NaN or an infinity; leave this file out",
                            shortened(name));
    }
    if (entry.sum.defined()) {
      entry.sum.add_(wide, coefficient);
    } else {
      entry.sum = wide * coefficient;
    }
  }
}

at::Tensor narrowed(const at::Tensor& tensor, at::ScalarType dtype, const std::string& name) {
  at::Tensor result = tensor.to(dtype);
  if (!at::isFloatingType(dtype) || dtype == tensor.scalar_type()) return result;
  if (!result.isfinite().all().item<bool>()) {
    fail<CheckpointError>("'{}' has values up to {:.4g}, which {} cannot hold; use --dtype float32",
                          shortened(name), tensor.abs().max().item<double>(), c10::toString(dtype));
  }
  return result;
}

Value WeightedSum::result(const std::string& dtype, double factor) const {
  const torch::NoGradGuard no_grad;
  std::vector<Value::Entry> tensors;
  std::vector<at::Tensor> made;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    at::Tensor value;
    if (entry.item.same_as < i) {
      value = made[entry.item.same_as];
    } else {
      value = !entry.sum.defined() ? entry.last : factor == 1 ? entry.sum : entry.sum * factor;
      const bool is_cast = !dtype.empty() && at::isFloatingType(entry.item.dtype);
      value = narrowed(value, is_cast ? floating_dtype(dtype) : entry.item.dtype, entry.item.name);
    }
    made.push_back(value);
    tensors.emplace_back(entry.item.name, std::move(value));
  }
  return Value::dict(std::move(tensors), /*ordered=*/true);
}

}  // namespace polyak
