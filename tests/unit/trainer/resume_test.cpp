// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "polyak/averaging/register.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_lock.h"
#include "polyak/runtime/stop_signals.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// What the test's hook does; one test at a time.
struct Script {
  int64_t stop_after_iter = -1;
  int64_t signal_before_val_iter = -1;
  int64_t signal_before_save_at_iter = -1;
};
Script script;

struct ActorOptions : Options {
  void visit(OptionVisitor&) override {}
};

class Actor : public Hook {
 public:
  std::string name() const override { return "Actor"; }
  int priority() const override { return kHighest; }
  void after_train_iter(Runner& runner, int64_t, const Scalars&) override {
    if (runner.progress().iter + 1 == script.stop_after_iter) runner.request_stop();
  }
  void before_val_iter(Runner&, int64_t batch) override {
    if (batch == script.signal_before_val_iter) std::raise(SIGTERM);
  }
  void before_save_checkpoint(Runner& runner, Value&) override {
    if (runner.progress().iter != script.signal_before_save_at_iter) return;
    script.signal_before_save_at_iter = -1;
    std::raise(SIGUSR1);
  }
};

/// 20 images in batches of 4: 5 iterations in an epoch.
const char* const kResumedRun = R"(
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4]}
  head: {type: LinearClsHead, num_classes: 4}
train_dataloader: {batch_size: 4, dataset: {type: RandomImages, size: 20, num_classes: 4}}
train_cfg: {by_epoch: true, max_epochs: 4}
val_dataloader: {batch_size: 4, dataset: {type: RandomImages, size: 12, num_classes: 4, seed: 1}}
val_evaluator: {type: Accuracy}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
custom_hooks: [{type: EMAHook, momentum: 0.1}, {type: Actor}]
)";

class Resuming : public ::testing::Test {
 protected:
  Resuming() {
    register_averages(catalog_);
    register_trainer(catalog_);
    load_plugin(find_plugin("polyak_hooks", ""), catalog_);
    catalog_.of<Hook>().add<ActorOptions>(
        "Actor", "",
        [](const ActorOptions&, const Hook::Context&) { return std::make_shared<Actor>(); });
    script = Script();
    folder_ = own_folder() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    previous_ = set_log_sink(
        [this](LogLevel, std::string_view line) { messages_ += fmt::format("{}\n", line); });
  }
  ~Resuming() override { set_log_sink(previous_); }

  Node config(const std::string& work_dir, const std::vector<std::string>& overrides = {}) {
    Node node = parse_config(kResumedRun);
    node.set("work_dir", folder_ + "/" + work_dir);
    for (const std::string& text : overrides) apply_override(node, text);
    return node;
  }
  /// @return the signal that stopped it
  int train(const Node& node) {
    TrainRunner runner(node, catalog_);
    runner.stop_on_signals();
    runner.train();
    return runner.stop_signal();
  }
  int resume(const std::string& work_dir, const std::vector<std::string>& overrides = {}) {
    Node node = config(work_dir, overrides);
    node.set("resume", true);
    return train(node);
  }
  std::vector<std::string> files(const std::string& work_dir) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_ + "/" + work_dir)) {
      if (entry.path().extension() == ".pth") names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  Value read(const std::string& file) const { return read_pth(folder_ + "/" + file); }

  static void expect_equal(const Value& a, const Value& b, const std::string& path) {
    ASSERT_STREQ(a.kind_name(), b.kind_name()) << path;
    if (a.is_tensor()) {
      EXPECT_TRUE(at::equal(a.as_tensor(), b.as_tensor())) << path;
    } else if (a.is_dict()) {
      ASSERT_EQ(a.entries().size(), b.entries().size()) << path;
      for (const auto& [key, value] : a.entries()) {
        const std::string name =
            key.kind() == Value::Kind::string ? key.as_string() : std::to_string(key.as_int());
        ASSERT_TRUE(b.contains(key)) << path << "." << name;
        if (name != "logger") expect_equal(value, b.at(key), path + "." + name);
      }
    }
  }
  void expect_same_file(const std::string& a, const std::string& b) const {
    const Value first = read(a), second = read(b);
    for (const char* key : {"state_dict", "ema_state_dict", "optimizer", "message_hub", "polyak"}) {
      expect_equal(first.at(key), second.at(key), key);
    }
  }

  Catalog catalog_;
  std::string folder_;
  std::string messages_;
  LogSink previous_;
};

