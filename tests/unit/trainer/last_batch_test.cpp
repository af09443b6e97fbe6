// SPDX-License-Identifier: Apache-2.0
// A last batch of one sample, which BatchNorm may not take.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

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
using ::testing::ThrowsMessage;

/// 17 samples of 8 x 8 pixels: two halvings leave 2 x 2, three a single one.
const char* const kLastBatchRun = R"(
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [8, 16, 16]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 16, dataset: {type: RandomImages, size: 17, num_classes: 4}}
train_cfg: {max_epochs: 2}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05}}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {runtime_info: null, timer: null, logger: null, param_scheduler: null, checkpoint: null}
)";

const char* const kByol = R"(
type: BYOL
backbone: {type: SmallCNN, channels: [8, 16], with_avg_pool: true}
neck: {type: NonLinearNeck, hid_channels: 6, out_channels: 4}
head: {type: LatentPredictHead, predictor: {type: NonLinearNeck, hid_channels: 6, out_channels: 4, with_last_bn: false}}
)";
const char* const kTwoViews =
    "{s: [{type: MultiView, num_views: [2], transforms: [[{type: RandomFlip}]]}]}";

class LastBatch : public ::testing::Test {
 protected:
  LastBatch() { register_trainer(catalog_); }
  static Node config(const std::vector<std::string>& overrides = {}) {
    Node node = parse_config(kLastBatchRun);
    node.set("work_dir", own_folder() + "/work");
    for (const std::string& text : overrides) apply_override(node, text);
    return node;
  }
  static Node byol(int64_t size) {
    Node node = config({fmt::format("train_dataloader.dataset.size={}", size)});
    node.set("model", parse_config(kByol));
    node.find("train_dataloader")
        ->find("dataset")
        ->set("pipeline", parse_config(kTwoViews).at("s"));
    return node;
  }
  void refused(const Node& node, const std::string& what, const std::string& remedy) {
    EXPECT_THAT([&] { TrainRunner(node, catalog_); },
                ThrowsMessage<ConfigError>(
                    AllOf(HasSubstr("train_dataloader"), HasSubstr(what + " one sample"),
                          HasSubstr("Expected more than 1 value per channel"), HasSubstr(remedy))));
  }
  void trains(const Node& node) {
    TrainRunner runner(node, catalog_);
    EXPECT_NO_THROW(runner.train());
  }
  Catalog catalog_;
};

TEST_F(LastBatch, OfOneSampleIsRefusedAtTheStartWhereItWouldFail) {
  refused(config(), "the last batch of an epoch has", "drop_last: true");
  refused(config({"train_dataloader.dataset.size=40", "train_dataloader.dataset.limit=33"}),
          "the last batch of an epoch has", "drop_last: true");
  refused(config({"train_dataloader.batch_size=1"}), "each batch has", "batch_size: 2 or more");
  refused(config({"train_dataloader.dataset.limit=1"}), "the last batch of an epoch has",
          "more samples");
  refused(byol(17), "the last batch of an epoch has", "drop_last: true");
}

TEST_F(LastBatch, OfOneSampleTrainsWhereTheModelTakesIt) {
  trains(config({"model.backbone.channels=[8,16]"}));
  trains(config({"model.backbone.channels=[8,16]", "train_dataloader.batch_size=1"}));
}

TEST_F(LastBatch, OfOtherSizesTrains) {
  trains(config({"train_dataloader.dataset.size=18"}));
  trains(config({"train_dataloader.drop_last=true"}));
  trains(byol(18));
}

TEST_F(LastBatch, IsOfNoConcernToARunThatDoesNotComeToIt) {
  Node node = config();
  node.set("train_cfg", parse_config("{by_epoch: false, max_iters: 1}"));
  TrainRunner runner(node, catalog_);
  runner.train();
  EXPECT_NO_THROW(runner.training_forward()->run_training_forward(100))
      << "nor to passes beside its training";
  node.set("train_cfg", parse_config("{by_epoch: false, max_iters: 2}"));
  refused(node, "the last batch of an epoch has", "drop_last: true");
}

TEST_F(LastBatch, IsTriedWithoutATrace) {
  const auto random_after = [&](const Node& node) {
    TrainRunner runner(node, catalog_);
    for (const NamedTensor& item : runner.model().tensors()) {
      const bool is_counter = item.name.find("num_batches") != std::string::npos ||
                              item.name.find("running_mean") != std::string::npos ||
                              item.name.find("steps") != std::string::npos;
      if (is_counter) {
        EXPECT_EQ(item.tensor.abs().sum().item<double>(), 0) << item.name;
      }
      EXPECT_FALSE(item.tensor.grad().defined());
    }
    return at::rand({4});
  };
  const auto plain = [&](int64_t size) {
    return config(
        {"model.backbone.channels=[8,16]", fmt::format("train_dataloader.dataset.size={}", size)});
  };
  EXPECT_TRUE(at::equal(random_after(plain(17)), random_after(plain(18))));
  Node iterations = byol(17);
  iterations.set("train_cfg", parse_config("{by_epoch: false, max_iters: 1}"));
  Node even = byol(18);
  even.set("train_cfg", parse_config("{by_epoch: false, max_iters: 1}"));
  EXPECT_TRUE(at::equal(random_after(iterations), random_after(even)));
}

}  // namespace
}  // namespace polyak::test
