// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <limits>

#include "polyak/averaging/register.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

/// Sizes that no machine can hold, and counts that no run reaches.
class AbsurdSizes : public testing::Test {
 protected:
  AbsurdSizes() {
    register_averages(catalog_);
    register_trainer(catalog_);
    set_log_sink([](LogLevel, std::string_view) {});
    config_.set("work_dir", own_folder_.path() + "/run");
    apply("default_hooks={}");
    for (const char* name : {"runtime_info", "timer", "logger", "param_scheduler", "checkpoint"}) {
      config_.find("default_hooks")->set(name, Node());
    }
  }
  ~AbsurdSizes() override { set_log_sink(nullptr); }

  void apply(const std::string& assignment) {
    if (assignment == "default_hooks={}") {
      config_.set("default_hooks", Node::mapping());
    } else {
      apply_override(config_, assignment);
    }
  }

  /// What a run of the config with some changes is refused with; "" where it is not.
  std::string refusal(const std::vector<std::string>& changes) {
    const Node before = config_;
    for (const std::string& change : changes) apply(change);
    std::string text;
    try {
      const TrainRunner runner(config_, catalog_);
    } catch (const ConfigError& error) {
      text = error.what();
    }
    config_ = before;
    return text;
  }

  /// Refused by the key, and not in the words of an allocator.
  void expect(const std::vector<std::string>& changes, const std::string& key,
              const std::string& says) {
    EXPECT_THAT(refusal(changes), AllOf(HasSubstr(key), HasSubstr(says), Not(HasSubstr("alloc")),
                                        Not(HasSubstr("drop_last")), Not(HasSubstr("\n"))))
        << testing::PrintToString(changes);
  }

  test::OwnFolder own_folder_;
  Catalog catalog_;
  Node config_ = parse_config(R"(
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4]}
  head: {type: LinearClsHead}
train_dataloader:
  batch_size: 4
  dataset: {type: RandomImages, size: 8, pipeline: []}
val_dataloader:
  batch_size: 4
  dataset: {type: RandomImages, size: 8}
val_evaluator: {type: Accuracy}
train_cfg: {max_epochs: 1}
optim_wrapper: {optimizer: {type: SGD, lr: 0.1}}
randomness: {seed: 1}
env_cfg: {num_threads: 1}
)");
};

TEST_F(AbsurdSizes, TheConfigAsItIsWorks) {
  EXPECT_EQ(refusal({}), "");
}

TEST_F(AbsurdSizes, CountsBeyondTheirBoundsAreRefusedByTheirKeys) {
  const std::string most = std::to_string(kMost);
  const std::string bound = ", 2147483647], got " + most;
  for (const char* key :
       {"train_dataloader.batch_size", "val_dataloader.batch_size", "train_cfg.max_epochs",
        "train_cfg.val_interval", "train_cfg.val_begin", "optim_wrapper.accumulative_counts",
        "train_dataloader.dataset.limit", "train_dataloader.dataset.labelled",
        "train_dataloader.dataset.size", "model.head.in_channels"}) {
    expect({fmt::format("{}={}", key, most)}, std::string(key) + ": must be in [", bound);
  }
  expect({"train_cfg.max_epochs=None", "train_cfg.by_epoch=false", "train_cfg.max_iters=" + most},
         "train_cfg.max_iters: must be in [1", bound);
  expect({"env_cfg.num_threads=1000000"}, "env_cfg.num_threads: must be in [1, 1024], got 1000000",
         "");
  expect({"train_cfg.dynamic_intervals=[[0," + most + "],[0,1]]"}, "train_cfg.dynamic_intervals[0]",
         "at most 2147483647");
  expect({"train_cfg.dynamic_intervals=[[-1,1],[0,1]]"}, "train_cfg.dynamic_intervals[0]",
         "at least 0 and 1");
  expect({"val_evaluator.topk=" + most}, "val_evaluator.topk", "at most the number of classes");
  for (const char* key : {"begin", "end", "step_size"}) {
    const std::string type = "param_scheduler.type=StepLR", size = "param_scheduler.step_size=1";
    expect({type, size, fmt::format("param_scheduler.{}={}", key, most)},
           fmt::format("param_scheduler.{}: must be in [", key), bound);
  }
  expect({"param_scheduler.type=MultiStepLR", "param_scheduler.milestones=[1," + most + "]"},
         "param_scheduler.milestones[1]", bound);
}

TEST_F(AbsurdSizes, ASizeThatIsTooSmallIsToldTheLeastOnly) {
  EXPECT_THAT(refusal({"train_dataloader.batch_size=0"}),
              HasSubstr("train_dataloader.batch_size: must be at least 1, got 0"));
}

TEST_F(AbsurdSizes, TheLargestCountsAreTakenWhereTheyCostNothing) {
  const std::string most = "2147483647";
  EXPECT_EQ(
      refusal({"train_dataloader.batch_size=" + most, "val_dataloader.batch_size=" + most,
               "train_cfg.max_epochs=" + most, "train_cfg.val_interval=" + most,
               "optim_wrapper.accumulative_counts=" + most, "param_scheduler.type=StepLR",
               "param_scheduler.convert_to_iter_based=true", "param_scheduler.end=" + most,
               "param_scheduler.step_size=" + most, "randomness.seed=" + std::to_string(kMost)}),
      "");
}

