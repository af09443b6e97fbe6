// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/file_difference.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "polyak/cli/file_summary.h"
#include "polyak/core/text.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/runtime/tensor_names.h"

namespace polyak::cli {
namespace {

using nlohmann::ordered_json;

struct Item {
  std::string name;
  at::Tensor tensor;
};

/// The tensors under their names, without a prefix.
std::vector<Item> items_of(const Value& state_dict, const std::string& prefix) {
  std::vector<Item> items;
  for (const auto& [key, value] : state_dict.entries()) {
    if (key.kind() != Value::Kind::string || !value.is_tensor()) continue;
    const std::string& name = key.as_string();
    const bool has_prefix = name.compare(0, prefix.size(), prefix) == 0;
    items.push_back({has_prefix ? name.substr(prefix.size()) : name, value.as_tensor()});
  }
  return items;
}

/// The prefix of all names with a dot: the counter of an average has none.
std::string prefix_of(const Value& state_dict) {
  std::vector<std::string> names;
  for (const auto& [key, value] : state_dict.entries()) {
    if (key.kind() != Value::Kind::string || !value.is_tensor()) continue;
    if (key.as_string().find('.') != std::string::npos) names.push_back(key.as_string());
  }
  return common_prefix(names);
}

size_t common_names(const std::vector<Item>& a, const std::vector<Item>& b) {
  std::unordered_map<std::string, int> names;
  for (const Item& item : a) names.emplace(item.name, 1);
  return static_cast<size_t>(std::count_if(
      b.begin(), b.end(), [&](const Item& item) { return names.count(item.name) > 0; }));
}

FileDifference::Tensor compare_tensors(const Item& a, const Item& b) {
  FileDifference::Tensor result;
  result.name = a.name;
  const std::string left = dtype_text(a.tensor);
  const std::string right = dtype_text(b.tensor);
  if (left != right) result.dtypes = left + ", " + right;
  const auto wide = [](const at::Tensor& tensor) {
    const at::Tensor plain = tensor.resolve_conj().resolve_neg();
    return (plain.is_complex() ? at::view_as_real(plain) : plain).to(at::kDouble);
  };
  const at::Tensor x = wide(a.tensor), y = wide(b.tensor);
  // Equal infinities differ by 0, and NaN is what a NaN should be compared with.
  const at::Tensor same = x.eq(y).logical_or(x.isnan().logical_and(y.isnan()));
  const at::Tensor distance = (x - y).abs().masked_fill(same, 0);
  if (x.numel() > 0) result.largest = distance.max().item<double>();
  const double norm = x.norm().item<double>();
  const double change = distance.norm().item<double>();
  result.relative = change == 0 ? 0 : change / norm;
  result.equal = left == right && same.all().item<bool>();
  return result;
}

}  // namespace

FileDifference compare(const Value& a, const Value& b) {
  const std::string prefix_a = prefix_of(a), prefix_b = prefix_of(b);
  std::vector<Item> left = items_of(a, ""), right = items_of(b, "");
  for (const auto& [first, second] :
       {std::pair<std::string, std::string>{prefix_a, ""}, {"", prefix_b}, {prefix_a, prefix_b}}) {
    std::vector<Item> x = items_of(a, first), y = items_of(b, second);
    if (common_names(x, y) <= common_names(left, right)) continue;
    left = std::move(x);
    right = std::move(y);
  }
  std::unordered_map<std::string, const Item*> others;
  for (const Item& item : right) others.emplace(item.name, &item);
  FileDifference difference;
  for (const Item& item : left) {
    const auto found = others.find(item.name);
    if (found == others.end()) {
      difference.missing.push_back(item.name);
      continue;
    }
    const Item& other = *found->second;
    others.erase(found);
    if (item.tensor.sizes() == other.tensor.sizes()) {
      difference.common.push_back(compare_tensors(item, other));
    } else {
      difference.other_shape.push_back(fmt::format(
          "{} ({} and {})", item.name, shape_text(item.tensor), shape_text(other.tensor)));
    }
  }
  for (const Item& item : right) {
    if (others.count(item.name)) difference.extra.push_back(item.name);
  }
  return difference;
}

std::string difference_text(const FileDifference& difference) {
  std::vector<FileDifference::Tensor> changed;
  for (const FileDifference::Tensor& tensor : difference.common) {
    if (!tensor.equal) changed.push_back(tensor);
  }
  // NaN first: not a number of which one could say that it is small.
  std::stable_sort(changed.begin(), changed.end(), [](const auto& a, const auto& b) {
    const auto rank = [](double value) { return std::isnan(value) ? HUGE_VAL : value; };
    return rank(a.largest) > rank(b.largest);
  });
  size_t width = std::string("tensor").size();
  for (const auto& tensor : changed) width = std::max(width, tensor.name.size());
  std::string text;
  if (!changed.empty()) {
    text += fmt::format("{:{}}  {:>12}  {:>12}\n", "tensor", width, "largest |d|", "|d| / |a|");
  }
  for (const auto& tensor : changed) {
    text += fmt::format("{:{}}  {:>12.4g}  {:>12.4g}{}\n", tensor.name, width, tensor.largest,
                        tensor.relative, tensor.dtypes.empty() ? "" : "  " + tensor.dtypes);
  }
  const auto list = [&](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) text += fmt::format("{}: {}\n", what, list_names(names, 20));
  };
  list("only in the first", difference.missing);
  list("only in the second", difference.extra);
  list("of another shape", difference.other_shape);
  const bool same_names =
      difference.missing.empty() && difference.extra.empty() && difference.other_shape.empty();
  const size_t common = difference.common.size();
  if (common == 0) return text + "No tensor of the two has the same name and shape.\n";
  if (changed.empty()) {
    return text + fmt::format("{} tensors are equal, bit by bit{}\n", common,
                              same_names ? "; there are no others." : ".");
  }
  return text + fmt::format("{} of {} common tensors differ.\n", changed.size(), common);
}

ordered_json difference_json(const FileDifference& difference) {
  ordered_json json{{"tensors", ordered_json::array()}};
  for (const FileDifference::Tensor& tensor : difference.common) {
    ordered_json entry{{"name", tensor.name},
                       {"equal", tensor.equal},
                       {"largest", tensor.largest},
                       {"relative", tensor.relative}};
    if (!tensor.dtypes.empty()) entry["dtypes"] = tensor.dtypes;
    json["tensors"].push_back(std::move(entry));
  }
  json["missing"] = difference.missing;
  json["extra"] = difference.extra;
  json["other_shape"] = difference.other_shape;
  return json;
}

}  // namespace polyak::cli
