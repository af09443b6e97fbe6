// SPDX-License-Identifier: Apache-2.0
// How CheckpointHook writes: in the background, to a disk that fails, and for deployment.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <memory>

#include "polyak/averaging/register.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;
using ::testing::UnorderedElementsAre;

const char* const kSavedRun = R"(
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [6, 6]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 4, dataset: {type: RandomImages, size: 16, num_classes: 4}}
val_dataloader: {batch_size: 8, dataset: {type: RandomImages, size: 16, num_classes: 4, seed: 1}}
val_evaluator: {type: Accuracy}
train_cfg: {max_epochs: 4}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {logger: null, checkpoint: {type: CheckpointHook, interval: 1, max_keep_ckpts: 1, save_best: accuracy}}
custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.05}]
)";

class Saving : public ::testing::Test {
 protected:
  Saving() {
    register_averages(catalog_);
    register_trainer(catalog_);
    load_plugin(find_plugin("polyak_hooks", ""), catalog_);
    folder_ = own_folder() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    previous_ = set_log_sink(
        [this](LogLevel, std::string_view line) { messages_ += fmt::format("{}\n", line); });
  }
  ~Saving() override { set_log_sink(previous_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void train(const std::string& work_dir, const std::vector<std::string>& overrides,
             const std::string& published = "") {
    Node config = parse_config(kSavedRun);
    config.set("work_dir", path(work_dir));
    for (const std::string& text : overrides) apply_override(config, text);
    if (!published.empty()) {
      const Node options = parse_config("published: " + published);
      Node& hook = *config.find("default_hooks")->find("checkpoint");
      hook.set("published", options.at("published"));
    }
    TrainRunner(config, catalog_).train();
  }
  std::vector<std::string> files(const std::string& work_dir) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path(work_dir))) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".pth" || extension == ".safetensors") {
        names.push_back(entry.path().filename().string());
      }
    }
    return names;
  }
  static void expect_same(const Value& a, const Value& b, const std::string& where = "") {
    ASSERT_STREQ(a.kind_name(), b.kind_name()) << where;
    if (a.is_tensor()) {
      EXPECT_TRUE(at::equal(a.as_tensor(), b.as_tensor())) << where;
    }
    if (a.kind() == Value::Kind::integer) {
      EXPECT_EQ(a.as_int(), b.as_int()) << where;
    }
    if (!a.is_dict()) return;
    ASSERT_EQ(a.entries().size(), b.entries().size()) << where;
    for (const auto& [key, value] : a.entries()) {
      const std::string name =
          key.kind() == Value::Kind::string ? key.as_string() : fmt::format("{}", key.as_int());
      ASSERT_TRUE(b.contains(key)) << where << name;
      expect_same(value, b.at(key), where + name + ".");
    }
  }

  Catalog catalog_;
  std::string folder_;
  std::string messages_;
  LogSink previous_;
};

TEST_F(Saving, InTheBackgroundWritesTheSameFiles) {
  train("plain", {});
  train("background", {"default_hooks.checkpoint.async_save=true"});
  ASSERT_EQ(files("plain").size(), 2);  // the newest, and the best
  EXPECT_THAT(files("background"), ::testing::UnorderedElementsAreArray(files("plain")));
  for (const std::string& name : files("plain")) {
    expect_same(read_pth(path("plain/" + name)), read_pth(path("background/" + name)));
  }
  EXPECT_EQ(find_last_checkpoint(path("background"), {}), path("background/epoch_4.pth"));
}

TEST_F(Saving, ARunGoesOnWithoutAFileThatCannotBeWritten) {
  fs::create_directories(path("run/epoch_2.pth"));  // a folder: nothing can be renamed to it
  for (const char* background : {"false", "true"}) {
    const std::string async = fmt::format("default_hooks.checkpoint.async_save={}", background);
    messages_.clear();
    EXPECT_THAT([&] { train("run", {async}); },
                ThrowsMessage<CheckpointError>(HasSubstr("epoch_2.pth: cannot be written")))
        << background;
    // The file before it is not removed before the next one is safe.
    EXPECT_TRUE(fs::exists(path("run/epoch_1.pth")));
    EXPECT_EQ(find_last_checkpoint(path("run"), {}), path("run/epoch_1.pth"));

    train("run", {async, "default_hooks.checkpoint.on_save_error=continue"});
    EXPECT_THAT(messages_, HasSubstr("epoch_2.pth: cannot be written"));
    EXPECT_THAT(messages_, HasSubstr("training goes on without this file (on_save_error: "
                                     "continue)"));
    EXPECT_TRUE(fs::exists(path("run/epoch_4.pth")));
    EXPECT_FALSE(fs::exists(path("run/epoch_1.pth")));
    EXPECT_EQ(find_last_checkpoint(path("run"), {}), path("run/epoch_4.pth"));
    fs::remove(path("run/epoch_4.pth"));
  }
}

