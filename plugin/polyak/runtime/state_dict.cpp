// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/state_dict.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <set>

#include "polyak/core/text.h"

namespace polyak {
namespace {

/// The names and shapes of both, a line each.
std::string side_by_side(const ModelRef& model, const Value& state_dict) {
  constexpr size_t kShown = 6;
  const auto lines_of = [](const auto& items, const auto& line) {
    std::vector<std::string> lines;
    for (const auto& item : items) {
      if (lines.size() == kShown) {
        lines.push_back(fmt::format("... {} more", items.size() - kShown));
        break;
      }
      lines.push_back(line(item));
    }
    return lines;
  };
  const std::vector<std::string> theirs =
      lines_of(state_dict.entries(), [](const Value::Entry& entry) {
        const Value& value = entry.second;
        return fmt::format("{} {}", shortened(entry.first.as_string()),
                           value.is_tensor() ? shape_text(value.as_tensor()) : value.kind_name());
      });
  const std::vector<std::string> mine = lines_of(model.tensors(), [](const NamedTensor& item) {
    return fmt::format("{} {}", item.name, shape_text(item.tensor));
  });
  size_t width = std::string("in the file").size();
  for (const std::string& line : theirs) width = std::max(width, line.size());
  std::string text = fmt::format("  {:{}}   {}", "in the file", width, "in the model");
  for (size_t i = 0; i < std::max(theirs.size(), mine.size()); ++i) {
    text += fmt::format("\n  {:{}}   {}", i < theirs.size() ? theirs[i] : "", width,
                        i < mine.size() ? mine[i] : "");
  }
  return text;
}

}  // namespace
std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes().begin(), tensor.sizes().end(), ", "));
}

bool same_numbers(at::ScalarType a, at::ScalarType b) {
  return at::isFloatingType(a) == at::isFloatingType(b) &&
         at::isComplexType(a) == at::isComplexType(b) && (a == at::kBool) == (b == at::kBool);
}

std::string StateDifference::text() const {
  std::vector<std::string> parts;
  const auto add = [&](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) parts.push_back(fmt::format("{}: {}", what, list_names(names)));
  };
  add("missing in the checkpoint", missing);
  add("not in the model", unexpected);
  add("of another shape", mismatched);
  add("of another dtype", other_numbers);
  return fmt::format("{}", fmt::join(parts, "; "));
}

StateDifference compare_state_dict(const ModelRef& model, const Value& state_dict) {
  StateDifference result;
  std::set<std::string> names;
  for (const NamedTensor& item : model.tensors()) {
    names.insert(item.name);
    const Value* value = state_dict.find(item.name);
    if (!value || !value->is_tensor()) {
      result.missing.push_back(item.name);
      continue;
    }
    const at::Tensor& tensor = value->as_tensor();
    if (tensor.sizes() != item.tensor.sizes()) {
      result.mismatched.push_back(fmt::format("{} ({} in the checkpoint, {} in the model)",
                                              item.name, shape_text(tensor),
                                              shape_text(item.tensor)));
    } else if (!same_numbers(tensor.scalar_type(), item.tensor.scalar_type())) {
      result.other_numbers.push_back(fmt::format("{} ({} in the checkpoint, {} in the model)",
                                                 item.name, at::toString(tensor.scalar_type()),
                                                 at::toString(item.tensor.scalar_type())));
    } else {
      ++result.fitting;
    }
  }
  for (const auto& [key, value] : state_dict.entries()) {
    if (!names.count(key.as_string())) result.unexpected.push_back(key.as_string());
  }
  return result;
}

StateDifference check_state_dict(const ModelRef& model, const Value& state_dict, bool whole) {
  StateDifference found = compare_state_dict(model, state_dict);
  if (found.empty()) return found;
  if (found.fitting == 0) {
    fail<CheckpointError>("none of it fits the model; {}\n{}", found.text(),
                          side_by_side(model, state_dict));
  }
  if (whole) fail<CheckpointError>("does not fit the model; {}", found.text());
  if (!found.other_numbers.empty()) {
    fail<CheckpointError>("has dtypes that do not fit the model; {}; convert them first",
                          found.text());
  }
  return found;
}

void load_state_dict(const ModelRef& model, const Value& state_dict) {
  const torch::NoGradGuard no_grad;
  for (const NamedTensor& item : model.tensors()) {
    const Value* value = state_dict.find(item.name);
    if (!value || !value->is_tensor()) continue;
    const at::Tensor& tensor = value->as_tensor();
    if (tensor.sizes() != item.tensor.sizes() ||
        !same_numbers(tensor.scalar_type(), item.tensor.scalar_type())) {
      continue;
    }
    at::Tensor(item.tensor).copy_(tensor);
  }
}

}  // namespace polyak