TEST_F(Resuming, BetweenTwoStepsOfTheOptimizerIsExact) {
  const std::vector<std::string> accumulate{
      "optim_wrapper.accumulative_counts=3", "default_hooks.checkpoint.type=CheckpointHook",
      "default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=20"};
  train(config("whole", accumulate));
  for (int64_t stop : {1, 2, 4, 7, 8, 10}) {  // 1 and 2: before the first step
    const std::string folder = fmt::format("stopped_{}", stop);
    script.stop_after_iter = stop;
    train(config(folder, accumulate));
    const Value stopped = read(fmt::format("{}/iter_{}.pth", folder, stop));
    EXPECT_TRUE(stopped.at("polyak").contains("gradients")) << stop;
    script.stop_after_iter = -1;
    resume(folder, accumulate);
    expect_same_file("whole/iter_20.pth", folder + "/iter_20.pth");
    EXPECT_THAT(files(folder), ElementsAre("iter_20.pth")) << "the file of the stop is gone";
  }
  EXPECT_FALSE(read("whole/iter_20.pth").at("polyak").contains("gradients")) << "after a step";
  EXPECT_THAT(messages_, Not(HasSubstr("gradients")));
}

TEST_F(Resuming, DropsGradientsThatWereGatheredForAnotherCount) {
  script.stop_after_iter = 4;
  train(config("run", {"optim_wrapper.accumulative_counts=3"}));
  script.stop_after_iter = -1;
  resume("run", {"optim_wrapper.accumulative_counts=2"});
  EXPECT_THAT(messages_, HasSubstr("accumulated for steps of 3 iterations, but accumulative_counts "
                                   "is now 2; they are dropped"));
}

TEST_F(Resuming, AHookThatStopsARunLeavesACheckpoint) {
  const std::vector<std::string> rarely{"default_hooks.checkpoint.type=CheckpointHook",
                                        "default_hooks.checkpoint.interval=10"};
  train(config("whole", rarely));
  script.stop_after_iter = 7;
  EXPECT_EQ(train(config("run", rarely)), 0);
  EXPECT_THAT(files("run"), ElementsAre("iter_7.pth"));
  script.stop_after_iter = 13;  // and once more
  resume("run", rarely);
  EXPECT_THAT(files("run"), ElementsAre("iter_13.pth"));
  script.stop_after_iter = -1;
  resume("run", rarely);
  EXPECT_THAT(files("run"), ElementsAre("epoch_4.pth"));
  expect_same_file("whole/epoch_4.pth", "run/epoch_4.pth");
}

TEST_F(Resuming, AStopSavesWhateverTheHooksOfTheRunSayOfTheLast) {
  script.stop_after_iter = 7;
  train(config("run", {"default_hooks.checkpoint.type=CheckpointHook",
                       "default_hooks.checkpoint.save_last=false"}));
  EXPECT_THAT(files("run"), ElementsAre("iter_7.pth"));
}

TEST_F(Resuming, AValidationThatASignalBreaksOffIsRepeated) {
  const std::vector<std::string> best{"default_hooks.checkpoint.type=CheckpointHook",
                                      "default_hooks.checkpoint.interval=1",
                                      "default_hooks.checkpoint.save_best=accuracy"};
  train(config("whole", best));
  script.signal_before_val_iter = 1;
  EXPECT_EQ(train(config("run", best)), SIGTERM);
  EXPECT_THAT(messages_, HasSubstr("the validation was interrupted"));
  EXPECT_THAT(files("run"), ElementsAre("epoch_1.pth"));
  EXPECT_FALSE(read("run/epoch_1.pth").at("message_hub").at("runtime_info").contains("validated"));
  script.signal_before_val_iter = -1;
  EXPECT_EQ(resume("run", best), 0);
  EXPECT_EQ(files("run"), files("whole"));
  for (const std::string& file : files("whole")) {
    if (file.rfind("epoch", 0) == 0) expect_same_file("whole/" + file, "run/" + file);
  }
}