TEST_F(Saving, PublishesTheBestAndTheLastWeights) {
  train("run", {}, "{weights: averaged, dtype: bfloat16}");
  std::vector<std::string> stems;
  for (const std::string& name : files("run")) stems.push_back(fs::path(name).stem().string());
  std::vector<std::string> published;
  for (const std::string& name : files("run/published")) {
    published.push_back(fs::path(name).stem().string());
  }
  EXPECT_THAT(published, ::testing::UnorderedElementsAreArray(stems));
  const std::string file = path("run/published/epoch_4.safetensors");
  const Value weights = read_safetensors(file);
  const Value whole = read_pth(path("run/epoch_4.pth"));
  ASSERT_EQ(weights.entries().size(), whole.at("state_dict").entries().size());
  for (const auto& [key, value] : weights.entries()) {
    const at::Tensor& averaged = whole.at("state_dict").at(key).as_tensor();
    EXPECT_TRUE(at::equal(value.as_tensor(), averaged.to(at::kBFloat16))) << key.as_string();
  }
  const SafetensorsMetadata metadata = read_safetensors_metadata(file);
  EXPECT_EQ(metadata.at("format"), "pt");
  EXPECT_EQ(metadata.at("weights"), "averaged");
  EXPECT_EQ(metadata.at("epoch"), "4");

  train("raw", {}, "{weights: raw, format: pth}");
  const Value raw = read_pth(path("raw/published/epoch_4.pth"));
  EXPECT_EQ(raw.entries().size(), 2);
  for (const auto& [key, value] : raw.at("state_dict").entries()) {
    const Value& saved = whole.at("ema_state_dict").at("module." + key.as_string());
    EXPECT_TRUE(at::equal(value.as_tensor(), saved.as_tensor())) << key.as_string();
  }
}

TEST_F(Saving, AnAverageInAFileOfItsOwnIsThereAsLongAsItsCheckpoint) {
  train("a", {"custom_hooks=[{type: EMAHook, averages: [{decay: 0.9}, {decay: 0.5, name: fast, "
              "own_file: true}]}]",
              "default_hooks.checkpoint.save_best=null"});
  EXPECT_THAT(files("a"), UnorderedElementsAre("epoch_4.pth", "epoch_4_fast.pth"))
      << "max_keep_ckpts removes both files of an epoch";
  const Value checkpoint = read_pth(path("a/epoch_4.pth"));
  const Value own = read_pth(path("a/epoch_4_fast.pth"));
  int64_t compared = 0;
  for (const auto& [name, value] : own.at("state_dict").entries()) {
    const Value* const kept =
        checkpoint.at("ema_state_dict.fast").find("module." + name.as_string());
    ASSERT_TRUE(kept) << name.as_string();
    EXPECT_TRUE(value.as_tensor().equal(kept->as_tensor())) << name.as_string();
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST_F(Saving, WhatCannotBePublishedIsRefusedBeforeTraining) {
  const auto published = [&](const std::string& options,
                             const std::vector<std::string>& overrides = {}) {
    train("run", overrides, options);
  };
  EXPECT_THAT([&] { published("{weights: slow}"); },
              ThrowsMessage<ConfigError>(HasSubstr("published.weights is 'slow', but the run only "
                                                   "has: raw, averaged")));
  EXPECT_THAT([&] { published("{weights: averaged}", {"custom_hooks=[]"}); },
              ThrowsMessage<ConfigError>(HasSubstr("but the run only has: raw")));
  EXPECT_THAT(
      [&] { published("{format: pth, keys: [state_dict, optimiser]}"); },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("has no 'optimiser'"), HasSubstr("optimizer"))));
  EXPECT_THAT([&] { published("{keys: [state_dict, meta]}"); },
              ThrowsMessage<ConfigError>(HasSubstr("a .safetensors file holds only tensors")));
  EXPECT_THAT([&] { published("{dtype: int8}"); },
              ThrowsMessage<ConfigError>(HasSubstr("published")));
  EXPECT_THAT([&] { published("{wieghts: raw}"); },
              ThrowsMessage<ConfigError>(HasSubstr("did you mean 'weights'?")));
  EXPECT_FALSE(fs::exists(path("run/epoch_1.pth")));
}

}  // namespace
}  // namespace polyak::test
