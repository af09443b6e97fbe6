// SPDX-License-Identifier: Apache-2.0
// What class folders mean to a run: labels by name, in every set and over a checkpoint.
#include "polyak/checkpoint/pth.h"
#include "polyak/core/error.h"
#include "polyak/trainer/class_names.h"
#include "polyak/trainer/train_runner.h"
#include "unit/trainer/image_folder_testing.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::ThrowsMessage;

const char* const kConfig = R"(
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [8]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 3, dataset: {type: ImageNet, size: 4, split: train}}
train_cfg: {by_epoch: true, max_epochs: 12}
val_dataloader: {batch_size: 2, dataset: {type: ImageNet, size: 4, split: val}}
val_evaluator: {type: Accuracy}
optim_wrapper: {optimizer: {type: SGD, lr: 0.2, momentum: 0.9}}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {runtime_info: null, timer: null, logger: null, param_scheduler: null, checkpoint: null}
)";

/// Three classes that a run tells apart without fail: ant is red, bee green, cat blue.
class ClassFolders : public Folders {
 protected:
  ClassFolders() {
    for (const char* split : {"train", "val"}) {
      for (const char* name : {"ant", "bee", "cat"}) write_class(split, name);
    }
  }
  void write_class(const std::string& split, const std::string& name) const {
    const int64_t at = name == "ant" ? 0 : name == "bee" ? 1 : 2;
    for (int64_t i = 0; i < 4; ++i) {
      std::vector<int64_t> colour{10 * i, 10 * i, 10 * i};
      colour[static_cast<size_t>(at)] = 255 - 5 * i;
      write_png(fmt::format("{}/{}/{}.png", split, name, i), plain(4, 4, colour));
    }
  }
  void remove(const std::string& name) const { fs::remove_all(fs::path(root()) / name); }
  void rename(const std::string& from, const std::string& to) const {
    fs::rename(fs::path(root()) / from, fs::path(root()) / to);
  }

  Node config(const std::vector<std::string>& overrides = {}) const {
    Node node = parse_config(kConfig);
    node.set("work_dir", root() + "/work");
    for (const char* loader : {"train_dataloader", "val_dataloader"}) {
      node.find(loader)->find("dataset")->set("data_root", root());
    }
    for (const std::string& text : overrides) apply_override(node, text);
    return node;
  }
  /// The accuracy of the last validation, and the checkpoint of the end in checkpoint().
  double train(const std::vector<std::string>& overrides = {}) {
    TrainRunner runner(config(overrides), catalog_);
    const Scalars metrics = runner.train();
    write_pth(checkpoint(), runner.checkpoint_source()->make_checkpoint(true, true));
    return metrics.at("accuracy");
  }
  double test(const std::vector<std::string>& overrides = {}) {
    Node node = config(overrides);
    node.set("load_from", checkpoint());
    return TrainRunner(node, catalog_, TrainRunner::Purpose::test).test().at("accuracy");
  }
  std::string checkpoint() const { return path("saved.pth"); }
  /// Changes what stands in the checkpoint.
  void edit(const std::function<void(Value&)>& change) const {
    Value value = read_pth(checkpoint());
    change(value);
    write_pth(checkpoint(), value);
  }
  static void drop_classes(Value& value) { value.at("meta").erase("dataset_meta"); }
};

TEST_F(ClassFolders, OfValidationMayLackClassesOfTraining) {
  EXPECT_EQ(train(), 100);
  remove("val/bee");
  EXPECT_EQ(train({"val_evaluator.topk=3"}), 100);  // of three classes still
}

