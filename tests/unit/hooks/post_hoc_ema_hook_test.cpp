// SPDX-License-Identifier: Apache-2.0
// Snapshots that a run writes, and averages of other widths that are made from them.
#include "polyak/hooks/post_hoc_ema_hook.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <filesystem>
#include <random>

#include "polyak/checkpoint/safetensors.h"
#include "polyak/core/log.h"
#include "polyak/rules/power_function_ema.h"
#include "polyak/runtime/post_hoc_average.h"
#include "polyak/runtime/saved_average.h"
#include "support/averages.h"
#include "support/fake_runner.h"
#include "support/own_folder.h"
#include "support/tiny_net.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::ThrowsMessage;

std::shared_ptr<PostHocEMAHook> make_hook(std::vector<Node::Entry> entries) {
  PostHocEMAHookOptions options;
  read_options(Node::mapping(std::move(entries)), options, "PostHocEMAHook");
  return std::make_shared<PostHocEMAHook>(options, averages());
}

std::string refusal_of(std::vector<Node::Entry> entries) {
  try {
    make_hook(std::move(entries));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

/// A model whose weights walk at random, in a loop of a few lines.
struct Walk {
  explicit Walk(const std::string& folder, int64_t steps, std::vector<Node::Entry> entries = {})
      : hook(make_hook(std::move(entries))) {
    runner.work_dir_ = folder;
    runner.progress_.max_iters = steps;
    runner.progress_.max_optimizer_steps = steps;
    runner.progress_.optimizer_steps = 0;
    runner.hooks_.add(hook);
  }
  void call(const std::function<void(Hook&)>& point) { runner.hooks_.call(point); }
  void start() {
    call([&](Hook& item) { item.check_run(runner); });
    call([&](Hook& item) { item.before_run(runner); });
    call([&](Hook& item) { item.before_train(runner); });
  }
  void step() {
    const torch::NoGradGuard no_grad;
    for (const NamedTensor& item : runner.model().tensors()) {
      if (!at::isFloatingType(item.tensor.scalar_type())) continue;
      at::Tensor steps = at::empty_like(item.tensor);
      for (int64_t i = 0; i < steps.numel(); ++i) {
        steps.view(-1)[i] = noise(random);
      }
      at::Tensor(item.tensor).add_(steps);
    }
    ++runner.progress_.optimizer_steps;
    call([&](Hook& item) { item.after_train_iter(runner, 0, {}); });
    ++runner.progress_.iter;
  }
  void train(int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) step();
  }
  void end() {
    call([&](Hook& item) { item.after_train(runner); });
  }
  Value save() {
    Value checkpoint = Value::dict();
    Value polyak = Value::dict();
    polyak.set("format", 1);
    checkpoint.set("state_dict", state_dict_of(runner.model()));
    checkpoint.set("polyak", std::move(polyak));
    call([&](Hook& item) { item.before_save_checkpoint(runner, checkpoint); });
    return snapshot_of(checkpoint);
  }
  static Value snapshot_of(const Value& value) {
    if (value.is_tensor()) return value.as_tensor().clone();
    if (!value.is_dict()) return value;
    Value copy = Value::dict({}, value.ordered());
    for (const auto& [key, item] : value.entries()) copy.set(key, snapshot_of(item));
    return copy;
  }

  static TinyNet seeded() {
    at::manual_seed(0);
    return TinyNet();
  }

  std::mt19937_64 random{5};
  std::normal_distribution<float> noise;
  TinyNet net = seeded();
  FakeRunner runner{net};
  std::shared_ptr<PostHocEMAHook> hook;
};

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const std::string& file : post_hoc_files(folder)) {
    names.push_back(fs::path(file).filename().string());
  }
  return names;
}

TEST(PostHocEMAHook, WritesSnapshotsAtEachPartOfTheRunAndAtItsEnd) {
  const OwnFolder folder;
  Walk walk(folder.path(), 50, {{"every", "40%"}});
  walk.start();
  walk.train(50);
  walk.end();
  EXPECT_THAT(names_in(folder.path() + "/post_hoc"),
              ElementsAre("00000020_0.05.safetensors", "00000020_0.1.safetensors",
                          "00000040_0.05.safetensors", "00000040_0.1.safetensors",
                          "00000050_0.05.safetensors", "00000050_0.1.safetensors"));
  const std::string last = folder.path() + "/post_hoc/00000050_0.1.safetensors";
  const auto average = walk.runner.averages().find("post_hoc_0.1");
  ASSERT_TRUE(average);
  EXPECT_EQ(average->steps(), 50);
  const Value read = read_safetensors(last);
  for (const auto& item : average->named_averages()) {
    EXPECT_TRUE(at::equal(read.at(item.key()).as_tensor(), item.value())) << item.key();
  }
  const SafetensorsMetadata metadata = read_safetensors_metadata(last);
  EXPECT_EQ(metadata.at("step"), "50");
  EXPECT_EQ(metadata.at("sigma_rel"), "0.1");
  EXPECT_EQ(metadata.at("run"), "stamp");
}

