#include "polyak/runtime/run_checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "polyak/checkpoint/pth.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/runner.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kFormat = 1;  // of the top-level key `polyak`

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

  Value extra = Value::dict();
  extra.set("format", kFormat);
  extra.set("optimizer_steps", runner.progress().optimizer_steps);
  extra.set("epoch_length", runner.progress().epoch_length);

  Value checkpoint = Value::dict();
  checkpoint.set("meta", std::move(meta));
  checkpoint.set("state_dict", std::move(state_dict));
  checkpoint.set("message_hub", std::move(hub));
  checkpoint.set("polyak", std::move(extra));
  return checkpoint;
}

std::string find_last_checkpoint(const std::string& work_dir) {
  const fs::path pointer = fs::path(work_dir) / "last_checkpoint";
  std::ifstream file(pointer);
  std::string name;
  if (!file || !std::getline(file, name) || name.empty()) return "";
  const fs::path relative = fs::path(work_dir) / name;
  const fs::path moved = fs::path(work_dir) / fs::path(name).filename();
  std::error_code ignored;
  for (const fs::path& candidate : {relative, fs::path(name), moved}) {
    if (fs::exists(candidate, ignored)) return candidate.string();
  }
  fail<CheckpointError>("{} names {}, which is not there; name a checkpoint by load_from",
                        pointer.string(), name);
}

Value read_checkpoint(const std::string& file) {
  Value checkpoint = read_pth(file);
  if (!checkpoint.is_dict()) {
    fail<CheckpointError>("{}: holds a {}, expected a dict", file, checkpoint.kind_name());
  }
  if (!checkpoint.contains("state_dict")) {  // Python's plain `model.state_dict()`
    Value whole = Value::dict();
    whole.set("state_dict", std::move(checkpoint));
    return whole;
  }
  if (const Value* extra = checkpoint.find("polyak")) {
    const int64_t format = extra->at("format").as_int();
    if (format > kFormat) {
      fail<CheckpointError>("{}: its entry 'polyak' has format {}, this version reads up to {}",
                            file, format, kFormat);
    }
  }
  return checkpoint;
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

}  // namespace polyak