TEST_F(ClassFolders, ThatAreEmptyOrHiddenMoveNoLabel) {
  path("val/aardvark/");
  path("train/.ipynb_checkpoints/");
  write_png("train/.hidden/0.png", plain(4, 4, {0, 0, 0}));
  EXPECT_EQ(train(), 100);
  EXPECT_THAT(messages_, HasSubstr("/val: classes without images: 'aardvark'"));
  path("train/aardvark/");
  EXPECT_EQ(train(), 100);
  EXPECT_THAT(messages_, HasSubstr("/train: classes without images: 'aardvark'"));
  EXPECT_THAT(messages_, HasSubstr("12 images in 4 classes"));
}

TEST_F(ClassFolders, ThatTrainingDoesNotKnowAreRefusedByName) {
  rename("val/bee", "val/wasp");
  EXPECT_THAT([&] { train(); }, ThrowsMessage<DataError>(AllOf(HasSubstr("/val: contains classes"),
                                                               HasSubstr("'wasp';"),
                                                               HasSubstr("'ant', 'bee', 'cat'"))));
}

TEST_F(ClassFolders, OfATestAreNumberedByTheCheckpoint) {
  EXPECT_EQ(train(), 100);
  EXPECT_THAT(classes_of_checkpoint(read_pth(checkpoint())), ElementsAre("ant", "bee", "cat"));
  rename("train", "elsewhere");
  remove("val/ant");
  EXPECT_EQ(test(), 100);
  path("val/0_empty/");
  EXPECT_EQ(test(), 100);
  rename("val/bee", "val/wasp");
  EXPECT_THAT([&] { test(); }, ThrowsMessage<DataError>(HasSubstr("'wasp'")));
}

TEST_F(ClassFolders, OfATestAreNumberedByTheTrainingDataWhereTheCheckpointNamesNone) {
  train();
  edit(drop_classes);
  remove("val/ant");
  EXPECT_EQ(test(), 100);
  rename("train", "elsewhere");
  test({"model.head.num_classes=3"});
  EXPECT_THAT(messages_, HasSubstr("labels follow this dataset's own order: 'bee', 'cat'"));
}

TEST_F(ClassFolders, OfAForeignCheckpointMayHaveOtherNames) {  // as those of mmpretrain's ImageNet
  train();
  const auto rename_all = [](Value& value, const std::vector<std::string>& names) {
    value.at("meta").set("dataset_meta", make_dataset_meta(names));
  };
  edit([&](Value& value) {
    rename_all(value, {"Formicidae", "Apis", "Felis"});
    value.erase("polyak");
  });
  EXPECT_EQ(test(), 100);
  edit([&](Value& value) { rename_all(value, {"Formicidae", "bee", "Felis"}); });
  EXPECT_THAT([&] { test(); }, ThrowsMessage<DataError>(HasSubstr("'ant', 'cat'")));
}

TEST_F(ClassFolders, OfAResumeMustBeTheCheckpoints) {
  train({"train_cfg.max_epochs=1"});
  const std::vector<std::string> resume{"resume=true", "load_from=" + checkpoint()};
  EXPECT_EQ(TrainRunner(config(resume), catalog_).train().at("accuracy"), 100);

  rename("train/ant", "train/dog");
  remove("val/ant");
  EXPECT_THAT(
      [&] { TrainRunner(config(resume), catalog_); },
      ThrowsMessage<CheckpointError>(AllOf(
          HasSubstr("saved.pth: was trained on 3 classes, but the training data has 3"),
          HasSubstr("without 'ant', with the new 'dog'"), HasSubstr("load_from without resume"))));
  // Fine-tuning is free to have other classes.
  EXPECT_EQ(TrainRunner(config({"load_from=" + checkpoint()}), catalog_).train().at("accuracy"),
            100);

  rename("train/dog", "train/ant");
  edit([](Value& value) {
    value.at("meta").set("dataset_meta", make_dataset_meta({"bee", "ant", "cat"}));
  });
  EXPECT_THAT([&] { TrainRunner(config(resume), catalog_); },
              ThrowsMessage<CheckpointError>(HasSubstr("in a different order")));
  edit(drop_classes);  // as 0.1 wrote it
  EXPECT_EQ(TrainRunner(config(resume), catalog_).train().at("accuracy"), 100);
}

