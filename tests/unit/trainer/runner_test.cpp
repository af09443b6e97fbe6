// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// What the test's hook writes down and does; one test at a time.
struct Script {
  std::vector<std::string> points;
  bool record = false;           // iterations too
  int64_t save_after_iter = -1;  // finished iterations
  int64_t save_after_epoch = -1;
  int64_t stop_after_iter = -1;
  std::string save_to;
  Value info;
};
Script script;

struct ProbeOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// Records the points in the order of their calls; steps schedulers and saves as the default hooks
/// do.
class Probe : public Hook {
 public:
  std::string name() const override { return "Probe"; }
  void before_run(Runner&) override { note("before_run"); }
  void after_run(Runner&) override { note("after_run"); }
  void before_train(Runner&) override { note("before_train"); }
  void after_train(Runner&) override { note("after_train"); }
  void before_train_epoch(Runner& runner) override {
    note(fmt::format("before_train_epoch {}", runner.progress().epoch));
  }
  void after_train_epoch(Runner& runner) override {
    note(fmt::format("after_train_epoch {}", runner.progress().epoch));
    runner.schedules()->step_schedules(true);
    if (runner.progress().epoch + 1 == script.save_after_epoch) save(runner);
  }
  void before_train_iter(Runner& runner, int64_t batch) override {
    if (script.record) note(fmt::format("before_train_iter {}", batch));
    EXPECT_TRUE(runner.model().is_training());
    at::rand({3});  // a hook may draw numbers: the same ones in each run
  }
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override {
    if (script.record) note(fmt::format("after_train_iter {}", batch));
    EXPECT_EQ(outputs.count("loss"), 1U);
    const double loss = outputs.at("loss");
    EXPECT_TRUE(runner.logged().at("loss") == loss || std::isnan(loss));
    runner.schedules()->step_schedules(false);
    if (runner.progress().iter + 1 == script.save_after_iter) save(runner);
    if (runner.progress().iter + 1 == script.stop_after_iter) runner.request_stop();
  }
  void before_val(Runner& runner) override {
    note(fmt::format("before_val {}", runner.progress().epoch));
  }
  void before_val_epoch(Runner&) override { note("before_val_epoch"); }
  void before_val_iter(Runner& runner, int64_t batch) override {
    if (script.record) note(fmt::format("before_val_iter {}", batch));
    EXPECT_FALSE(runner.model().is_training());
  }
  void after_val_iter(Runner&, int64_t batch) override {
    if (script.record) note(fmt::format("after_val_iter {}", batch));
  }
  void after_val_epoch(Runner& runner, Scalars& metrics) override {
    note("after_val_epoch");
    for (const auto& [name, value] : runner.validate("_again")) {
      EXPECT_EQ(metrics.at("accuracy"), value) << name;
    }
  }
  void after_val(Runner&) override { note("after_val"); }
  void before_test(Runner&) override { note("before_test"); }
  void before_test_epoch(Runner&) override { note("before_test_epoch"); }
  void after_test_epoch(Runner&, Scalars&) override { note("after_test_epoch"); }
  void after_test(Runner&) override { note("after_test"); }
  void after_load_checkpoint(Runner&, Value&) override { note("after_load_checkpoint"); }

 private:
  static void note(const std::string& point) { script.points.push_back(point); }
  static void save(Runner& runner) {
    runner.run_info().set("best", 0.5);
    write_pth(script.save_to, runner.checkpoint_source()->make_checkpoint(true, true));
  }
};

/// 20 images in batches of 4: 5 iterations in an epoch.
const char* const kSmallRun = R"(
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [8], dropout: 0.3}
  head: {type: LinearClsHead, num_classes: 4}
train_dataloader:
  batch_size: 4
  dataset:
    type: RandomImages
    size: 20
    num_classes: 4
    pipeline: [{type: RandomCrop, crop_size: 8, padding: 1}, {type: RandomFlip}]
train_cfg: {by_epoch: true, max_epochs: 4}
val_dataloader:
  batch_size: 8
  dataset: {type: RandomImages, size: 12, num_classes: 4, seed: 1}
val_evaluator: {type: Accuracy}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
param_scheduler: {type: CosineAnnealingLR, by_epoch: false, T_max: 20}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {runtime_info: null, timer: null, logger: null, param_scheduler: null, checkpoint: null}
custom_hooks: [{type: Probe}]
)";

