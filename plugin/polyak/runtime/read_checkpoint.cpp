// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/file_weights.h"
#include "polyak/runtime/key_maps.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/tensor_names.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

/// The files next to `file` that have names of whole checkpoints, newest first.
std::vector<std::string> files_beside(const std::string& file) {
  fs::path folder = fs::path(file).parent_path();
  if (folder.empty()) folder = ".";
  std::vector<std::pair<fs::file_time_type, std::string>> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (checkpoint_format(entry.path().string()) != CheckpointFormat::pth) continue;
    if (fs::equivalent(entry.path(), file, ignored)) continue;
    found.emplace_back(entry.last_write_time(ignored), entry.path().lexically_normal().string());
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> files;
  files.reserve(found.size());
  for (auto& [time, name] : found) files.push_back(std::move(name));
  return files;
}

/// The newest intact checkpoint next to `file`, if possible one that a run can resume from; "" for
/// none.
std::string newest_whole(const std::string& file) {
  std::string newest;
  for (const std::string& other : files_beside(file)) {
    try {
      const Value checkpoint = read_checkpoint_file(other);
      if (checkpoint.is_dict() && checkpoint.contains("optimizer")) return other;
      if (newest.empty()) newest = other;
    } catch (const CheckpointError&) {
      continue;  // damaged as well, or not one of ours
    }
  }
  return newest;
}

Value read_whole(const std::string& file) {
  try {
    return read_checkpoint_file(file);
  } catch (const DamagedCheckpointError& error) {
    const std::string other = newest_whole(file);
    fail<DamagedCheckpointError>(
        "{}; {}", error.what(),
        other.empty() ? "there is no intact checkpoint next to it"
                      : fmt::format("the newest intact checkpoint next to it is {}", other));
  }
}

}  // namespace

Value read_checkpoint(const std::string& file, const std::string& key) {
  Value whole = read_whole(file);
  if (whole.is_opaque()) {
    fail<CheckpointError>(
        "{}: holds a whole Python object, {}, which only Python can read; save its state_dict()",
        file, whole.type_name());
  }
  if (!whole.is_dict()) {
    fail<CheckpointError>("{}: holds a {}, expected a dict", file, whole.kind_name());
  }
  Value checkpoint;
  name_file_in_errors(file, [&] {
    const std::string place = key.empty() ? find_weights(whole) : key;
    checkpoint = checkpoint_with_weights(std::move(whole), place);
    const Value& state_dict = checkpoint.at("state_dict");
    if (!state_dict.is_dict()) {
      fail<CheckpointError>("its 'state_dict' is a {}, expected a dict", state_dict.kind_name());
    }
    if (place != "state_dict" && !place.empty()) log_info("{}: its '{}' is used", file, place);
    const Value* extra = checkpoint.find("polyak");
    const int64_t format = extra ? extra->at("format").as_int() : kCheckpointFormat;
    if (format > kCheckpointFormat) {
      fail<CheckpointError>("its entry 'polyak' has format {}, this version reads up to {}", format,
                            kCheckpointFormat);
    }
  });
  return checkpoint;
}

void fit_names(Value& state_dict, const ModelRef& model) {
  remove_wrapper_names(state_dict);
  apply_key_map(state_dict, model);
  match_names(state_dict, model);
}

void fit_checkpoint(Value& checkpoint, const ModelRef& model, bool resuming) {
  Value& state_dict = checkpoint.at("state_dict");
  // A run that is resumed has its optimizer's state and its averages by the model's own names.
  resuming ? match_names(state_dict, model) : fit_names(state_dict, model);
  match_average_names(checkpoint);
  if (resuming) check_raw_weights(checkpoint);
}

}  // namespace polyak