TEST(PostHocEMAHook, CountsStepsAndEpochsToo) {
  PostHocEMAHookOptions options;
  Progress progress;
  progress.max_optimizer_steps = 1000;
  progress.epoch_length = 40;
  progress.accumulative_counts = 2;
  EXPECT_EQ(options.steps_between(progress), 10);  // 1 %
  EXPECT_EQ(options.every(7).steps_between(progress), 7);
  EXPECT_EQ(options.every(parse_length("2ep")).steps_between(progress), 40);
  EXPECT_EQ(options.every(parse_length("0.5ep")).steps_between(progress), 10);
  EXPECT_EQ(options.every(parse_length("0.01%")).steps_between(progress), 1);
  EXPECT_THAT([&] { options.every(parse_length("1%")).steps_between({}); },
              ThrowsMessage<ConfigError>(
                  HasSubstr("every: 1% needs the length of the run, which is unknown here")));
  EXPECT_THAT([&] { options.every(parse_length("1ep")).steps_between({}); },
              ThrowsMessage<ConfigError>(HasSubstr("every: 1ep needs the length of an epoch")));
}

TEST(PostHocEMAHook, GivesAveragesOfOtherWidthsAsTrainingWouldHaveKeptThem) {
  constexpr int64_t kSteps = 400;
  for (const char* dtype : {"float32", "float16"}) {
    const OwnFolder folder;
    Walk walk(folder.path(), kSteps, {{"dtype", dtype}, {"every", "1%"}});
    std::vector<std::shared_ptr<EMAHook>> direct;
    const std::vector<double> widths{0.03, 0.07, 0.15, 0.20};
    for (const double width : widths) {
      direct.push_back(make_ema_hook(Node::mapping({{"ema_type", "PowerFunctionEMA"},
                                                    {"sigma_rel", width},
                                                    {"update_buffers", true},
                                                    {"name", fmt::format("w{}", width)}})));
      walk.runner.hooks_.add(direct.back());
    }
    walk.start();
    walk.train(kSteps);
    walk.end();
    const PostHocAverage average(folder.path());
    EXPECT_EQ(average.dtype(), dtype);
    EXPECT_THAT(average.snapshots(), SizeIs(200));
    for (size_t i = 0; i < widths.size(); ++i) {
      const Synthesis synthesis = average.solve(power_function_gamma(widths[i]));
      average.check(synthesis, power_function_gamma(widths[i]));
      const Value made = average.run(synthesis);
      double error = 0;
      double distance = 0;
      double size = 0;
      for (const NamedTensor& raw : walk.runner.model().tensors()) {
        if (!at::isFloatingType(raw.tensor.scalar_type())) continue;
        const at::Tensor own = direct[i]->average()->named_averages()[raw.name];
        error += (made.at(raw.name).as_tensor() - own).pow(2).sum().item<double>();
        distance += (own - raw.tensor).pow(2).sum().item<double>();
        size += own.pow(2).sum().item<double>();
      }
      const double bound = std::string(dtype) == "float32"
                               ? 0.01 * std::sqrt(distance)
                               : 10 * average.rounding(synthesis) * std::sqrt(size);
      EXPECT_LT(std::sqrt(error), bound) << dtype << " " << widths[i];
    }
  }
}

TEST(PostHocEMAHook, IsUpdatedInOnePassWithTheEMAHooksBesideIt) {
  const OwnFolder folder;
  Walk walk(folder.path(), 50, {{"every", 50}});
  const auto last = make_ema_hook(Node::mapping({{"momentum", 0.1}}));
  walk.runner.hooks_.add(last);
  walk.start();
  const torch::NoGradGuard no_grad;
  walk.runner.progress_.optimizer_steps = 1;
  walk.hook->after_train_iter(walk.runner, 0, {});
  const AveragedModel* own = nullptr;
  EXPECT_EQ(last->average()->steps(), 0);
  last->after_train_iter(walk.runner, 0, {});
  for (const NamedAverage& item : walk.runner.averages()) {
    EXPECT_EQ(item.average->steps(), 1);
    EXPECT_EQ(item.is_measured, item.name.empty());
    own = item.average.get();
  }
  EXPECT_TRUE(own);
}

