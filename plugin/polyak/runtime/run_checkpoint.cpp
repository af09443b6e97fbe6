// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/run_checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/core/log.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/file_weights.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;

namespace {

/// MMEngine's keys of the best score and its file.
bool is_best(const std::string& key) {
  return key.rfind("best_score", 0) == 0 || key.rfind("best_ckpt", 0) == 0;
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
  Value resumed = Value::dict();  // what MMEngine restores, if it continues to write it
  for (const auto& [key, value] : runner.run_info().entries()) {
    if (is_best(key.as_string())) resumed.set(key, true);
  }
  hub.set("runtime_info", runner.run_info());
  hub.set("log_scalars", Value::dict());  // MMEngine cannot read a hub without it
  hub.set("resumed_keys", std::move(resumed));

  Value extra = Value::dict();
  extra.set("format", kCheckpointFormat);
  extra.set("optimizer_steps", runner.progress().optimizer_steps);
  extra.set("epoch_length", runner.progress().epoch_length);
  extra.set("state_dict", "raw");

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

/// What the pointer file in a folder names; "" without one.
std::string follow_pointer(const std::string& folder) {
  const fs::path pointer = fs::path(folder) / "last_checkpoint";
  std::ifstream file(pointer);
  std::string name;
  if (!file || !std::getline(file, name) || name.empty()) return "";
  std::vector<fs::path> candidates{fs::path(folder) / name};
  // MMEngine's path is relative to the current folder. A bare name there belongs to another run.
  if (fs::path(name).has_parent_path()) candidates.emplace_back(name);
  candidates.push_back(fs::path(folder) / fs::path(name).filename());
  std::error_code ignored;
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate, ignored)) return candidate.lexically_normal().string();
  }
  const std::vector<std::string> others = regular_checkpoints(folder);
  fail<CheckpointError>("{} names {}, which does not exist; {}", pointer.string(),
                        pickle::printable(name),
                        others.empty() ? "set another checkpoint with --resume or load_from"
                                       : fmt::format("the newest checkpoint next to it is {}; set "
                                                     "it with --resume or load_from",
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

// ---- what a resumed run restores

bool is_polyaks(const Value& checkpoint) {
  return checkpoint.contains("polyak");
}

std::vector<std::string> other_weights(const Value& checkpoint) {
  std::vector<std::string> others;
  for (const std::string& key : all_weights(checkpoint)) {
    // An average in MMEngine's layout includes its count; state_dict holds the average.
    const Value* entry = checkpoint.find(key);
    const bool is_average =
        key.rfind("ema_state_dict", 0) == 0 && entry && entry->contains("steps");
    if (key != "state_dict" && !is_average) others.push_back(key);
  }
  return others;
}

Value resumed_run_info(const Value& checkpoint) {
  const Value* hub = checkpoint.find("message_hub");
  const Value* info = hub && hub->is_dict() ? hub->find("runtime_info") : nullptr;
  if (!info || !info->is_dict()) return Value::dict();
  if (is_polyaks(checkpoint)) return *info;
  Value best = Value::dict();
  for (const auto& [key, value] : info->entries()) {
    const std::string& name = key.as_string();
    if (is_best(name)) best.set(key, value);
  }
  return best;
}

namespace {

std::string rule_of(const Value& checkpoint, const std::string& name) {
  const Value* record = average_record(checkpoint, name);
  const Value* rule = record ? record->find("rule") : nullptr;
  return rule ? rule->as_string() : "average";
}

}  // namespace

void give_to_hooks(Runner& runner, Value& checkpoint) {
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
    // A hook of another kind may have restored the raw weights.
    if (!first.is_same(first_tensor())) taken.insert("");
    for (const std::string& name : averages_in(checkpoint)) {
      if (taken.count(name)) continue;
      if (name.empty()) exchange_weights_of(checkpoint, name);
      log_info(
          "resume: no hook keeps the checkpoint's {}{}; it is dropped, and the run continues with "
          "the raw weights",
          rule_of(checkpoint, name), name.empty() ? "" : fmt::format(" '{}'", name));
    }
  }
}

int64_t epoch_length_of(const Value& checkpoint, int64_t otherwise) {
  const Value* extra = checkpoint.find("polyak");
  const Value* length = extra ? extra->find("epoch_length") : nullptr;
  return length ? length->as_int() : otherwise;
}

// ---- accumulated gradients

Value gathered_gradients(const ModelRef& model) {
  Value gradients = Value::dict();
  for (const NamedTensor& item : model.tensors()) {
    if (!item.buffer && item.tensor.grad().defined()) {
      gradients.set(item.name, item.tensor.grad().detach());
    }
  }
  return gradients;
}

std::optional<GatheredGradients> fit_gradients(const ModelRef& model, const Value& checkpoint,
                                               int64_t accumulative_counts) {
  const Value* extra = checkpoint.find("polyak");
  const Value* gradients = extra ? extra->find("gradients") : nullptr;
  if (!gradients) return std::nullopt;
  const int64_t counts = extra->at("accumulative_counts").as_int();
  if (counts != accumulative_counts) {
    log_warning(
        "the checkpoint holds gradients accumulated for steps of {} iterations, but "
        "accumulative_counts is now {}; they are dropped",
        counts, accumulative_counts);
    return std::nullopt;
  }
  GatheredGradients found;
  for (const NamedTensor& item : model.tensors()) {
    const Value* gradient = item.buffer ? nullptr : gradients->find(item.name);
    if (!gradient) continue;
    if (gradient->as_tensor().sizes() != item.tensor.sizes()) {
      fail<CheckpointError>("polyak.gradients: {} has shape {}, but the model's parameter has {}",
                            item.name, shape_text(gradient->as_tensor()), shape_text(item.tensor));
    }
    found.emplace_back(item.tensor, gradient->as_tensor().to(item.tensor.options()).clone());
  }
  if (found.size() != gradients->entries().size()) {
    fail<CheckpointError>("polyak.gradients: only {} of {} belong to the model", found.size(),
                          gradients->entries().size());
  }
  return found;
}

}  // namespace polyak
