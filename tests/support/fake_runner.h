// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/register.h"
#include "polyak/hooks/ema_hook.h"
#include "polyak/runtime/evaluation_scope.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/runner.h"

namespace polyak::test {

/// A runner without a loop: tests set its counters and call its hooks.
class FakeRunner : public Runner, public TrainingForward {
 public:
  explicit FakeRunner(ModelRef model) : model_(std::move(model)) {}

  ModelRef model() override { return model_; }
  const Progress& progress() const override { return progress_; }
  HookList& hooks() override { return hooks_; }
  bool resuming() const override { return resuming_; }
  void log(const std::string& name, double value) override { logged_[name] = value; }
  const Scalars& logged() const override { return logged_; }
  std::string work_dir() const override { return work_dir_; }
  std::string timestamp() const override { return "stamp"; }
  void request_stop() override { stopped_ = true; }
  bool reset_optimizer_state() override { return ++optimizer_resets_ > 0; }
  Scalars validate(const std::string& suffix) override {
    Scalars metrics;
    for (const auto& [name, value] : evaluate_()) metrics[name + suffix] = value;
    return metrics;
  }
  TrainingForward* training_forward() override { return this; }
  void run_training_forward(int64_t num_samples) override { forward_(num_samples); }

  ModelRef model_;
  Progress progress_;
  HookList hooks_;
  Scalars logged_;
  bool resuming_ = false;
  bool stopped_ = false;
  int optimizer_resets_ = 0;
  std::string work_dir_;
  std::function<Scalars()> evaluate_ = [] { return Scalars(); };
  std::function<void(int64_t)> forward_ = [](int64_t) {};
};

inline const Registry<AveragedModel>& averages() {
  static Catalog& catalog = [&]() -> Catalog& {
    static Catalog filled;
    register_averages(filled);
    return filled;
  }();
  return catalog.of<AveragedModel>();
}

/// An EMAHook from keys as a config would give them.
inline std::shared_ptr<EMAHook> make_ema_hook(const Node& keys) {
  EMAHookOptions options;
  read_options(keys, options, "EMAHook");
  return std::make_shared<EMAHook>(options, averages());
}

/// The state_dict of a model as a checkpoint holds it, copied.
inline Value state_dict_of(const ModelRef& model) {
  Value dict = Value::dict({}, true);
  for (const NamedTensor& item : model.tensors()) dict.set(item.name, item.tensor.detach().clone());
  return dict;
}

}  // namespace polyak::test