TEST(PostHocEMAHook, GoesOnFromACheckpointWithTheSameSnapshots) {
  const OwnFolder whole;
  Walk once(whole.path(), 40, {{"every", 10}});
  once.start();
  once.train(40);
  once.end();

  const OwnFolder folder;
  Walk first(folder.path(), 40, {{"every", 10}});
  first.start();
  first.train(15);
  const Value checkpoint = first.save();
  first.train(10);  // lost: among them the snapshots of step 20

  Walk second(folder.path(), 40, {{"every", 10}});
  second.runner.resuming_ = true;
  second.runner.run_info() = first.runner.run_info();
  {
    const torch::NoGradGuard no_grad;
    for (const NamedTensor& item : second.runner.model().tensors()) {
      at::Tensor(item.tensor).copy_(checkpoint.at("state_dict").at(item.name).as_tensor());
    }
  }
  // The same steps from there on.
  Walk replay(folder.path() + "/replay", 40, {{"every", 100}});
  replay.start();
  replay.train(15);
  second.random = replay.random;
  second.noise = replay.noise;
  second.call([&](Hook& item) { item.check_run(second.runner); });
  second.call([&](Hook& item) { item.before_run(second.runner); });
  Value loaded = checkpoint;
  second.hook->after_load_checkpoint(second.runner, loaded);
  second.runner.progress_.optimizer_steps = 15;
  second.runner.progress_.iter = 15;
  second.call([&](Hook& item) { item.before_train(second.runner); });
  second.train(25);
  second.end();
  const std::vector<std::string> names = names_in(whole.path() + "/post_hoc");
  EXPECT_THAT(names, SizeIs(8));
  EXPECT_EQ(names_in(folder.path() + "/post_hoc"), names);
  for (const std::string& name : names) {
    const Value a = read_safetensors(whole.path() + "/post_hoc/" + name);
    const Value b = read_safetensors(folder.path() + "/post_hoc/" + name);
    for (const auto& [key, value] : a.entries()) {
      EXPECT_TRUE(at::equal(value.as_tensor(), b.at(key).as_tensor())) << name;
    }
  }
}

TEST(PostHocEMAHook, CopiesBuffersOfAveragesThatDoNotAverageThem) {
  const OwnFolder folder;
  Walk walk(folder.path(), 100, {{"every", 1}, {"update_buffers", false}});
  walk.start();
  walk.train(100);
  const PostHocAverage average(folder.path());
  const Value made = average.run(average.solve(power_function_gamma(0.15)));
  EXPECT_TRUE(at::equal(made.at("bn.running_var").as_tensor(), walk.net->bn->running_var));
  EXPECT_FALSE(at::equal(made.at("fc.weight").as_tensor(), walk.net->fc->weight));
}

TEST(PostHocEMAHook, TellsOfSnapshotsThatAreAnotherRuns) {
  const OwnFolder folder;
  Walk first(folder.path(), 20, {{"every", 5}});
  first.start();
  first.train(20);
  Walk second(folder.path(), 20, {{"every", 10}});
  second.runner.run_info().set("post_hoc_run", "other");
  second.start();
  second.train(10);
  EXPECT_THAT([&] { PostHocAverage average(folder.path()); },
              ThrowsMessage<CheckpointError>(
                  AllOf(HasSubstr("snapshots of 2 runs"), HasSubstr("run stamp"))));
  Walk third(folder.path(), 20, {{"every", 10}});
  EXPECT_THAT(log_of([&] { third.start(); }),
              ::testing::Contains(HasSubstr("holds 8 snapshot(s) of an earlier run")));
}

TEST(PostHocEMAHook, GoesOnOrStopsWhereASnapshotCannotBeWritten) {
  const OwnFolder folder;
  Walk stops(folder.path(), 10, {{"every", 5}});
  stops.start();
  // A folder where the file has to be.
  fs::create_directories(folder.path() + "/post_hoc/00000005_0.1.safetensors");
  EXPECT_THAT([&] { stops.train(5); },
              ThrowsMessage<CheckpointError>(HasSubstr("00000005_0.1.safetensors: cannot be")));
  Walk goes_on(folder.path(), 10, {{"every", 5}, {"on_save_error", "continue"}});
  EXPECT_THAT(log_of([&] {
                goes_on.start();
                goes_on.train(10);
              }),
              ::testing::Contains(HasSubstr("training goes on without this snapshot")));
  EXPECT_TRUE(fs::is_regular_file(folder.path() + "/post_hoc/00000010_0.1.safetensors"));
}

