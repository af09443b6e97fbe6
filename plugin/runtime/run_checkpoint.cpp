#include "polyak/runtime/run_checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <set>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/core/log.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/runner.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kFormat = 1;  // of the top-level key `polyak`
constexpr const char* kRawWeights = "raw";
constexpr const char* kAveragedWeights = "averaged";
constexpr const char* kEmaState = "ema_state_dict";
constexpr const char* kModulePrefix = "module.";

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes().begin(), tensor.sizes().end(), ", "));
}

}  // namespace

Value begin_checkpoint(Runner& runner, int64_t epochs, int64_t iters, const std::string& config) {
  Value meta = Value::dict();
  meta.set("epoch", epochs);
  meta.set("iter", iters);
  meta.set("cfg", config);
  meta.set("time", local_time("%Y%m%d_%H%M%S"));
  meta.set("polyak_version", POLYAK_VERSION);

  Value state_dict = Value::dict({}, /*ordered=*/true);
  for (const NamedTensor& item : runner.model().tensors()) {
    state_dict.set(item.name, item.tensor.detach());
  }
  Value hub = Value::dict();
  hub.set("runtime_info", runner.run_info());
  hub.set("log_scalars", Value::dict());  // MMEngine reads no hub without these two
  hub.set("resumed_keys", Value::dict());

  Value extra = Value::dict();
  extra.set("format", kFormat);
  extra.set("optimizer_steps", runner.progress().optimizer_steps);
  extra.set("epoch_length", runner.progress().epoch_length);
  extra.set("state_dict", kRawWeights);

  Value checkpoint = Value::dict();
  checkpoint.set("meta", std::move(meta));
  checkpoint.set("state_dict", std::move(state_dict));
  checkpoint.set("message_hub", std::move(hub));
  checkpoint.set("polyak", std::move(extra));
  return checkpoint;
}

std::vector<std::string> out_dirs(const Node& config) {
  std::vector<std::string> folders;
  const auto add = [&](const Node& hook) {
    const Node* folder = hook.is_mapping() ? hook.find("out_dir") : nullptr;
    if (folder && folder->is_scalar() && !folder->is_null()) folders.push_back(folder->text());
  };
  if (const Node* hooks = config.find("default_hooks"); hooks && hooks->is_mapping()) {
    for (const auto& [name, hook] : hooks->entries()) add(hook);
  }
  if (const Node* hooks = config.find("custom_hooks"); hooks && hooks->is_sequence()) {
    for (const Node& hook : hooks->items()) add(hook);
  }
  return folders;
}

std::vector<std::string> regular_checkpoints(const std::string& folder) {
  static const std::regex kName(R"((epoch|iter)_\d+\.pth)");
  std::vector<std::pair<fs::file_time_type, std::string>> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (!std::regex_match(entry.path().filename().string(), kName)) continue;
    std::error_code gone;
    const fs::file_time_type time = entry.last_write_time(gone);
    if (!gone) found.emplace_back(time, entry.path().string());
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> files;
  files.reserve(found.size());
  for (auto& [time, file] : found) files.push_back(std::move(file));
  return files;
}

namespace {

/// What the pointer in a folder names; "" without one.
std::string follow_pointer(const std::string& folder) {
  const fs::path pointer = fs::path(folder) / "last_checkpoint";
  std::ifstream file(pointer);
  std::string name;
  if (!file || !std::getline(file, name) || name.empty()) return "";
  std::vector<fs::path> candidates{fs::path(folder) / name};
  // MMEngine's path starts at the current folder. A bare name there is another run's.
  if (fs::path(name).has_parent_path()) candidates.emplace_back(name);
  candidates.push_back(fs::path(folder) / fs::path(name).filename());
  std::error_code ignored;
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate, ignored)) return candidate.lexically_normal().string();
  }
  const std::vector<std::string> others = regular_checkpoints(folder);
  fail<CheckpointError>("{} names {}, which is not there; {}", pointer.string(),
                        pickle::printable(name),
                        others.empty() ? "name another checkpoint by --resume or load_from"
                                       : fmt::format("the newest checkpoint beside it is {}; name "
                                                     "it by --resume or load_from",
                                                     others.front()));
}

std::vector<std::string> folders_of(const std::string& work_dir,
                                    const std::vector<std::string>& out_dirs) {
  std::vector<std::string> folders = out_dirs;
  if (!work_dir.empty()) folders.insert(folders.begin(), work_dir);
  return folders;
}

}  // namespace

