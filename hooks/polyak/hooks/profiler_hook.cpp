// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/profiler_hook.h"

#include <torch/csrc/autograd/profiler_legacy.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"

namespace polyak {

namespace fs = std::filesystem;

void ProfilerHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("by_epoch", &by_epoch_, "Whether profile_times counts epochs, and not iterations.");
  visitor.key("profile_times", &profile_times_,
              "Epochs or iterations that are recorded, from the first one of the run on.",
              count_from(1));
  visitor.key("json_trace_path", &json_trace_path_,
              "The trace; null: WORK_DIR/TIMESTAMP/trace.json.");
}

ProfilerHook::ProfilerHook(ProfilerHookOptions options) : options_(std::move(options)) {
  check_options(options_, "ProfilerHook");
}

ProfilerHook::~ProfilerHook() = default;

/// Each process has a file of its own.
std::string ProfilerHook::path(const Runner& runner) const {
  fs::path file = options_.json_trace_path().value_or(
      (fs::path(runner.work_dir()) / runner.timestamp() / "trace.json").string());
  const auto processes = runner.process_group();
  if (processes && processes->size() > 1) {
    file.replace_filename(fmt::format("{}_rank_{}{}", file.stem().string(), processes->rank(),
                                      file.extension().string()));
  }
  return file.string();
}

void ProfilerHook::check_run(Runner& runner) {
  if (runner.work_dir().empty() && !options_.json_trace_path()) {
    fail<ConfigError>("ProfilerHook: there is no work_dir for the trace; set json_trace_path");
  }
}

void ProfilerHook::before_train(Runner& runner) {
  file_ = path(runner);
  left_ = options_.profile_times();
  std::error_code ignored;
  if (fs::path(file_).has_parent_path()) {
    fs::create_directories(fs::path(file_).parent_path(), ignored);
  }
  if (!std::ofstream(file_)) fail<Error>("ProfilerHook: {} cannot be written", file_);
  profile_ = std::make_shared<torch::autograd::profiler::RecordProfile>(file_);
}

void ProfilerHook::after_train_iter(Runner& /*runner*/, int64_t /*batch*/,
                                    const Scalars& /*outputs*/) {
  if (!options_.by_epoch()) count();
}

void ProfilerHook::after_train_epoch(Runner& /*runner*/) {
  if (options_.by_epoch()) count();
}

void ProfilerHook::after_train(Runner& /*runner*/) {
  finish();
}

void ProfilerHook::count() {
  if (left_ > 0 && --left_ == 0) finish();
}

void ProfilerHook::finish() {
  if (!profile_) return;
  profile_.reset();  // which writes the file
  log_info("ProfilerHook: the trace is in {}; open it in chrome://tracing or ui.perfetto.dev",
           file_);
}

}  // namespace polyak