TEST_F(AbsurdSizes, ARunOfMoreIterationsThanCanBeCountedIsRefused) {
  expect({"train_cfg.max_epochs=2147483647"}, "train_cfg.max_epochs",
         "2147483647 epochs of 2 batches are 4294967294 iterations; a run has at most 2147483647");
}

TEST_F(AbsurdSizes, DropLastIsNamedOnlyWhereItIsOn) {
  EXPECT_THAT(refusal({"train_dataloader.batch_size=9", "train_dataloader.drop_last=true"}),
              HasSubstr("drop_last is on and 8 samples are fewer than batch_size 9"));
}

TEST_F(AbsurdSizes, ImagesThatMemoryCannotHoldAreRefusedByTheirKeys) {
  const std::string data = "train_dataloader.dataset.";
  expect({data + "size=1000000", data + "image_size=512"}, "train_dataloader.dataset.size: ",
         "1000000 images of 1 x 512 x 512 would take 262 GB; RandomImages holds at most 2 GB");
  expect({data + "num_classes=16777216", data + "image_size=512"},
         "train_dataloader.dataset.num_classes: ", "patterns");
  expect({data + "image_size=1000000000"}, data + "image_size", "in [1, 8192]");
  expect({data + "channels=1000000000"}, data + "channels", "in [1, 4096]");
  expect({data + "num_classes=1000000000"}, data + "num_classes", "in [1, 16777216]");
  for (const char* type : {"Resize", "RandomResizedCrop"}) {
    Node scaled = Node::mapping({{"type", type}, {"scale", 1000000000}});
    config_.find("train_dataloader")->find("dataset")->set("pipeline", Node::sequence({scaled}));
    expect({}, data + "pipeline[0].scale", "in [1, 8192]");
  }
  Node crop = Node::mapping({{"type", "RandomCrop"}, {"crop_size", 8}, {"padding", 1000000000}});
  config_.find("train_dataloader")->find("dataset")->set("pipeline", Node::sequence({crop}));
  expect({}, data + "pipeline[0].padding", "in [0, 8192]");
}

TEST_F(AbsurdSizes, ABatchThatMemoryCannotHoldIsRefusedByItsKey) {
  Node resize = Node::mapping({{"type", "Resize"}, {"scale", 1024}});
  config_.find("train_dataloader")->find("dataset")->set("pipeline", Node::sequence({resize}));
  expect({"train_dataloader.batch_size=5000", "train_dataloader.dataset.size=10000"},
         "train_dataloader.batch_size: ",
         "makes batches of 5000 images of 1 x 1024 x 1024, 21 GB; the limit for a batch is 16 GB");
}

TEST_F(AbsurdSizes, NetworksThatMemoryCannotHoldAreRefusedByTheirKeys) {
  const std::string backbone = "model.backbone.";
  expect({backbone + "channels=[60000,60000]"}, "model.backbone: SmallCNN: channels would make",
         "parameters, but the limit is 2^30 (1.07e+09); choose smaller ones");
  expect({backbone + "channels=[4," + std::to_string(kMost) + "]"}, backbone + "channels[1]",
         "in [1, 65536]");
  expect({"model.head.num_classes=" + std::to_string(kMost)}, "model.head.num_classes",
         "in [1, 16777216]");
  expect({"model.head.num_classes=16777216", backbone + "channels=[1000]"},
         "model.head: LinearClsHead: num_classes", "would make");
  const auto other = [&](const Node& node) { config_.find("model")->set("backbone", node); };
  other(Node::mapping({{"type", "ResNet"}, {"depth", 18}, {"base_channels", 1000000}}));
  expect({}, backbone + "base_channels", "in [1, 256]");
  other(Node::mapping({{"type", "MLP"}, {"hidden", Node::sequence({1000000, 1000000})}}));
  expect({}, "model.backbone: MLP: hidden", "would make 1e+12 parameters");
  other(Node::mapping({{"type", "MLP"}, {"hidden", Node::sequence(std::vector<Node>(1001, 1))}}));
  expect({}, "model.backbone: hidden", "must have at most 1000 entries, got 1001");
  Node arch = Node::mapping(
      {{"embed_dims", 65536}, {"num_layers", 1000}, {"num_heads", 4}, {"feedforward_channels", 4}});
  other(Node::mapping({{"type", "MoCoV3ViT"}, {"arch", arch}, {"patch_size", 4}}));
  expect({}, "model.backbone: MoCoV3ViT: embed_dims, num_layers", "would make");
  other(Node::mapping({{"type", "MLP"}, {"hidden", Node::sequence({8})}}));
  config_.find("model")->set("neck", Node::mapping({{"type", "NonLinearNeck"},
                                                    {"hid_channels", 1000000},
                                                    {"out_channels", 8},
                                                    {"num_layers", 3}}));
  expect({}, "model.neck: NonLinearNeck: hid_channels", "would make");
}

TEST_F(AbsurdSizes, ViewsBeyondTheirBoundAreRefusedByTheirKey) {
  Node views = Node::mapping({{"type", "MultiView"},
                              {"num_views", 2000000000},
                              {"transforms", Node::sequence({Node::sequence()})}});
  config_.find("train_dataloader")->find("dataset")->set("pipeline", Node::sequence({views}));
  expect({}, "pipeline[0].num_views", "must be in [1, 100], got 2000000000");
}

}  // namespace
}  // namespace polyak