class Running : public ::testing::Test {
 protected:
  Running() {
    register_trainer(catalog_);
    catalog_.of<Hook>().add<ProbeOptions>(
        "Probe", "",
        [](const ProbeOptions&, const Hook::Context&) { return std::make_shared<Probe>(); });
    script = Script();
    folder_ = std::filesystem::temp_directory_path() / fmt::format("polyak_runner_{}", getpid());
    std::filesystem::create_directories(folder_);
    script.save_to = (folder_ / "saved.pth").string();
    previous_ = set_log_sink(
        [this](LogLevel, std::string_view line) { messages_ += fmt::format("{}\n", line); });
  }
  ~Running() override {
    set_log_sink(previous_);
    std::filesystem::remove_all(folder_);
  }

  Node config(const std::vector<std::string>& overrides = {}) {
    Node node = parse_config(kSmallRun);
    node.set("work_dir", (folder_ / "work").string());
    for (const std::string& text : overrides) apply_override(node, text);
    return node;
  }
  /// Trains and gives the checkpoint of the end.
  Value train(const Node& node) {
    TrainRunner runner(node, catalog_);
    metrics_ = runner.train();
    return copy(runner.checkpoint_source()->make_checkpoint(true, true));
  }
  /// The tensors of a value are handles: a copy keeps what they hold now.
  static Value copy(Value value) {
    if (value.is_tensor()) return Value(value.as_tensor().clone());
    if (value.kind() == Value::Kind::list || value.kind() == Value::Kind::tuple) {
      for (Value& item : value.items()) item = copy(item);
    } else if (value.is_dict()) {
      for (auto& [key, item] : value.entries()) item = copy(item);
    }
    return value;
  }
  static void expect_equal(const Value& a, const Value& b, const std::string& path) {
    ASSERT_EQ(a.kind(), b.kind()) << path;
    if (a.is_tensor()) {
      EXPECT_TRUE(at::equal(a.as_tensor(), b.as_tensor())) << path;
    } else if (a.is_dict()) {
      ASSERT_EQ(a.entries().size(), b.entries().size()) << path;
      for (size_t i = 0; i < a.entries().size(); ++i) {
        expect_equal(a.entries()[i].second, b.entries()[i].second, path + "." + std::to_string(i));
      }
    } else if (a.kind() == Value::Kind::list || a.kind() == Value::Kind::tuple) {
      ASSERT_EQ(a.items().size(), b.items().size()) << path;
      for (size_t i = 0; i < a.items().size(); ++i) {
        expect_equal(a.items()[i], b.items()[i], path + "." + std::to_string(i));
      }
    } else if (a.kind() == Value::Kind::real) {
      EXPECT_EQ(a.as_real(), b.as_real()) << path;
    } else if (a.kind() == Value::Kind::integer) {
      EXPECT_EQ(a.as_int(), b.as_int()) << path;
    }
  }
  static void expect_same_run(const Value& a, const Value& b) {
    for (const char* key : {"state_dict", "optimizer", "param_schedulers", "polyak"}) {
      expect_equal(a.at(key), b.at(key), key);
    }
    for (const char* key : {"epoch", "iter", "seed"}) {
      EXPECT_EQ(a.at("meta").at(key).as_int(), b.at("meta").at(key).as_int()) << key;
    }
  }

  Catalog catalog_;
  std::filesystem::path folder_;
  std::string messages_;
  LogSink previous_;
  Scalars metrics_;
};

TEST_F(Running, EpochLoopCallsPointsInOrder) {
  script.record = true;
  TrainRunner runner(config({"train_cfg.max_epochs=3", "train_cfg.val_interval=2",
                             "train_dataloader.batch_size=10"}),
                     catalog_);
  EXPECT_TRUE(script.points.empty());
  const Scalars metrics = runner.train();
  EXPECT_EQ(metrics.count("accuracy"), 1U);
  EXPECT_THAT(
      script.points,
      ElementsAre("before_run", "before_train",                                         //
                  "before_train_epoch 0", "before_train_iter 0", "after_train_iter 0",  //
                  "before_train_iter 1", "after_train_iter 1", "after_train_epoch 0",   //
                  "before_train_epoch 1", "before_train_iter 0", "after_train_iter 0",  //
                  "before_train_iter 1", "after_train_iter 1", "after_train_epoch 1",   //
                  "before_val 2", "before_val_epoch", "before_val_iter 0", "after_val_iter 0",
                  "before_val_iter 1", "after_val_iter 1", "after_val_epoch", "after_val",  //
                  "before_train_epoch 2", "before_train_iter 0", "after_train_iter 0",      //
                  "before_train_iter 1", "after_train_iter 1", "after_train_epoch 2",       //
                  "before_val 3", "before_val_epoch", "before_val_iter 0", "after_val_iter 0",
                  "before_val_iter 1", "after_val_iter 1", "after_val_epoch", "after_val",  //
                  "after_train", "after_run"));
  EXPECT_EQ(runner.progress().iter, 6);
  EXPECT_EQ(runner.progress().optimizer_steps, 6);
  script.points.clear();
  script.record = false;
  EXPECT_EQ(runner.test(), metrics);
  EXPECT_THAT(script.points, ElementsAre("before_test", "before_test_epoch", "after_test_epoch",
                                         "after_test", "after_run"));
}