std::string named_checkpoint(const std::string& work_dir,
                             const std::vector<std::string>& out_dirs) {
  for (const std::string& folder : folders_of(work_dir, out_dirs)) {
    std::string file = follow_pointer(folder);
    if (!file.empty()) return file;
  }
  return "";
}

std::string find_last_checkpoint(const std::string& work_dir,
                                 const std::vector<std::string>& out_dirs) {
  std::string named = named_checkpoint(work_dir, out_dirs);
  if (!named.empty()) return named;
  for (const std::string& folder : folders_of(work_dir, out_dirs)) {
    const std::vector<std::string> files = regular_checkpoints(folder);
    if (!files.empty()) return files.front();
  }
  return "";
}

void name_file_in_errors(const std::string& file, const std::function<void()>& action) {
  try {
    action();
  } catch (const CheckpointError& error) {
    const std::string text = error.what();
    if (text.find(file) != std::string::npos) throw;
    fail<CheckpointError>("{}: {}", file, text);
  }
}

void strip_module_prefix(Value& state_dict, const Model& model) {
  const std::string prefix = "module.";
  for (const NamedTensor& item : model.tensors()) {
    if (item.name.compare(0, prefix.size(), prefix) == 0) return;  // the model's own name
  }
  for (auto& [key, value] : state_dict.entries()) {
    const std::string& name = key.as_string();
    if (name.compare(0, prefix.size(), prefix) == 0) key = Value(name.substr(prefix.size()));
  }
}

std::string StateDifference::text() const {
  std::vector<std::string> parts;
  auto add = [&](const char* what, const std::vector<std::string>& names) {
    constexpr size_t kShown = 8;
    if (names.empty()) return;
    const std::vector<std::string> shown(names.begin(),
                                         names.begin() + std::min(names.size(), kShown));
    parts.push_back(fmt::format(
        "{}: {}{}", what, fmt::join(shown, ", "),
        names.size() > kShown ? fmt::format(" and {} more", names.size() - kShown) : ""));
  };
  add("missing in the checkpoint", missing);
  add("not in the model", unexpected);
  add("of another shape", mismatched);
  return fmt::format("{}", fmt::join(parts, "; "));
}

StateDifference compare_state_dict(const Model& model, const Value& state_dict) {
  StateDifference result;
  std::set<std::string> names;
  for (const NamedTensor& item : model.tensors()) {
    names.insert(item.name);
    const Value* value = state_dict.find(item.name);
    if (!value || !value->is_tensor()) {
      result.missing.push_back(item.name);
    } else if (value->as_tensor().sizes() != item.tensor.sizes()) {
      result.mismatched.push_back(fmt::format("{} ({} in the checkpoint, {} in the model)",
                                              item.name, shape_text(value->as_tensor()),
                                              shape_text(item.tensor)));
    } else {
      ++result.fitting;
    }
  }
  for (const auto& [key, value] : state_dict.entries()) {
    if (!names.count(key.as_string())) result.unexpected.push_back(key.as_string());
  }
  return result;
}

void load_state_dict(const Model& model, const Value& state_dict) {
  const torch::NoGradGuard no_grad;
  for (const NamedTensor& item : model.tensors()) {
    const Value* value = state_dict.find(item.name);
    if (!value || !value->is_tensor()) continue;
    if (value->as_tensor().sizes() != item.tensor.sizes()) continue;
    at::Tensor(item.tensor).copy_(value->as_tensor());
  }
}

// ---- averages in a checkpoint

namespace {

/// The entry that changes places with `state_dict` so that it holds `weights`; "" for none.
std::string entry_of(const Value& checkpoint, const std::string& weights) {
  const bool averaged = checkpoint.contains(kEmaState);  // what state_dict holds without a change
  if (weights == (averaged ? kAveragedWeights : kRawWeights)) return "";
  if (weights == kRawWeights || weights == kAveragedWeights) return kEmaState;
  return fmt::format("{}.{}", kEmaState, weights);
}

void exchange_entry(Value& checkpoint, const std::string& entry) {
  if (entry.empty()) return;
  Value* ema_state = checkpoint.find(entry);
  if (!ema_state) {
    fail<CheckpointError>("its polyak.state_dict needs '{}', which is not there", entry);
  }
  exchange_weights(checkpoint.at("state_dict"), *ema_state);
}

/// The name of the average that an entry of a checkpoint belongs to; nothing for other entries.
std::optional<std::string> average_of(const std::string& key) {
  const std::string named = std::string(kEmaState) + ".";
  if (key == kEmaState) return "";
  if (key.compare(0, named.size(), named) == 0) return key.substr(named.size());
  return std::nullopt;
}

std::string rule_of(const Value& checkpoint, const std::string& name) {
  const Value* ours = checkpoint.find("polyak");
  const Value* averages = ours ? ours->find("averages") : nullptr;
  const Value* record = averages ? averages->find(name.empty() ? "ema" : name) : nullptr;
  const Value* rule = record ? record->find("rule") : nullptr;
  return rule ? rule->as_string() : "average";
}

void take_raw_weights(const Model& model, Value& checkpoint) {
  Value& state_dict = checkpoint.at("state_dict");
  Value& ema_state = checkpoint.at(kEmaState);
  for (const NamedTensor& item : model.tensors()) {
    const Value* raw = ema_state.find(kModulePrefix + item.name);
    if (raw && raw->is_tensor() && raw->as_tensor().sizes() == item.tensor.sizes()) continue;
    fail<CheckpointError>("the raw weights in the checkpoint's {} do not fit the model: {}{} is {}",
                          kEmaState, kModulePrefix, item.name,
                          raw ? "of another shape" : "missing");
  }
  exchange_weights(state_dict, ema_state);
}

}  // namespace