TEST_F(Resuming, ASaveWhoseStatisticsASignalBreaksOffIsMadeUpFor) {
  const std::vector<std::string> precise{"custom_hooks.1.type=PreciseBNHook"};
  train(config("whole", precise));
  Node broken = config("run", precise);
  Node hooks = broken.at("custom_hooks");
  hooks.append(Node::mapping({{"type", "Actor"}}));
  broken.set("custom_hooks", hooks);
  script.signal_before_save_at_iter = 10;  // the save at the end of epoch 2
  EXPECT_EQ(train(broken), SIGUSR1);
  EXPECT_THAT(files("run"), ElementsAre("epoch_1.pth", "epoch_2.pth"));
  EXPECT_EQ(resume("run", precise), 0);
  EXPECT_EQ(files("run"), files("whole"));
  for (const std::string& file : files("whole")) expect_same_file("whole/" + file, "run/" + file);
}

TEST_F(Resuming, TakesOverTheRecordOfTheFirstVersion) {
  const std::vector<std::string> keep{
      "default_hooks.checkpoint.type=CheckpointHook", "default_hooks.checkpoint.interval=1",
      "default_hooks.checkpoint.max_keep_ckpts=2", "default_hooks.checkpoint.save_best=accuracy"};
  script.stop_after_iter = 10;
  train(config("run", keep));
  Value old = read("run/epoch_2.pth");
  Value& info = old.at("message_hub").at("runtime_info");
  info.erase("checkpoint_hooks");
  info.set("kept_checkpoints", Value::list({"epoch_1.pth", "epoch_2.pth"}));
  info.set("best_score_accuracy", 101.0);
  info.set("best_checkpoint_accuracy", "best_accuracy_epoch_1.pth");
  write_pth(folder_ + "/run/epoch_2.pth", old);
  script.stop_after_iter = -1;
  resume("run", keep);
  const std::vector<std::string> found = files("run");
  EXPECT_THAT(std::vector<std::string>(found.end() - 2, found.end()),
              ElementsAre("epoch_3.pth", "epoch_4.pth"));
  EXPECT_EQ(read("run/epoch_4.pth")
                .at("message_hub")
                .at("runtime_info")
                .at("best_score_accuracy")
                .as_real(),
            101.0);
}

TEST_F(Resuming, TheBestFileGoesOverToMMEngineAndBack) {
  const std::vector<std::string> keep{"default_hooks.checkpoint.type=CheckpointHook",
                                      "default_hooks.checkpoint.interval=1",
                                      "default_hooks.checkpoint.save_best=accuracy"};
  script.stop_after_iter = 10;
  train(config("run", keep));
  script.stop_after_iter = -1;
  const Value ours = read("run/epoch_2.pth");
  const Value& hub = ours.at("message_hub");
  const std::string best = hub.at("runtime_info").at("best_ckpt").as_string();
  EXPECT_TRUE(fs::exists(best)) << best;
  EXPECT_GE(hub.at("runtime_info").at("best_score").as_real(), 0);
  EXPECT_TRUE(hub.at("resumed_keys").at("best_score").as_bool()) << "MMEngine writes it on";
  EXPECT_FALSE(hub.at("resumed_keys").contains("checkpoint_hooks")) << "it would go stale there";

  // Back from MMEngine, which went on writing the two and knows nothing of our records.
  for (const double theirs : {101.0, -1.0}) {
    const std::string folder = theirs > 0 ? "never_better" : "better";
    fs::create_directories(folder_ + "/" + folder);
    const std::string file = folder_ + "/" + folder + "/best_accuracy_epoch_1.pth";
    write_pth(file, ours);
    Value changed = ours;
    changed.erase("polyak");
    changed.at("message_hub")
        .set("runtime_info", Value::dict({{"best_score", theirs}, {"best_ckpt", file}}));
    write_pth(folder_ + "/" + folder + "/epoch_2.pth", changed);
    resume(folder, keep);
    EXPECT_EQ(fs::exists(file), theirs > 0);
    const Value end = read(folder + "/epoch_4.pth");
    const double kept = end.at("message_hub").at("runtime_info").at("best_score").as_real();
    EXPECT_EQ(kept == theirs, theirs > 0) << kept;
  }
}