TEST_F(Running, IterationLoopCallsPointsInOrder) {
  script.record = true;
  Node node = config({"val_dataloader.batch_size=12"});
  node.set("train_cfg", parse_config("{type: IterBasedTrainLoop, max_iters: 3, val_interval: 2}"));
  TrainRunner runner(node, catalog_);
  runner.train();
  EXPECT_THAT(script.points, ElementsAre("before_run", "before_train", "before_train_epoch 0",  //
                                         "before_train_iter 0", "after_train_iter 0",           //
                                         "before_train_iter 1", "after_train_iter 1",           //
                                         "before_val 0", "before_val_epoch", "before_val_iter 0",
                                         "after_val_iter 0", "after_val_epoch", "after_val",  //
                                         "before_train_iter 2", "after_train_iter 2",         //
                                         "before_val 0", "before_val_epoch", "before_val_iter 0",
                                         "after_val_iter 0", "after_val_epoch", "after_val",  //
                                         "after_train_epoch 0", "after_train", "after_run"));
  EXPECT_EQ(runner.progress().max_epochs, 1);
  EXPECT_FALSE(runner.progress().by_epoch);
}

TEST_F(Running, ThatDivergesNamesTheFirstLossThatIsNotFiniteOnce) {
  train(config({"optim_wrapper.optimizer.lr=1e30"}));
  const std::string word = "; a step that follows from it spoils the weights";
  const size_t first = messages_.find(word);
  ASSERT_NE(first, std::string::npos) << messages_;
  EXPECT_EQ(messages_.find(word, first + 1), std::string::npos) << "once";
  EXPECT_THAT(messages_.substr(0, first), HasSubstr("iteration "));
  EXPECT_THAT(messages_.substr(0, first), HasSubstr(": loss is "));
}

TEST_F(Running, TwoRunsGiveTheSameNumbers) {
  const Value first = train(config());
  const Scalars metrics = metrics_;
  expect_same_run(first, train(config()));
  EXPECT_EQ(metrics_, metrics);
  const Value other = train(config({"randomness.seed=4"}));
  EXPECT_FALSE(at::equal(first.at("state_dict").at("head.fc.weight").as_tensor(),
                         other.at("state_dict").at("head.fc.weight").as_tensor()));
}

TEST_F(Running, ResumingIsExact) {
  const Value whole = train(config());
  script.save_after_epoch = 2;
  train(config());
  const Value saved = read_pth(script.save_to);
  EXPECT_EQ(saved.at("meta").at("epoch").as_int(), 2);
  EXPECT_EQ(saved.at("meta").at("iter").as_int(), 10);

  script.points.clear();
  TrainRunner runner(config({"resume=true", "load_from=" + script.save_to}), catalog_);
  EXPECT_TRUE(runner.resuming());
  runner.train();
  expect_same_run(whole, runner.checkpoint_source()->make_checkpoint(true, true));
  EXPECT_EQ(runner.run_info().at("best").as_real(), 0.5);
  EXPECT_EQ(script.points[0], "before_run");
  EXPECT_EQ(script.points[1], "after_load_checkpoint");
  EXPECT_EQ(script.points[2], "before_train");
  EXPECT_EQ(script.points[3], "before_val 2") << "the save came before the validation";
}

TEST_F(Running, ResumingInsideAnEpochIsExact) {
  for (int64_t iter : {7, 10}) {
    Node node = config();
    node.set("optim_wrapper", parse_config("{optimizer: {type: AdamW, lr: 0.01, amsgrad: true}}"));
    script.save_after_iter = -1;
    const Value whole = train(node);
    script.save_after_iter = iter;
    train(node);
    EXPECT_EQ(read_pth(script.save_to).at("meta").at("iter").as_int(), iter);
    node.set("resume", true);
    node.set("load_from", script.save_to);
    expect_same_run(whole, train(node));
  }
}