void exchange_weights(Value& state_dict, Value& ema_state) {
  const std::string prefix = kModulePrefix;
  for (auto& [key, value] : ema_state.entries()) {
    const std::string& name = key.as_string();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    if (Value* other = state_dict.find(name.substr(prefix.size()))) std::swap(*other, value);
  }
}

void put_into_state_dict(Value& checkpoint, const std::string& weights) {
  exchange_entry(checkpoint, entry_of(checkpoint, weights));
  if (!checkpoint.contains("polyak")) checkpoint.set("polyak", Value::dict());
  checkpoint.at("polyak").set("state_dict", weights);
}

void restore_state_dict(Value& checkpoint) {
  Value* ours = checkpoint.find("polyak");
  Value* weights = ours ? ours->find("state_dict") : nullptr;
  if (!weights) return;
  exchange_entry(checkpoint, entry_of(checkpoint, weights->as_string()));
  *weights = checkpoint.contains(kEmaState) ? kAveragedWeights : kRawWeights;
}

void load_into_run(Runner& runner, Value& checkpoint) {
  if (runner.resuming()) restore_state_dict(checkpoint);
  const auto first_tensor = [&] {
    const auto& entries = checkpoint.at("state_dict").entries();
    return entries.empty() ? at::Tensor() : entries.front().second.as_tensor();
  };
  const at::Tensor first = first_tensor();
  runner.hooks().call([&](Hook& hook) { hook.after_load_checkpoint(runner, checkpoint); });
  if (runner.resuming()) {
    std::set<std::string> taken;
    for (const NamedAverage& item : runner.averages()) taken.insert(item.name);
    // A hook of another kind may have put the raw weights back.
    if (!first.is_same(first_tensor())) taken.insert("");
    for (const auto& [key, value] : checkpoint.entries()) {
      const std::optional<std::string> name = average_of(key.as_string());
      if (!name || taken.count(*name)) continue;
      if (name->empty()) take_raw_weights(runner.model(), checkpoint);
      log_info(
          "resume: no hook keeps the checkpoint's {}{}; it is dropped, and the raw weights go on",
          rule_of(checkpoint, *name), name->empty() ? "" : fmt::format(" '{}'", *name));
    }
  }
  load_state_dict(runner.model(), checkpoint.at("state_dict"));
}

// ---- gathered gradients

Value gathered_gradients(const Model& model) {
  Value gradients = Value::dict();
  for (const NamedTensor& item : model.tensors()) {
    if (!item.buffer && item.tensor.grad().defined()) {
      gradients.set(item.name, item.tensor.grad().detach());
    }
  }
  return gradients;
}

void load_gradients(const Model& model, const Value& gradients) {
  std::vector<std::pair<at::Tensor, at::Tensor>> found;
  for (const NamedTensor& item : model.tensors()) {
    const Value* gradient = item.buffer ? nullptr : gradients.find(item.name);
    if (!gradient) continue;
    if (gradient->as_tensor().sizes() != item.tensor.sizes()) {
      fail<CheckpointError>("polyak.gradients: {} is of shape {}, the model's parameter of {}",
                            item.name, shape_text(gradient->as_tensor()), shape_text(item.tensor));
    }
    found.emplace_back(item.tensor, gradient->as_tensor().to(item.tensor.options()).clone());
  }
  if (found.size() != gradients.entries().size()) {
    fail<CheckpointError>("polyak.gradients: {} of {} are the model's", found.size(),
                          gradients.entries().size());
  }
  for (auto& [parameter, gradient] : found) parameter.mutable_grad() = gradient;
}

}  // namespace polyak