TEST(PostHocEMAHook, RefusesKeysThatCannotWork) {
  EXPECT_THAT(refusal_of({{"every", "1 %x"}}), HasSubstr("every: '1 %x' is not a length"));
  EXPECT_THAT(refusal_of({{"interval", 2}}), HasSubstr("interval: does not go with snapshots"));
  EXPECT_THAT(refusal_of({{"write_back", Node::mapping({{"every", 2}})}}),
              HasSubstr("write_back: would change the training"));
  EXPECT_THAT(refusal_of({{"every", 0}}), HasSubstr("every: must be"));
  EXPECT_THAT(refusal_of({{"every", "101%"}}), HasSubstr("every: must be"));
  EXPECT_THAT(refusal_of({{"every", 1.5}}), HasSubstr("every: must be"));
  EXPECT_THAT(refusal_of({{"every", Node::sequence({1})}}), HasSubstr("every: must be"));
  EXPECT_THAT(refusal_of({{"sigma_rels", Node::sequence({0.05})}}), HasSubstr("at least two"));
  EXPECT_THAT(refusal_of({{"sigma_rels", Node::sequence({0.05, 0.5})}}),
              HasSubstr("0.5 is not a width"));
  EXPECT_THAT(refusal_of({{"sigma_rels", Node::sequence({0.05, 0.05})}}), HasSubstr("twice"));
  EXPECT_THAT(refusal_of({{"sigma_rel", 0.1}}), HasSubstr("sigma_rels"));
  EXPECT_THAT(refusal_of({{"dtype", "int8"}}), HasSubstr("dtype"));
  EXPECT_THAT(refusal_of({{"momentum", 0.1}}), HasSubstr("momentum"));
  EXPECT_THAT(refusal_of({{"evry", 1}}), HasSubstr("did you mean 'every'"));
  const OwnFolder folder;
  Walk dense(folder.path(), 10000, {{"every", 1}});
  EXPECT_THAT([&] { dense.start(); }, ThrowsMessage<ConfigError>(HasSubstr("set at least 5")));
  Walk nowhere("", 10);
  EXPECT_THAT([&] { nowhere.start(); }, ThrowsMessage<ConfigError>(HasSubstr("set work_dir")));
  Walk twice(folder.path(), 10);
  twice.runner.hooks_.add(make_hook({}));
  EXPECT_THAT([&] { twice.start(); }, ThrowsMessage<ConfigError>(HasSubstr("two PostHocEMAHooks")));
}

TEST(PostHocAverage, RefusesAWidthThatItsSnapshotsCannotGive) {
  const OwnFolder folder;
  Walk walk(folder.path(), 100, {{"every", "5%"}});
  walk.start();
  walk.train(100);
  const PostHocAverage average(folder.path());
  const double gamma = power_function_gamma(0.01);
  EXPECT_THAT([&] { average.check(average.solve(gamma), gamma); },
              ThrowsMessage<CheckpointError>(AllOf(HasSubstr("sigma_rel 0.01 at step 100"),
                                                   HasSubstr("they give sigma_rel 0"))));
  const PostHocAverage earlier(folder.path(), 50);
  EXPECT_EQ(earlier.step(), 50);
  EXPECT_THAT(earlier.snapshots(), SizeIs(20));
  EXPECT_THAT([&] { PostHocAverage(folder.path(), 101); },
              ThrowsMessage<CheckpointError>(HasSubstr("the newest snapshot is at step 100")));
  EXPECT_THAT([&] { PostHocAverage(folder.path() + "/none"); },
              ThrowsMessage<CheckpointError>(HasSubstr("is no folder")));
  const OwnFolder empty;
  EXPECT_THAT([&] { PostHocAverage none(empty.path()); },
              ThrowsMessage<CheckpointError>(HasSubstr("holds no snapshots")));
  write_safetensors(empty.path() + "/00000001_0.1.safetensors", state_dict_of(walk.net));
  EXPECT_THAT([&] { PostHocAverage none(empty.path()); },
              ThrowsMessage<CheckpointError>(HasSubstr("is no snapshot of a PostHocEMAHook")));
  write_safetensors(empty.path() + "/00000001_0.1.safetensors", state_dict_of(walk.net),
                    {{"polyak", "post_hoc"}, {"gamma", "-3"}});
  EXPECT_THAT([&] { PostHocAverage none(empty.path()); },
              ThrowsMessage<CheckpointError>(HasSubstr("gamma in its metadata is '-3'")));
}

}  // namespace
}  // namespace polyak::test