TEST_F(Running, ResumingAnIterationLoopIsExact) {
  Node node = config();
  node.set("train_cfg", parse_config("{by_epoch: false, max_iters: 18}"));
  const Value whole = train(node);
  script.save_after_iter = 7;
  train(node);
  node.set("resume", true);
  node.set("load_from", script.save_to);
  script.record = true;
  script.points.clear();
  expect_same_run(whole, train(node));
  EXPECT_EQ(script.points[4], "before_train_iter 7");
}

TEST_F(Running, ResumingALearnerWithATargetNetworkIsExact) {
  const std::string parts =
      "backbone: {type: SmallCNN, channels: [4], with_avg_pool: true},"
      " neck: {type: NonLinearNeck, hid_channels: 6, out_channels: 4}, head: {predictor: "
      "{type: NonLinearNeck, hid_channels: 6, out_channels: 4, with_last_bn: false}, ";
  for (const auto& [model, target] : std::map<std::string, std::string>{
           {"{type: BYOL, base_momentum: 0.2, " + parts + "type: LatentPredictHead}}",
            "target_net."},
           {"{type: MoCoV3, base_momentum: 0.2, " + parts + "type: MoCoV3Head}}",
            "momentum_encoder."},
           {"{type: MeanTeacher, backbone: {type: MLP, hidden: [8], dropout: 0.3},"
            " head: {type: LinearClsHead, num_classes: 4}}",
            "teacher."}}) {
    SCOPED_TRACE(model);
    Node node = config();
    for (const char* key : {"val_dataloader", "val_evaluator", "val_cfg"})
      node = node.without({key});
    node.set("model", parse_config(model));
    node.find("train_dataloader")
        ->find("dataset")
        ->set(
            "pipeline",
            parse_config("p: [{type: MultiView, num_views: 2, transforms: [[{type: RandomFlip}]]}]")
                .at("p"));
    node.find("optim_wrapper")->set("accumulative_counts", int64_t{2});
    script.save_after_iter = -1;
    const Value whole = train(node);
    // 20 iterations make 10 steps; the target takes in what each iteration begins with.
    const Value& steps = whole.at("state_dict").at(target + "steps");
    EXPECT_EQ(steps.as_tensor().item<int64_t>(), 10);
    script.save_after_iter = 8;
    train(node);
    node.set("resume", true);
    node.set("load_from", script.save_to);
    expect_same_run(whole, train(node));
  }
}

TEST_F(Running, ResumesFromTheLastCheckpoint) {
  TrainRunner fresh(config({"resume=true"}), catalog_);
  EXPECT_FALSE(fresh.resuming());
  EXPECT_THAT(messages_, HasSubstr("contains no checkpoint yet"));
  std::filesystem::create_directories(folder_ / "work");
  script.save_to = (folder_ / "work" / "epoch_1.pth").string();
  script.save_after_epoch = 1;
  fresh.train();
  for (const std::string& name : {std::string("epoch_1.pth"), script.save_to}) {
    std::ofstream(folder_ / "work" / "last_checkpoint") << name;
    EXPECT_TRUE(TrainRunner(config({"resume=true"}), catalog_).resuming());
  }
  std::ofstream(folder_ / "work" / "last_checkpoint") << "epoch_9.pth";
  EXPECT_THAT([&] { TrainRunner(config({"resume=true"}), catalog_); },
              ThrowsMessage<CheckpointError>(HasSubstr("epoch_9.pth, which does not exist")));
}

TEST_F(Running, CountsOptimizerStepsUnderAccumulation) {
  TrainRunner runner(config({"optim_wrapper.accumulative_counts=3"}), catalog_);
  EXPECT_EQ(runner.progress().max_optimizer_steps, 7);
  runner.train();
  EXPECT_EQ(runner.progress().optimizer_steps, 7);
}

TEST_F(Running, StopsWhenAskedTo) {
  script.stop_after_iter = 7;
  TrainRunner runner(config(), catalog_);
  runner.train();
  EXPECT_EQ(runner.progress().iter, 7);
  EXPECT_EQ(runner.progress().epoch, 1);
  EXPECT_EQ(script.points.back(), "after_run");
  EXPECT_EQ(script.points[script.points.size() - 3], "before_train_epoch 1");
}

