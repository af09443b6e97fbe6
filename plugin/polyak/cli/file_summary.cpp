// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/file_summary.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "polyak/checkpoint/format.h"
#include "polyak/core/text.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/file_weights.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/state_dict.h"

namespace polyak::cli {
namespace {

using nlohmann::ordered_json;

constexpr size_t kLongestText = 60;
constexpr size_t kMostItems = 8;  // of a list

int64_t nonfinite_values(const at::Tensor& tensor) {
  const bool has_kind = tensor.is_floating_point() || tensor.is_complex();
  if (!has_kind || tensor.numel() == 0) return 0;
  // Not all types of 8 bits have the operation.
  const at::Tensor wide = tensor.element_size() == 1 ? tensor.to(at::kFloat) : tensor;
  return tensor.numel() - at::isfinite(wide).sum().item<int64_t>();
}

std::string joined(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::string key_text(const Value& key) {
  return key.kind() == Value::Kind::string ? key.as_string() : fmt::format("{}", key.as_int());
}

const Value* find_path(const Value& file, const std::string& path) {
  if (path.empty()) return &file;
  if (const Value* whole = file.find(path)) return whole;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    const Value* entry = file.find(path.substr(0, dot));
    const Value* found =
        entry && entry->is_dict() ? find_path(*entry, path.substr(dot + 1)) : nullptr;
    if (found) return found;
  }
  return nullptr;
}

/// What the weights of an average are: its rule and its steps.
std::string average_text(const Value& file, const std::string& name) {
  const Value* entry = file.find(average_key(name));
  if (!entry || !entry->is_dict() || !entry->contains("steps")) return "averaged";
  const std::string rule = recorded_average(file, name).rule;
  std::string text = "averaged";
  if (!rule.empty()) text += " by " + rule;
  try {
    text += fmt::format(", {} steps", average_steps(file, name));
  } catch (const CheckpointError&) {
    text += ", of an unknown number of steps";
  }
  return text;
}

/// What the weights at a key are, in files of MMEngine and Polyak; see put_into_state_dict().
std::string content_of(const Value& file, const std::string& key) {
  const std::vector<std::string> averages = averages_in(file);
  const bool has_unnamed = std::count(averages.begin(), averages.end(), "") > 0;
  const Value* extra = file.find("polyak");
  if (!extra && !has_unnamed) return "";  // of another program
  const std::string as_saved = has_unnamed ? "averaged" : "raw";
  const Value* stated = extra && extra->is_dict() ? extra->find("state_dict") : nullptr;
  const bool has_text = stated && stated->kind() == Value::Kind::string;
  const std::string present = has_text ? stated->as_string() : as_saved;
  const auto text_of = [&](const std::string& weights) {
    if (weights == "raw") return weights;
    return average_text(file, weights == "averaged" ? "" : weights);
  };
  if (key == "state_dict") return text_of(present);
  for (const std::string& name : averages) {
    if (key != average_key(name)) continue;
    const bool exchanged = present != as_saved && name == (present == "raw" ? "" : present);
    return text_of(exchanged ? as_saved : name.empty() ? "raw" : name);
  }
  return "";
}

WeightsSummary summarize_weights(const Value& file, const std::string& key) {
  WeightsSummary summary;
  summary.key = key;
  summary.content = content_of(file, key);
  std::set<std::pair<const void*, int64_t>> seen;
  for (const auto& [name, value] : find_path(file, key)->entries()) {
    if (!value.is_tensor()) continue;
    const at::Tensor& tensor = value.as_tensor();
    ++summary.tensors;
    const bool is_new = seen.insert({tensor.data_ptr(), tensor.numel()}).second;
    if (!is_new && tensor.numel() > 0) continue;
    summary.values += tensor.numel();
    summary.bytes += static_cast<int64_t>(tensor.nbytes());
    summary.nonfinite += nonfinite_values(tensor);
  }
  return summary;
}

void collect_opaque(const Value& value, const std::string& path, std::vector<std::string>& opaque) {
  switch (value.kind()) {
    case Value::Kind::opaque:
      opaque.push_back(
          fmt::format("{}: {}", path.empty() ? "the file itself" : path, value.type_name()));
      break;
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set:
      for (size_t i = 0; i < value.items().size(); ++i) {
        collect_opaque(value.items()[i], fmt::format("{}[{}]", path, i), opaque);
      }
      break;
    case Value::Kind::dict:
      for (const auto& [key, item] : value.entries()) {
        collect_opaque(item, joined(path, key_text(key)), opaque);
      }
      break;
    default:
      break;
  }
}

std::string writer_of(const Value& file) {
  const Value* meta = file.is_dict() ? file.find("meta") : nullptr;
  if (!meta || !meta->is_dict()) return "";
  const auto text = [&](const char* key) -> std::string {
    const Value* value = meta->find(key);
    if (!value) return "";
    if (value->kind() == Value::Kind::string) return value->as_string();
    return value->kind() == Value::Kind::integer ? fmt::format("{}", value->as_int()) : "";
  };
  std::string writer;
  for (const auto& [key, name] : {std::pair<const char*, const char*>{"polyak_version", "Polyak"},
                                  {"mmengine_version", "MMEngine"}}) {
    if (writer.empty() && !text(key).empty()) writer = fmt::format("{} {}", name, text(key));
  }
  for (const auto& [key, name] :
       {std::pair<const char*, const char*>{"epoch", "epoch"}, {"iter", "iteration"}}) {
    if (text(key).empty()) continue;
    writer += fmt::format("{}{} {}", writer.empty() ? "" : ", ", name, text(key));
  }
  return writer;
}

std::string short_text(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    if (shown.size() >= kLongestText) break;
    shown += c == '\n' ? ' ' : c;
  }
  while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xc0) == 0x80) {
    shown.pop_back();  // not within a character
  }
  if (shown.size() == text.size()) return fmt::format("'{}'", shown);
  return fmt::format("'{}...' ({} characters)", shown, text.size());
}