TEST_F(Resuming, TwoHooksThatRankAMetricEachNameItInMMEnginesKeys) {
  Node node = config(
      "run", {"default_hooks.checkpoint.type=CheckpointHook", "default_hooks.checkpoint.interval=1",
              "default_hooks.checkpoint.save_best=accuracy"});
  // An override has no mappings within lists.
  const Node custom = parse_config(
      "custom_hooks: [{type: EMAHook, momentum: 0.1, evaluate_on_origin: true}, {type: "
      "CheckpointHook, out_dir: " +
      folder_ + "/raw, save_best: accuracy_origin}]");
  node.set("custom_hooks", custom.at("custom_hooks"));
  train(node);
  // The newest file, which is written again after the last validation.
  std::ifstream newest(folder_ + "/run/last_checkpoint");
  std::string path;
  std::getline(newest, path);
  const Value file = read_pth(fs::path(path).is_absolute() ? path : folder_ + "/run/" + path);
  const Value& info = file.at("message_hub").at("runtime_info");
  for (const char* metric : {"accuracy", "accuracy_origin"}) {
    EXPECT_TRUE(info.contains(std::string("best_score_") + metric)) << metric;
    const std::string best = info.at(std::string("best_ckpt_") + metric).as_string();
    EXPECT_TRUE(fs::exists(best)) << best;
  }
  EXPECT_FALSE(info.contains("best_score"));
}

// ---- signals and folders

TEST(StopSignals, NoteTheFirstAndPutTheEarlierHandlersBack) {
  static int earlier = 0;
  std::signal(SIGTERM, [](int) { ++earlier; });
  {
    const StopSignals signals;
    EXPECT_EQ(StopSignals::received(), 0);
    std::raise(SIGTERM);
    std::raise(SIGUSR1);
    std::raise(SIGTERM);
    const StopSignals again;  // does not forget
    EXPECT_EQ(StopSignals::received(), SIGTERM);
    EXPECT_EQ(earlier, 0);
  }
  std::raise(SIGTERM);
  EXPECT_EQ(earlier, 1);
  std::signal(SIGTERM, SIG_DFL);
  const StopSignals later;
  EXPECT_EQ(StopSignals::received(), 0);
}

TEST(StopSignals, LeaveIgnoredSignalsAndHandlersOfOthersAlone) {
  std::signal(SIGUSR1, SIG_IGN);
  static int theirs = 0;
  {
    const StopSignals signals;
    std::raise(SIGUSR1);
    EXPECT_EQ(StopSignals::received(), 0);
    std::signal(SIGTERM, [](int) { ++theirs; });
  }
  std::raise(SIGTERM);
  EXPECT_EQ(theirs, 1) << "a handler that was set meanwhile stays";
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGUSR1, SIG_DFL);
}

TEST(StopSignals, TheSecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignals signals;
        std::raise(SIGINT);
        std::raise(SIGTERM);
        std::fputs(StopSignals::received() == SIGINT ? "still here\n" : "wrong\n", stderr);
        std::raise(SIGINT);
      },
      ::testing::KilledBySignal(SIGINT), "still here");
}

TEST(RunLock, KeepsASecondRunOfThisProcessOut) {
  const std::string folder = own_folder();
  const RunLock first(folder, Node());
  EXPECT_THAT(
      [&] { RunLock(folder, Node()); },
      ThrowsMessage<ConfigError>(HasSubstr("another run uses " + folder + " in this process")));
}

TEST(RunLock, GoesOnWhereAFolderCannotBeLocked) {
  const RunLock lock("/proc", Node());  // no file can be made there
}

}  // namespace
}  // namespace polyak::test
