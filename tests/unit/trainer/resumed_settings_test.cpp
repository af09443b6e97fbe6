// SPDX-License-Identifier: Apache-2.0
// A run that goes on with another config than its checkpoint's.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::ThrowsMessage;

struct NoOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// What the hook below does, and the rates that it saw.
struct {
  int64_t save_after = -1;  // iterations
  std::string file;
  std::vector<double> rates;
} record;

class Stepper : public Hook {
 public:
  std::string name() const override { return "Stepper"; }
  void after_train_iter(Runner& runner, int64_t, const Scalars&) override {
    record.rates.push_back(*runner.learning_rate());
    runner.schedules()->step_schedules(false);
    if (runner.progress().iter + 1 == record.save_after) {
      write_pth(record.file, runner.checkpoint_source()->make_checkpoint(true, true));
    }
  }
  void after_train_epoch(Runner& runner) override { runner.schedules()->step_schedules(true); }
};

/// 5 iterations in an epoch.
const char* const kChangedRun = R"(
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [8]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 4, dataset: {type: RandomImages, size: 20, num_classes: 4}}
train_cfg: {max_epochs: 4}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {runtime_info: null, timer: null, logger: null, param_scheduler: null, checkpoint: null}
custom_hooks: [{type: Stepper}]
)";

class Resumed : public ::testing::Test {
 protected:
  Resumed() {
    register_trainer(catalog_);
    catalog_.of<Hook>().add<NoOptions>("Stepper", "", [](const NoOptions&, const Hook::Context&) {
      return std::make_shared<Stepper>();
    });
    record = {};
    record.file = own_folder() + "/saved.pth";
    previous_ = set_log_sink([this](LogLevel, std::string_view line) {
      if (line.rfind("resume:", 0) == 0) messages_.emplace_back(line);
    });
  }
  ~Resumed() override { set_log_sink(previous_); }

  static Node config(const std::vector<std::string>& overrides) {
    Node node = parse_config(kChangedRun);
    node.set("work_dir", own_folder() + "/work");
    for (const std::string& text : overrides) apply_override(node, text);
    return node;
  }
  /// Trains to the end and gives the rates of all iterations.
  std::vector<double> train(std::vector<std::string> overrides, int64_t save_after = -1) {
    record.rates.clear();
    record.save_after = save_after;
    TrainRunner runner(config(overrides), catalog_);
    runner.train();
    end_ = runner.checkpoint_source()->make_checkpoint(true, true);
    return record.rates;
  }
  std::vector<double> resume(std::vector<std::string> overrides) {
    messages_.clear();
    overrides.insert(overrides.end(), {"resume=true", "load_from=" + record.file});
    return train(overrides);
  }
  const Value& group() const { return end_.at("optimizer").at("param_groups").items().front(); }

  Catalog catalog_;
  std::vector<std::string> messages_;
  LogSink previous_;
  Value end_;
};

TEST_F(Resumed, WithTheSameConfigSaysNothing) {
  for (const char* optimizer :
       {"{type: SGD, lr: 0.05, momentum: 0.9}", "{type: AdamW, lr: 0.01, betas: [0.8, 0.9]}",
        "{type: LARS, lr: 0.5, momentum: 0.9, weight_decay: 1e-6}"}) {
    Node node = config({});
    node.set("optim_wrapper", parse_config(fmt::format("{{optimizer: {}}}", optimizer)));
    node.set("param_scheduler", parse_config("{type: CosineAnnealingLR, T_max: 4}"));
    record.save_after = 7;
    TrainRunner(node, catalog_).train();
    messages_.clear();
    node.set("resume", true);
    node.set("load_from", record.file);
    record.save_after = -1;
    TrainRunner(node, catalog_).train();
    EXPECT_THAT(messages_, IsEmpty()) << optimizer;
  }
}