TEST_F(ClassFolders, ACheckpointOfDataWithoutNamesHasNone) {
  Node node = config();
  const Node images = parse_config("{type: RandomImages, size: 6, image_size: 4, num_classes: 3}");
  for (const char* loader : {"train_dataloader", "val_dataloader"}) {
    node.find(loader)->set("dataset", images);
  }
  TrainRunner runner(node, catalog_);
  const Value saved = runner.checkpoint_source()->make_checkpoint(true, true);
  EXPECT_THAT(classes_of_checkpoint(saved), IsEmpty());
  EXPECT_EQ(saved.at("meta").find("dataset_meta"), nullptr);
}

TEST_F(ClassFolders, OfTrainingDataWithoutLabelsMeanNothing) {  // one folder of everything
  rename("train/ant", "train/all");
  Node node = config({"train_dataloader.dataset.labelled=0"});
  node.set("model", parse_config(R"({type: BYOL, backbone: {type: MLP, hidden: [8]},
      neck: {type: NonLinearNeck, hid_channels: 8, out_channels: 4},
      head: {type: LatentPredictHead, predictor: {type: NonLinearNeck, in_channels: 4,
             hid_channels: 8, out_channels: 4}}})"));
  node.find("train_dataloader")
      ->find("dataset")
      ->set("pipeline",
            parse_config("p: [{type: MultiView, num_views: 2, transforms: [[{type: RandomFlip}]]}]")
                .at("p"));
  // The bank is numbered as the data that is judged: by names.
  remove("val/bee");
  write_class("bank", "cat");
  write_class("bank", "ant");
  path("bank/bee/");
  node.set("val_evaluator",
           parse_config("{type: KnnAccuracy, k: 1, dataloader: {batch_size: 3, dataset: "
                        "{type: ImageNet, size: 4, split: bank, data_root: " +
                        root() + "}}}"));
  EXPECT_EQ(TrainRunner(node, catalog_).train().at("knn_accuracy"), 100);
}

TEST_F(ClassFolders, BadImagesThatAreSkippedAreNoPartOfTheAccuracy) {
  test::write_bytes(path("val/ant/0.png"), {});
  test::write_bytes(path("val/ant/1.png"), {'h', 'i'});  // a whole batch
  test::write_bytes(path("train/cat/2.png"), {});
  const std::vector<std::string> skip{"train_dataloader.dataset.on_bad_image=skip",
                                      "val_dataloader.dataset.on_bad_image=skip"};
  EXPECT_EQ(train(skip), 100);
  EXPECT_EQ(
      train({skip[0], skip[1], "train_dataloader.batch_size=1", "val_dataloader.batch_size=1"}),
      100);
  EXPECT_THAT([&] { train({skip[0]}); }, ThrowsMessage<DataError>(HasSubstr("0.png: is empty")));
  EXPECT_THAT([&] { train({skip[1]}); }, ThrowsMessage<DataError>(HasSubstr("2.png: is empty")));
}

TEST_F(ClassFolders, SamplesWithoutALabelAreNoPartOfTheAccuracy) {
  EXPECT_EQ(train({"val_dataloader.dataset.labelled=5"}), 100);
  EXPECT_THAT(
      [&] { train({"val_dataloader.dataset.labelled=0"}); },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("val_evaluator"), HasSubstr("keeps none"))));
  // The first two have labels, and none of them can be read.
  test::write_bytes(path("val/ant/0.png"), {});
  test::write_bytes(path("val/ant/1.png"), {});
  EXPECT_THAT(
      [&] {
        train({"val_dataloader.dataset.on_bad_image=skip", "val_dataloader.dataset.labelled=2"});
      },
      ThrowsMessage<DataError>(HasSubstr("has a label, so there is nothing to measure")));
}

}  // namespace
}  // namespace polyak
