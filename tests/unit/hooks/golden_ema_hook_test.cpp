// SPDX-License-Identifier: Apache-2.0
// Every event of tests/golden/emahook.json: MMEngine's EMAHook on a fake runner, replayed on ours.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "support/averages.h"
#include "support/fake_runner.h"
#include "support/golden.h"

namespace polyak::test {
namespace {

using nlohmann::json;

std::vector<double> flat(const json& values) {
  return values.get<std::vector<double>>();
}

void load_state_dict(TinyNet& net, const Value& state_dict) {
  torch::NoGradGuard no_grad;
  for (const NamedTensor& item : ModelRef(net).tensors()) {
    item.tensor.copy_(state_dict.at(item.name).as_tensor());
  }
}

/// One run of the reference: a model, a hook, and counters.
class Replay {
 public:
  Replay(const json& trace, double tolerance)
      : trace_(trace),
        tolerance_(tolerance),
        net_(state_.make(state_.initial("float64"), at::kDouble)),
        runner_(net_),
        hook_(make_ema_hook(to_node(trace["hook"]))) {
    runner_.progress_.max_iters = trace["max_iters"];
    runner_.progress_.max_epochs = trace["max_epochs"];
    runner_.progress_.epoch_length = trace["epoch_len"];
    runner_.progress_.optimizer_steps = 0;
    runner_.progress_.max_optimizer_steps = trace["max_iters"];
    if (trace["hook"].value("update_buffers", false)) leave_out_.push_back(kBatchesTracked);
  }

  void set_counters(const json& event) {
    runner_.progress_.iter = event["iter"];
    runner_.progress_.epoch = event["epoch"];
  }

  void start() {
    hook_->before_run(runner_);
    hook_->before_train(runner_);
  }

  void change_weights(const json& event) {
    state_.load(net_, flat(event["source"]));
    ++runner_.progress_.optimizer_steps;
  }

  void expect_state(const json& event) {
    EXPECT_LE(largest_difference(flatten(*net_, state_.keys()), flat(event["source"]), leave_out_),
              tolerance_);
    // Beyond K the reference's momentum rises again; ours stays.
    const int64_t k = event["ema_steps"].get<int64_t>() - 1;
    if (trace_["name"] != "cosine_in_hook" || k <= trace_["max_iters"].get<int64_t>()) {
      EXPECT_LE(largest_difference(averages_now(), flat(event["ema"]), leave_out_), tolerance_);
    }
    EXPECT_EQ(hook_->average()->steps(), event["ema_steps"].get<int64_t>());
  }

  /// What the reference's average holds: during a swap the raw weights, which ours puts aside;
  /// before the first update a copy of the model.
  std::vector<double> averages_now() {
    AveragedModel& average = *hook_->average();
    std::map<std::string, at::Tensor> tensors;
    if (average.steps() == 0) {
      for (const NamedTensor& item : ModelRef(net_).tensors()) tensors[item.name] = item.tensor;
    } else if (average.is_swapped()) {
      for (const NamedTensor& item : average.swapped_out()) tensors[item.name] = item.tensor;
    } else {
      for (const auto& item : average.named_averages()) tensors[item.key()] = item.value();
    }
    return flatten_by([&](const std::string& key) { return tensors.at(key); }, state_.keys());
  }