TEST_F(Resumed, GoesOnWithTheCheckpointsNumbersAndSaysSo) {
  train({}, 7);
  const auto rates =
      resume({"optim_wrapper.optimizer.lr=0.1", "optim_wrapper.optimizer.momentum=0.8",
              "optim_wrapper.optimizer.weight_decay=0.001"});
  ASSERT_EQ(messages_.size(), 1U);
  EXPECT_THAT(messages_[0], AllOf(HasSubstr("using the checkpoint's settings: "),
                                  HasSubstr("lr 0.05 (the config says 0.1)"),
                                  HasSubstr("momentum 0.9 (the config says 0.8)"),
                                  HasSubstr("weight_decay 0 (the config says 0.001)"),
                                  HasSubstr("resume_options: config"), Not(HasSubstr("nesterov"))));
  EXPECT_EQ(rates, std::vector<double>(13, 0.05));
  EXPECT_EQ(group().at("momentum").as_real(), 0.9);
}

TEST_F(Resumed, TakesTheConfigsNumbersWhereItIsToldTo) {
  train({}, 7);
  const auto rates = resume({"resume_options=config", "optim_wrapper.optimizer.lr=0.1",
                             "optim_wrapper.optimizer.momentum=0.8", "train_cfg.max_epochs=2"});
  ASSERT_EQ(messages_.size(), 1U);
  EXPECT_THAT(messages_[0], AllOf(HasSubstr("using the config's settings: "),
                                  HasSubstr("lr 0.1 (the checkpoint's was 0.05)"),
                                  HasSubstr("momentum 0.8 (the checkpoint's was 0.9)")));
  EXPECT_EQ(rates, std::vector<double>(3, 0.1));
  EXPECT_EQ(group().at("momentum").as_real(), 0.8);
  EXPECT_EQ(group().at("initial_lr").as_real(), 0.1);
}

TEST_F(Resumed, KeepsTheStateBesideTheConfigsNumbers) {
  Node node = config({});
  node.set("optim_wrapper", parse_config("{optimizer: {type: Adam, lr: 0.01}}"));
  record.save_after = 7;
  TrainRunner(node, catalog_).train();
  const Value saved = read_pth(record.file);
  node.set("optim_wrapper", parse_config("{optimizer: {type: Adam, lr: 0, amsgrad: true}}"));
  node.set("resume", true);
  node.set("load_from", record.file);
  node.set("resume_options", "config");
  TrainRunner runner(node, catalog_);
  runner.train();
  const Value end = runner.checkpoint_source()->make_checkpoint(true, true);
  const Value& state = end.at("optimizer").at("state").at(0);
  EXPECT_EQ(state.at("step").as_tensor().item<double>(), 20);
  EXPECT_TRUE(state.contains("max_exp_avg_sq")) << "of a run that was without";
  EXPECT_TRUE(at::equal(end.at("state_dict").at("head.fc.weight").as_tensor(),
                        saved.at("state_dict").at("head.fc.weight").as_tensor()))
      << "lr 0";
}

TEST_F(Resumed, RatesAreThoseOfARunThatHadTheConfigAllAlong) {
  for (const char* schedule :
       {"[{type: CosineAnnealingLR, T_max: 20, by_epoch: false}]",
        "[{type: CosineAnnealingLR, T_max: 4, eta_min: 0.001}]",
        "[{type: LinearLR, start_factor: 0.1, by_epoch: false, end: 6},"
        " {type: CosineAnnealingLR, begin: 1, end: 4, convert_to_iter_based: true}]",
        "[{type: LinearLR, start_factor: 0.5, by_epoch: false, end: 9},"
        " {type: MultiStepLR, milestones: [1, 3], gamma: 0.3}]",
        "null"}) {
    for (const int64_t saved_at : {3, 7, 10}) {
      SCOPED_TRACE(fmt::format("{}, saved at {}", schedule, saved_at));
      const auto run = [&](double lr, int64_t save_after, const char* options) {
        Node node = config({});
        node.set("param_scheduler", parse_config(fmt::format("{{s: {}}}", schedule)).at("s"));
        node.find("optim_wrapper")->find("optimizer")->set("lr", lr);
        if (options) {
          node.set("resume", true);
          node.set("load_from", record.file);
          node.set("resume_options", options);
        }
        record.rates.clear();
        record.save_after = save_after;
        TrainRunner(node, catalog_).train();
        return record.rates;
      };
      const auto wanted = run(0.2, -1, nullptr);
      const auto old = run(0.05, saved_at, nullptr);
      const auto with_config = run(0.2, -1, "config");
      EXPECT_EQ(with_config, std::vector<double>(wanted.begin() + saved_at, wanted.end()));
      const auto with_checkpoint = run(0.2, -1, "checkpoint");
      EXPECT_EQ(with_checkpoint, std::vector<double>(old.begin() + saved_at, old.end()));
    }
  }
}

