// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "polyak/runtime/hook.h"

namespace torch::autograd::profiler {
struct RecordProfile;
}

namespace polyak {

struct POLYAK_API ProfilerHookOptions : Options {
  /// Whether profile_times counts epochs, and not iterations.
  ProfilerHookOptions& by_epoch(bool value) { return by_epoch_ = value, *this; }
  bool by_epoch() const { return by_epoch_; }
  ProfilerHookOptions& profile_times(int64_t value) { return profile_times_ = value, *this; }
  int64_t profile_times() const { return profile_times_; }
  ProfilerHookOptions& json_trace_path(std::string value) {
    return json_trace_path_ = std::move(value), *this;
  }
  const std::optional<std::string>& json_trace_path() const { return json_trace_path_; }

  void visit(OptionVisitor& visitor) override;

 private:
  bool by_epoch_ = true;
  int64_t profile_times_ = 1;
  std::optional<std::string> json_trace_path_;
};

/// Records every operation of LibTorch in the first epochs or iterations of a run, and writes a
/// trace for chrome://tracing or ui.perfetto.dev; like MMEngine's hook of this name. It takes
/// LibTorch's own profiler, which keeps all events in memory until it writes them.
class POLYAK_API ProfilerHook : public Hook {
 public:
  /// @throws ConfigError
  explicit ProfilerHook(ProfilerHookOptions options);
  ~ProfilerHook() override;

  std::string name() const override { return "ProfilerHook"; }
  int priority() const override { return kVeryLow; }
  void check_run(Runner& runner) override;
  void before_train(Runner& runner) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
  void after_train_epoch(Runner& runner) override;
  void after_train(Runner& runner) override;

 private:
  std::string path(const Runner& runner) const;
  void count();
  void finish();

  ProfilerHookOptions options_;
  std::string file_;
  int64_t left_ = 0;                                                   // epochs or iterations
  std::shared_ptr<torch::autograd::profiler::RecordProfile> profile_;  // null: not recording
};

}  // namespace polyak