std::string tensor_text(const at::Tensor& tensor) {
  std::string text = fmt::format("{} {}", dtype_text(tensor), shape_text(tensor));
  if (tensor.numel() == 1 && !tensor.is_complex() && tensor.element_size() > 1) {
    text += tensor.is_floating_point() ? fmt::format(" = {}", tensor.item<double>())
                                       : fmt::format(" = {}", tensor.item<int64_t>());
  }
  const int64_t bad = nonfinite_values(tensor);
  if (bad > 0) text += fmt::format("  {} of {} values are not finite", bad, tensor.numel());
  return text;
}

std::string scalar_text(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::none:
      return "None";
    case Value::Kind::boolean:
      return value.as_bool() ? "True" : "False";
    case Value::Kind::integer:
      return fmt::format("{}", value.as_int());
    case Value::Kind::real:
      return fmt::format("{}", value.as_real());
    case Value::Kind::string:
      return short_text(value.as_string());
    case Value::Kind::tensor:
      return tensor_text(value.as_tensor());
    case Value::Kind::opaque:
      return fmt::format("<{}>", value.type_name());
    default:
      return value.kind_name();
  }
}

bool is_container(const Value& value) {
  return value.kind() == Value::Kind::dict || value.kind() == Value::Kind::list ||
         value.kind() == Value::Kind::tuple || value.kind() == Value::Kind::set;
}

/// A list of a few numbers or texts, in one line; nothing for others.
std::optional<std::string> one_line(const Value& value) {
  if (value.is_dict()) {
    if (value.entries().empty()) return "{}";
    return std::nullopt;
  }
  const std::vector<Value>& items = value.items();
  const bool plain = std::none_of(items.begin(), items.end(), [](const Value& item) {
    return is_container(item) || (item.is_tensor() && item.as_tensor().dim() > 0);
  });
  if (!plain) return std::nullopt;
  std::vector<std::string> shown;
  for (const Value& item : items) {
    if (shown.size() == kMostItems) {
      shown.push_back(fmt::format("... {} more", items.size() - kMostItems));
      break;
    }
    shown.push_back(item.is_tensor() ? fmt::format("{}", item.as_tensor().item<double>())
                                     : scalar_text(item));
  }
  return value.kind() == Value::Kind::list  ? fmt::format("[{}]", fmt::join(shown, ", "))
         : value.kind() == Value::Kind::set ? fmt::format("{{{}}}", fmt::join(shown, ", "))
                                            : fmt::format("({})", fmt::join(shown, ", "));
}

void add_tree(const Value& value, size_t depth, std::string& text);

void add_entry(const std::string& name, size_t width, const Value& value, size_t depth,
               std::string& text) {
  const std::string indent(2 * depth, ' ');
  if (!is_container(value)) {
    text += fmt::format("{}{:{}}  {}\n", indent, name, width, scalar_text(value));
    return;
  }
  if (const std::optional<std::string> line = one_line(value)) {
    text += fmt::format("{}{:{}}  {}\n", indent, name, width, *line);
    return;
  }
  text += fmt::format("{}{}\n", indent, name);
  add_tree(value, depth + 1, text);
}

void add_tree(const Value& value, size_t depth, std::string& text) {
  if (value.is_dict()) {
    size_t width = 0;
    for (const auto& [key, item] : value.entries()) {
      if (!is_container(item)) width = std::max(width, key_text(key).size());
    }
    for (const auto& [key, item] : value.entries()) {
      add_entry(key_text(key), width, item, depth, text);
    }
    return;
  }
  const std::vector<Value>& items = value.items();
  for (size_t i = 0; i < items.size(); ++i) {
    if (i == kMostItems && items.size() > kMostItems + 1) {
      text += fmt::format("{}... {} more\n", std::string(2 * depth, ' '), items.size() - i);
      return;
    }
    add_entry(fmt::format("[{}]", i), 0, items[i], depth, text);
  }
}

