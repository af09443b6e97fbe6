// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/publish.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/core/text.h"
#include "polyak/runtime/checkpoint_averages.h"

namespace polyak {
namespace {

const std::map<std::string, at::ScalarType> kDtypes{{"float64", at::kDouble},
                                                    {"float32", at::kFloat},
                                                    {"float16", at::kHalf},
                                                    {"bfloat16", at::kBFloat16}};

/// A checkpoint whose state_dict holds these weights. A copy of handles, not of tensors.
Value with_weights(Value checkpoint, const std::string& weights) {
  restore_state_dict(checkpoint);
  const std::vector<std::string> averages = averages_in(checkpoint);
  const std::string name = weights == "averaged" ? "" : weights;
  if (weights != "raw" && !std::count(averages.begin(), averages.end(), name)) {
    std::vector<std::string> kinds{"raw"};
    for (const std::string& known : averages) kinds.push_back(known.empty() ? "averaged" : known);
    fail<CheckpointError>("published.weights is '{}', but the run has only: {}", weights,
                          list_names(kinds));
  }
  put_into_state_dict(checkpoint, weights);
  return checkpoint;
}

SafetensorsMetadata metadata_of(const Value& checkpoint) {
  SafetensorsMetadata metadata;
  const auto add = [&](const char* name, const Value* value) {
    if (!value) return;
    if (value->kind() == Value::Kind::string) metadata[name] = value->as_string();
    if (value->kind() == Value::Kind::integer) metadata[name] = std::to_string(value->as_int());
  };
  if (const Value* meta = checkpoint.find("meta")) {
    for (const char* key : {"epoch", "iter", "polyak_version"}) add(key, meta->find(key));
  }
  if (const Value* ours = checkpoint.find("polyak")) add("weights", ours->find("state_dict"));
  return metadata;
}

}  // namespace

void PublishOptions::visit(OptionVisitor& visitor) {
  visitor.choice("format", &format, {"safetensors", "pth"}, "The format of the files.");
  visitor.key("weights", &weights,
              "raw, averaged, or the name of an average; null: those of the checkpoint's "
              "state_dict.");
  visitor.choice("dtype", &dtype, {"float64", "float32", "float16", "bfloat16"},
                 "Of floating-point tensors; null: the model's.");
  visitor.key("keys", &keys,
              "Entries of the checkpoint that a .pth keeps; empty: meta and state_dict.");
}

void PublishOptions::validate() const {
  if (format == "safetensors" && !keys.empty() && keys != std::vector<std::string>{"state_dict"}) {
    fail_option("keys", "a .safetensors file holds only tensors; remove it, or set format: pth");
  }
  if (!keys.empty() && !std::count(keys.begin(), keys.end(), "state_dict")) {
    fail_option("keys", "must contain state_dict, which holds the weights");
  }
}

at::ScalarType floating_dtype(const std::string& name) {
  return kDtypes.at(name);
}

Value cast_tensors(const Value& state_dict, const std::string& dtype) {
  Value tensors = Value::dict({}, /*ordered=*/true);
  std::map<std::pair<const void*, std::vector<int64_t>>, at::Tensor> made;
  for (const auto& [key, value] : state_dict.entries()) {
    if (!value.is_tensor() || key.kind() != Value::Kind::string) continue;
    at::Tensor tensor = value.as_tensor();
    if (!dtype.empty() && tensor.is_floating_point()) {
      at::Tensor& other = made[{tensor.data_ptr(), tensor.sizes().vec()}];
      if (!other.defined()) other = tensor.to(kDtypes.at(dtype));
      tensor = other;
    }
    tensors.set(key, std::move(tensor));
  }
  return tensors;
}

void check_published_keys(const PublishOptions& options, const Value& checkpoint) {
  for (const std::string& key : options.keys) {
    // What other hooks add is not there yet.
    if (checkpoint.contains(key) || key.rfind("ema_state_dict", 0) == 0) continue;
    std::vector<std::string> keys;
    for (const auto& [name, value] : checkpoint.entries()) keys.push_back(name.as_string());
    fail<ConfigError>("CheckpointHook: published.keys: a checkpoint has no '{}'; it has {}", key,
                      fmt::join(keys, ", "));
  }
}

void check_published_weights(const PublishOptions& options, const AverageSet& averages) {
  if (!options.weights || *options.weights == "raw") return;
  const std::string name = *options.weights == "averaged" ? "" : *options.weights;
  std::vector<std::string> kinds{"raw"};
  for (const NamedAverage& item : averages) {
    if (item.name == name) return;
    kinds.push_back(item.name.empty() ? "averaged" : item.name);
  }
  fail<ConfigError>("CheckpointHook: published.weights is '{}', but the run only has: {}",
                    *options.weights, fmt::join(kinds, ", "));
}

std::string published_path(const std::string& stem, const PublishOptions& options) {
  return fmt::format("{}.{}", stem, options.format);
}

void publish(const Value& checkpoint, const std::string& stem, const PublishOptions& options) {
  const Value chosen = options.weights ? with_weights(checkpoint, *options.weights) : checkpoint;
  const Value tensors = cast_tensors(chosen.at("state_dict"), options.dtype.value_or(""));
  const std::string path = published_path(stem, options);
  if (options.format == "safetensors") {
    write_safetensors(path, tensors, metadata_of(chosen));
    return;
  }
  std::vector<std::string> keys = options.keys;
  if (keys.empty()) keys = {"meta", "state_dict"};
  Value file = Value::dict();
  for (const std::string& key : keys) {
    file.set(key, key == "state_dict" ? tensors : chosen.at(key));
  }
  write_pth(path, file);
}

}  // namespace polyak