TEST_F(Running, TrainingForwardsLeaveTrainingAsItIs) {
  const Value expected = train(config());
  TrainRunner runner(config(), catalog_);
  runner.model().train(true);
  const at::Tensor before = at::rand({2});
  at::manual_seed(9);
  const at::Tensor next = at::rand({2});
  at::manual_seed(9);
  runner.training_forward()->run_training_forward(50);
  EXPECT_TRUE(at::equal(at::rand({2}), next));
  runner.train();
  expect_same_run(expected, runner.checkpoint_source()->make_checkpoint(true, true));
}

TEST_F(Running, TestsACheckpoint) {
  script.save_after_epoch = 4;
  train(config());
  const Scalars trained = metrics_;
  Node node = config({"load_from=" + script.save_to});
  for (const char* key : {"train_dataloader", "train_cfg", "optim_wrapper"})
    node = node.without({key});
  script.points.clear();
  TrainRunner runner(node, catalog_, TrainRunner::Purpose::test);
  EXPECT_EQ(runner.test(), trained);
  EXPECT_THAT(script.points,
              ElementsAre("before_run", "after_load_checkpoint", "before_test", "before_test_epoch",
                          "after_test_epoch", "after_test", "after_run"));
}

TEST_F(Running, RefusesACheckpointThatDoesNotFit) {
  script.save_after_epoch = 1;
  train(config());
  const std::string load = "load_from=" + script.save_to;
  const std::string wider = "model.backbone.hidden=[9]";
  EXPECT_THAT(
      [&] {
        TrainRunner(config({load, wider, "resume=true"}), catalog_);
      },
      ThrowsMessage<CheckpointError>(
          AllOf(HasSubstr("saved.pth"), HasSubstr("backbone.fc1.weight ([8, 64]"))));
  EXPECT_THAT(
      [&] {
        TrainRunner(config({load, wider}), catalog_, TrainRunner::Purpose::test);
      },
      ThrowsMessage<CheckpointError>(HasSubstr("does not fit the model")));
  // Weights to start from may fit in part; what differs is said.
  const TrainRunner partly(config({load, "model.backbone.hidden=[8,8]"}), catalog_);
  EXPECT_THAT(messages_, HasSubstr("missing in the checkpoint: backbone.fc2.weight"));
  Node other = config({load});
  other.set("model",
            parse_config("{type: ImageClassifier, backbone: {type: SmallCNN, channels: [5]},"
                         " head: {type: LinearClsHead, num_classes: 6}}"));
  EXPECT_THAT([&] { TrainRunner(other, catalog_); },
              ThrowsMessage<CheckpointError>(HasSubstr("none of it fits")));
}

TEST_F(Running, ChecksEverythingBeforeTraining) {
  auto expect = [&](const std::vector<std::string>& overrides, const char* message) {
    EXPECT_THAT([&] { TrainRunner(config(overrides), catalog_); },
                ThrowsMessage<ConfigError>(HasSubstr(message)));
  };
  expect({"train_dataloder.batch_size=3"}, "train_dataloader");
  expect({"train_cfg.max_iters=3"}, "max_iters");
  expect({"train_cfg.type=IterBasedTrainLoop"}, "contradicts");
  expect({"optim_wrapper.optimizer.type=SDG"}, "SGD");
  expect({"device=gpu"}, "cpu, cuda or cuda:N");
  expect({"val_evaluator=None"}, "val_evaluator");
  expect({"val_dataloader=None"}, "no effect without val_dataloader");
  expect({"train_cfg=None"}, "'train_cfg' is missing");
  expect({"val_dataloader.dataset.image_size=6"}, "does not accept images of 1 x 6 x 6");
  expect({"work_dir=/proc/none"}, "cannot be written");
  expect({"custom_hooks.0.type=Prob"}, "Probe");
  expect({"train_cfg.by_epoch=false", "train_cfg.max_epochs=None", "train_cfg.max_iters=9",
          "param_scheduler.by_epoch=true"},
         "would never step");
  EXPECT_TRUE(script.points.empty());
  EXPECT_FALSE(std::filesystem::exists(folder_ / "work"));
}