TEST_F(Resumed, RefusesAnotherOptimizersStateBeforeAnythingChanges) {
  const auto refused = [&](const std::string& before, const std::string& now) {
    Node node = config({});
    node.set("optim_wrapper",
             parse_config(fmt::format("{{optimizer: {{type: {}, lr: 0.1}}}}", before)));
    record.save_after = 7;
    TrainRunner(node, catalog_).train();
    node.set("optim_wrapper",
             parse_config(fmt::format("{{optimizer: {{type: {}, lr: 0.1}}}}", now)));
    node.set("resume", true);
    node.set("load_from", record.file);
    node.set("work_dir", own_folder() + "/refused");
    EXPECT_THAT([&] { TrainRunner(node, catalog_); },
                ThrowsMessage<CheckpointError>(
                    AllOf(HasSubstr(record.file + ": "), HasSubstr("optimizer state of " + before),
                          HasSubstr("type is " + now), HasSubstr("load_from without resume"))));
    EXPECT_FALSE(std::filesystem::exists(own_folder() + "/refused"));
  };
  refused("SGD", "Adam");
  refused("Adam", "SGD");
  refused("LARS", "SGD");
  refused("SGD", "LARS");
  refused("Adam", "AdamW");
}

TEST_F(Resumed, GoesOnFromAdamToAdamWWhereTheConfigDecides) {
  Node node = config({});
  node.set("optim_wrapper", parse_config("{optimizer: {type: Adam, lr: 0.01}}"));
  record.save_after = 7;
  TrainRunner(node, catalog_).train();
  messages_.clear();
  node.set("optim_wrapper", parse_config("{optimizer: {type: AdamW, lr: 0.01}}"));
  node.set("resume", true);
  node.set("load_from", record.file);
  node.set("resume_options", "config");
  TrainRunner(node, catalog_).train();
  ASSERT_EQ(messages_.size(), 2U);
  EXPECT_THAT(messages_[0], HasSubstr("weight_decay 0.01 (the checkpoint's was 0)"));
  EXPECT_THAT(messages_[1], HasSubstr("optim_wrapper.optimizer.type AdamW (was Adam)"));
}

TEST_F(Resumed, AFileThatDoesNotNameItsOptimizerIsKnownByItsNumbers) {
  train({}, 7);
  Value saved = read_pth(record.file);
  saved.at("meta").set("cfg", "model = dict(type='ImageClassifier')");  // as MMEngine's
  write_pth(record.file, saved);
  EXPECT_NO_THROW(resume({}));
  Node node = config({"resume=true", "load_from=" + record.file});
  node.set("optim_wrapper", parse_config("{optimizer: {type: Adam, lr: 0.01}}"));
  EXPECT_THAT(
      [&] { TrainRunner(node, catalog_); },
      ThrowsMessage<CheckpointError>(AllOf(HasSubstr("state of SGD"), HasSubstr("type is Adam"))));
}

TEST_F(Resumed, SaysWhatElseOfTheConfigChanged) {
  train({}, 7);
  Node node = config({"resume=true", "load_from=" + record.file, "train_dataloader.batch_size=5",
                      "optim_wrapper.accumulative_counts=2", "train_cfg.max_epochs=6"});
  node.set("param_scheduler", parse_config("{type: StepLR, step_size: 2}"));
  messages_.clear();
  TrainRunner(node, catalog_).train();
  ASSERT_EQ(messages_.size(), 1U);
  EXPECT_THAT(messages_[0], AllOf(HasSubstr("train_dataloader.batch_size 5 (was 4)"),
                                  HasSubstr("accumulative_counts 2 (was missing)"),
                                  HasSubstr("param_scheduler a mapping (was missing)"),
                                  Not(HasSubstr("max_epochs"))));
}

TEST_F(Resumed, OptionsOfAnotherNameAreRefused) {
  EXPECT_THAT([&] { TrainRunner(config({"resume_options=mine"}), catalog_); },
              ThrowsMessage<ConfigError>(HasSubstr("resume_options")));
}

}  // namespace
}  // namespace polyak::test