  void save(const json& event) {
    checkpoint_ = Value::dict();
    checkpoint_.set("state_dict", state_dict_of(net_));
    hook_->before_save_checkpoint(runner_, checkpoint_);
    const Value& state = checkpoint_.at("state_dict");
    const Value& ema = checkpoint_.at("ema_state_dict");
    auto entry = [](const Value& dict, const std::string& prefix) {
      return [&dict, prefix](const std::string& key) { return dict.at(prefix + key).as_tensor(); };
    };
    EXPECT_LE(largest_difference(flatten_by(entry(state, ""), state_.keys()),
                                 flat(event["ckpt_state_dict"]), leave_out_),
              tolerance_);
    EXPECT_LE(largest_difference(flatten_by(entry(ema, "module."), state_.keys()),
                                 flat(event["ckpt_ema_module"]), leave_out_),
              tolerance_);
    EXPECT_EQ(ema.at("steps").as_tensor().item<int64_t>(), event["ckpt_ema_steps"].get<int64_t>());
    std::vector<std::string> keys;
    for (const auto& [key, value] : ema.entries()) keys.push_back(key.as_string());
    EXPECT_EQ(keys, event["ckpt_ema_keys"].get<std::vector<std::string>>());
    copy_tensors(checkpoint_);
  }

  /// The file: later updates must not reach it.
  static void copy_tensors(Value& dict) {
    for (auto& [key, value] : dict.entries()) {
      if (value.is_dict()) copy_tensors(value);
      if (value.is_tensor()) value = value.as_tensor().clone();
    }
  }

  void load(const Value& checkpoint, bool resuming) {
    runner_.resuming_ = resuming;
    Value copy = checkpoint;
    copy_tensors(copy);
    hook_->before_run(runner_);
    hook_->after_load_checkpoint(runner_, copy);
    load_state_dict(net_, copy.at("state_dict"));
    hook_->before_train(runner_);
  }

  const json& trace_;
  double tolerance_;
  FlatState state_;
  TinyNet net_;
  FakeRunner runner_;
  std::shared_ptr<EMAHook> hook_;
  Value checkpoint_;
  std::vector<size_t> leave_out_;
};

/// Replays a case and returns the number of events compared.
size_t replay(const json& trace) {
  // The reference computes the cosine's angle in float32.
  const double tolerance = trace["name"] == "cosine_in_hook" ? 1e-9 : 1e-12;
  auto run = std::make_unique<Replay>(trace, tolerance);
  Value checkpoint;
  Scalars metrics{{"accuracy", 1.0}};
  size_t compared = 0;
  for (const json& event : trace["events"]) {
    std::string name = event["event"];
    SCOPED_TRACE(trace["name"].get<std::string>() + ": " + name + " at " + event["iter"].dump());
    const size_t colon = name.find(": ");
    const std::string phase = colon == std::string::npos ? "" : name.substr(0, colon);
    if (colon != std::string::npos) name = name.substr(colon + 2);

    if (name == "before_save_checkpoint") {
      run->save(event);
      checkpoint = run->checkpoint_;
      ++compared;
      continue;
    }
    if (name == "after_load_checkpoint + model load") {  // a fresh runner takes the file
      run = std::make_unique<Replay>(trace, tolerance);
      run->set_counters(event);
      Value file = checkpoint;
      if (phase == "resume_without_ema") file.erase("ema_state_dict");
      run->load(file, phase != "plain_load");
    } else {
      run->set_counters(event);
      if (name == "before_run") run->hook_->before_run(run->runner_);
      if (name == "before_train") run->hook_->before_train(run->runner_);
      if (name == "after_train_iter") {
        run->change_weights(event);
        run->hook_->after_train_iter(run->runner_, 0, {});
      }
      if (name == "before_val_epoch") run->hook_->before_val_epoch(run->runner_);
      if (name == "after_val_epoch") run->hook_->after_val_epoch(run->runner_, metrics);
      if (name == "before_test_epoch") run->hook_->before_test_epoch(run->runner_);
      if (name == "after_test_epoch") run->hook_->after_test_epoch(run->runner_, metrics);
    }
    run->expect_state(event);
    ++compared;
  }
  return compared;
}

TEST(Golden, EMAHookAgreesWithTheReferenceAtEveryEvent) {
  const json cases = golden("emahook.json")["cases"];
  ASSERT_EQ(cases.size(), 8u);
  for (const json& trace : cases) EXPECT_EQ(replay(trace), trace["events"].size());
}

}  // namespace
}  // namespace polyak::test