/// Learns that two views of an image are one thing.
class TwoViews : public torch::nn::Cloneable<TwoViews>, public Algorithm {
 public:
  TwoViews() { reset(); }
  void reset() override { fc = register_module("fc", torch::nn::Linear(64, 4)); }
  int64_t num_views() const override { return 2; }
  Losses loss(const Batch& batch) override {
    EXPECT_EQ(batch.views.size(), 2U);
    EXPECT_FALSE(at::equal(batch.views[0], batch.views[1]));
    return {{"loss", (predict(batch.views[0]) - predict(batch.views[1])).square().mean()}};
  }
  at::Tensor predict(const at::Tensor& images) override { return fc(images.flatten(1)); }
  torch::nn::Linear fc{nullptr};
};

TEST_F(Running, GivesAnAlgorithmTheViewsThatItLearnsFrom) {
  catalog_.of<Algorithm>().add<ProbeOptions>(
      "TwoViews", "",
      [](const ProbeOptions&, const Algorithm::Context&) { return std::make_shared<TwoViews>(); });
  const Node pipeline = parse_config(R"(
p:
  - {type: MultiView, num_views: 2, transforms: [[{type: RandomResizedCrop, scale: 8}]]}
  - {type: Normalize, mean: [128], std: [64]}
)")
                            .at("p");
  Node two = config({"optim_wrapper.optimizer.lr=0.001"});
  two.find("model")->set("type", "TwoViews");
  *two.find("model") = two.at("model").without({"backbone", "head"});
  EXPECT_THAT([&] { TrainRunner(two, catalog_); },
              ThrowsMessage<ConfigError>(HasSubstr(
                  "makes 1 view(s) of each image, but the model needs 2; use MultiView")));
  two.find("train_dataloader")->find("dataset")->set("pipeline", pipeline);
  script.save_after_iter = 7;
  const Value whole = train(two);
  two.set("resume", true);
  two.set("load_from", script.save_to);
  expect_same_run(whole, train(two));  // the same views too

  Node one = config();
  one.find("train_dataloader")->find("dataset")->set("pipeline", pipeline);
  EXPECT_THAT([&] { TrainRunner(one, catalog_); },
              ThrowsMessage<ConfigError>(HasSubstr(
                  "makes 2 view(s) of each image, but the model needs 1; remove MultiView")));
}

TEST_F(Running, AModelThatLearnsFromLabelsRefusesSamplesWithout) {
  EXPECT_THAT([&] { TrainRunner(config({"train_dataloader.dataset.labelled=3"}), catalog_); },
              ThrowsMessage<ConfigError>(HasSubstr("MeanTeacher can learn without")));

  Node teacher = config({"train_dataloader.dataset.labelled=3"});
  teacher.find("model")->set("type", "MeanTeacher");
  teacher.find("train_dataloader")
      ->find("dataset")
      ->set("pipeline",
            parse_config("p: [{type: MultiView, num_views: 2, transforms: [[{type: RandomFlip}]]}]")
                .at("p"));
  TrainRunner runner(teacher, catalog_);
  runner.train();
  EXPECT_FALSE(runner.validations().empty());
}

TEST_F(Running, ValidatesBeforeTrainingWhereValBeginIsZero) {
  TrainRunner runner(config({"train_cfg.val_begin=0"}), catalog_);
  runner.train();
  ASSERT_FALSE(runner.validations().empty());
  EXPECT_EQ(runner.validations().front().number, 0);
  TrainRunner usual(config(), catalog_);
  usual.train();
  EXPECT_EQ(usual.validations().front().number, 1);
  EXPECT_EQ(runner.validations().size(), usual.validations().size() + 1);
  // It leaves training as it is without it.
  EXPECT_EQ(runner.validations().back().metrics, usual.validations().back().metrics);
}

TEST_F(Running, DefaultHooksAreReplacedByName) {
  auto types = [](const char* defaults, const char* custom) {
    std::vector<std::string> names;
    const Node custom_hooks =
        parse_config(fmt::format("custom_hooks: {}", custom)).at("custom_hooks");
    for (const Node& node : hook_nodes(parse_config(defaults), custom_hooks, true)) {
      names.push_back(node.at("type").as_string());
    }
    return names;
  };
  EXPECT_THAT(types("{}", "[]"), ElementsAre("RuntimeInfoHook", "IterTimerHook", "LoggerHook",
                                             "ParamSchedulerHook", "CheckpointHook"));
  EXPECT_THAT(types("{timer: null, logger: {type: Mine}, extra: {type: Other}}", "[{type: Last}]"),
              ElementsAre("RuntimeInfoHook", "Mine", "ParamSchedulerHook", "CheckpointHook",
                          "Other", "Last"));
}

}  // namespace
}  // namespace polyak