ordered_json tree_json(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::none:
      return nullptr;
    case Value::Kind::boolean:
      return value.as_bool();
    case Value::Kind::integer:
      return value.as_int();
    case Value::Kind::real:
      return value.as_real();
    case Value::Kind::string:
      return value.as_string();
    case Value::Kind::tensor: {
      const at::Tensor& tensor = value.as_tensor();
      ordered_json json{{"dtype", dtype_text(tensor)}, {"shape", tensor.sizes().vec()}};
      if (tensor.numel() == 1 && !tensor.is_complex()) {
        json["value"] = tensor.to(at::kDouble).item<double>();
      }
      json["nonfinite"] = nonfinite_values(tensor);
      return ordered_json{{"tensor", std::move(json)}};
    }
    case Value::Kind::opaque:
      return ordered_json{{"opaque", value.type_name()}};
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set: {
      ordered_json json = ordered_json::array();
      for (const Value& item : value.items()) json.push_back(tree_json(item));
      return json;
    }
    case Value::Kind::dict: {
      ordered_json json = ordered_json::object();
      for (const auto& [key, item] : value.entries()) json[key_text(key)] = tree_json(item);
      return json;
    }
  }
  return nullptr;
}

}  // namespace

std::string size_text(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  double size = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* larger : {"kB", "MB", "GB", "TB"}) {
    if (size < 999.5) break;
    size /= 1000;
    unit = larger;
  }
  return size < 10 ? fmt::format("{:.1f} {}", size, unit) : fmt::format("{:.0f} {}", size, unit);
}

std::string dtype_text(const at::Tensor& tensor) {
  static const std::pair<const char*, const char*> kNames[] = {{"Float", "float32"},
                                                               {"Double", "float64"},
                                                               {"Half", "float16"},
                                                               {"BFloat16", "bfloat16"},
                                                               {"Long", "int64"},
                                                               {"Int", "int32"},
                                                               {"Short", "int16"},
                                                               {"Char", "int8"},
                                                               {"Byte", "uint8"},
                                                               {"ComplexFloat", "complex64"},
                                                               {"ComplexDouble", "complex128"}};
  const std::string name = at::toString(tensor.scalar_type());
  for (const auto& [cpp, python] : kNames) {
    if (name == cpp) return python;
  }
  return lower_case(name);
}

FileSummary summarize(const std::string& path, const Value& file) {
  FileSummary summary;
  summary.path = path;
  std::error_code error;
  summary.bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  summary.writer = writer_of(file);
  if (file.is_dict()) {
    for (const std::string& key : all_weights(file)) {
      summary.weights.push_back(summarize_weights(file, key));
    }
  }
  collect_opaque(file, "", summary.opaque);
  return summary;
}

std::string summary_text(const FileSummary& summary, const Value& file) {
  std::string text = fmt::format("{}: {}", summary.path, size_text(summary.bytes));
  if (!summary.writer.empty()) text += fmt::format(", written by {}", summary.writer);
  text += "\n";
  for (const WeightsSummary& weights : summary.weights) {
    text += fmt::format("  weights{}{}: {} tensors, {} values, {}; {}\n",
                        weights.key.empty() ? "" : " at " + weights.key,
                        weights.content.empty() ? "" : " (" + weights.content + ")",
                        weights.tensors, weights.values, size_text(weights.bytes),
                        weights.nonfinite == 0
                            ? std::string("all finite")
                            : fmt::format("{} are NaN or infinite", weights.nonfinite));
  }
  if (summary.weights.empty()) text += "  no weights\n";
  for (const std::string& object : summary.opaque) {
    text += fmt::format("  only Python can read {}\n", object);
  }
  text += "\n";
  if (is_container(file)) {
    add_tree(file, 0, text);
  } else {
    text += scalar_text(file) + "\n";
  }
  return text;
}

ordered_json summary_json(const FileSummary& summary, const Value& file) {
  ordered_json json{{"file", summary.path}, {"bytes", summary.bytes}, {"writer", summary.writer}};
  json["weights"] = ordered_json::array();
  for (const WeightsSummary& weights : summary.weights) {
    json["weights"].push_back({{"key", weights.key},
                               {"content", weights.content},
                               {"tensors", weights.tensors},
                               {"values", weights.values},
                               {"bytes", weights.bytes},
                               {"nonfinite", weights.nonfinite}});
  }
  json["opaque"] = summary.opaque;
  json["content"] = tree_json(file);
  return json;
}

}  // namespace polyak::cli
