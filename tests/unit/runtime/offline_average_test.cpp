// SPDX-License-Identifier: Apache-2.0
// Averages of files: which files, in which order, with which weights, and what comes out.
#include "polyak/runtime/offline_average.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "polyak/averaging/register.h"
#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/config/load.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/weighted_sum.h"
#include "support/averages.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const Registry<AveragedModel>& registry() {
  static Catalog& catalog = []() -> Catalog& {
    static Catalog filled;
    register_averages(filled);
    return filled;
  }();
  return catalog.of<AveragedModel>();
}

/// One float tensor and an integer, as a state dict.
Value weights(double value, at::ScalarType dtype = at::kFloat) {
  Value dict = Value::dict({}, /*ordered=*/true);
  dict.set("layer.weight", at::full({2, 3}, value, dtype));
  dict.set("layer.count", at::full({}, static_cast<int64_t>(value * 10), at::kLong));
  return dict;
}

Value checkpoint(double value, int64_t iter) {
  Value meta = Value::dict();
  meta.set("iter", iter);
  Value file = Value::dict();
  file.set("meta", std::move(meta));
  file.set("state_dict", weights(value));
  return file;
}

class OfflineAverageTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const Value& value) const {
    const std::string path = folder_.path() + "/" + name;
    write_checkpoint_file(path, value);
    return path;
  }
  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }

  OfflineAverage surveyed(const std::vector<std::string>& names,
                          const OfflineOptions& options = {}) const {
    std::vector<OfflineFile> files;
    for (const std::string& name : names) files.push_back({path(name), std::nullopt});
    OfflineAverage average(files, options, registry());
    average.survey();
    return average;
  }

  OwnFolder folder_;
};

std::vector<std::string> names_of(const OfflineAverage& average) {
  std::vector<std::string> names;
  for (const OfflineSource& source : average.files()) {
    names.push_back(std::filesystem::path(source.path).filename().string());
  }
  return names;
}

std::vector<double> weights_of(const OfflineAverage& average) {
  std::vector<double> found;
  for (const OfflineSource& source : average.files()) found.push_back(source.weight);
  return found;
}

double value_of(const Value& state_dict) {
  const at::Tensor& tensor = state_dict.at("layer.weight").as_tensor();
  EXPECT_TRUE(at::equal(tensor, at::full_like(tensor, tensor.flatten()[0].item())));
  return tensor.flatten()[0].item<double>();
}

TEST_F(OfflineAverageTest, IsTheMeanWithIntegersOfTheLastFile) {
  write("a.pth", checkpoint(1, 300));
  write("b.safetensors", weights(2));
  write("c.pth", checkpoint(6, 100));
  const OfflineAverage average = surveyed({"a.pth", "b.safetensors", "c.pth"});
  EXPECT_EQ(average.order(), "as given");  // one file has no step
  const Value state_dict = average.run();
  EXPECT_EQ(value_of(state_dict), 3);
  EXPECT_EQ(state_dict.at("layer.count").as_tensor().item<int64_t>(), 60);
  EXPECT_EQ(state_dict.entries().size(), 2U);
}

TEST_F(OfflineAverageTest, SaysTheWeightsThatARuleReallyUses) {
  std::vector<std::string> names;
  for (const int step : {1, 2, 3}) {
    names.push_back(fmt::format("iter_{}.pth", step));
    write(names.back(), checkpoint(step, step));
  }
  OfflineOptions options;
  options.rule = parse_config("{type: ExponentialMovingAverage, momentum: 0.5, interval: 2}");
  const OfflineAverage average = surveyed(names, options);
  EXPECT_THAT(weights_of(average), ElementsAre(1, 0, 0.5));
  EXPECT_EQ(value_of(average.run()), 2);
  options.rule = parse_config("{type: StochasticWeightAverage, begin: 50%}");
  EXPECT_THAT(weights_of(surveyed(names, options)), ElementsAre(0, 0, 1)) << "1.5 updates are 2";
}

TEST_F(OfflineAverageTest, RefusesKeysThatHaveNoMeaningForFiles) {
  write("iter_1.pth", checkpoint(1, 1));
  for (const char* key : {"exclude: w", "include: w", "keep: w", "buffers: []",
                          "share_frozen: true", "write_back: {every: 1}", "base_batch_size: 8"}) {
    OfflineOptions options;
    options.rule = parse_config(fmt::format("type: ExponentialMovingAverage\n{}\n", key));
    EXPECT_THAT([&] { surveyed({"iter_1.pth"}, options); },
                ThrowsMessage<ConfigError>(HasSubstr("does not apply to files")))
        << key;
  }
  OfflineOptions late;
  late.rule = parse_config("{type: StochasticWeightAverage, begin: 9}");
  EXPECT_THAT([&] { surveyed({"iter_1.pth"}, late); },
              ThrowsMessage<ConfigError>(HasSubstr("does not start within 1 file")));
}

TEST_F(OfflineAverageTest, RefusesADtypeThatCannotHoldTheResult) {
  write("iter_1.pth", checkpoint(60000, 1));
  write("iter_2.pth", checkpoint(160000, 2));
  for (const char* rule : {"", "{type: ExponentialMovingAverage}"}) {
    OfflineOptions options;
    options.dtype = "float16";
    if (*rule) options.rule = parse_config(rule);
    write("iter_1.pth", checkpoint(160000, 1));
    EXPECT_THAT(
        [&] {
          surveyed({"iter_1.pth", "iter_2.pth"}, options).run();
        },
        ThrowsMessage<CheckpointError>(
            AllOf(HasSubstr("layer.weight"), HasSubstr("1.6e+05, which Half cannot hold"))));
  }
}

TEST_F(OfflineAverageTest, OrdersByTheStepInMetaThenByTheNumberInTheName) {
  write("x.pth", checkpoint(1, 300));
  write("y.pth", checkpoint(2, 20));
  write("z.pth", checkpoint(3, 1000));
  const OfflineAverage by_meta = surveyed({"x.pth", "y.pth", "z.pth"});
  EXPECT_THAT(names_of(by_meta), ElementsAre("y.pth", "x.pth", "z.pth"));
  EXPECT_EQ(by_meta.order(), "by meta.iter");
  EXPECT_EQ(by_meta.run().at("layer.count").as_tensor().item<int64_t>(), 30);

  for (const char* name : {"iter_1000.safetensors", "iter_200.safetensors", "iter_30.pth"}) {
    write(name, weights(1));
  }
  const OfflineAverage by_name =
      surveyed({"iter_1000.safetensors", "iter_200.safetensors", "iter_30.pth"});
  EXPECT_THAT(names_of(by_name),
              ElementsAre("iter_30.pth", "iter_200.safetensors", "iter_1000.safetensors"));
  EXPECT_EQ(by_name.order(), "by the numbers in their names");

  OfflineOptions given;
  given.by_step = false;
  EXPECT_THAT(names_of(surveyed({"x.pth", "y.pth"}, given)), ElementsAre("x.pth", "y.pth"));
}

TEST_F(OfflineAverageTest, ReadsTheStepOfAPublishedFile) {
  write_safetensors(path("late.safetensors"), weights(1), {{"iter", "50"}});
  write_safetensors(path("early.safetensors"), weights(2), {{"iter", "7"}});
  EXPECT_THAT(names_of(surveyed({"late.safetensors", "early.safetensors"})),
              ElementsAre("early.safetensors", "late.safetensors"));
}

TEST_F(OfflineAverageTest, TakesTheWeightsThatFilesAreGiven) {
  write("a.pth", weights(1));
  write("b.pth", weights(5));
  OfflineAverage sum({{path("a.pth"), 0.75}, {path("b.pth"), 0.25}}, {}, registry());
  sum.survey();
  EXPECT_EQ(value_of(sum.run()), 2);
  OfflineOptions normalize;
  normalize.normalize = true;
  OfflineAverage normalized({{path("a.pth"), 3.0}, {path("b.pth"), 1.0}}, normalize, registry());
  normalized.survey();
  EXPECT_EQ(value_of(normalized.run()), 2);
  OfflineAverage other({{path("a.pth"), 3.0}, {path("b.pth"), 1.0}}, {}, registry());
  EXPECT_THAT(log_of([&] { other.survey(); }), ElementsAre(HasSubstr("add up to 4, not to 1")));
}

/// WSM and Megatron-LM: coefficients d(i/n) - d((i+1)/n), the oldest first.
TEST_F(OfflineAverageTest, StandsForADecayOfTheLearningRate) {
  for (int i = 1; i <= 4; ++i) write(fmt::format("iter_{}.pth", i), weights(i));
  const std::vector<std::string> files{"iter_4.pth", "iter_3.pth", "iter_2.pth", "iter_1.pth"};
  OfflineOptions options;
  options.shape = "linear";
  EXPECT_THAT(weights_of(surveyed(files, options)), ElementsAre(0.25, 0.25, 0.25, 0.25));
  options.shape = "minus_sqrt";
  const OfflineAverage average = surveyed(files, options);
  const std::vector<double> expected{0.5, std::sqrt(0.5) - 0.5, std::sqrt(0.75) - std::sqrt(0.5),
                                     1 - std::sqrt(0.75)};
  EXPECT_THAT(weights_of(average), ::testing::Pointwise(::testing::DoubleNear(1e-15), expected));
  double sum = 0;
  for (int i = 0; i < 4; ++i) sum += expected[i] * (i + 1);
  EXPECT_NEAR(value_of(average.run()), sum, 1e-6);
}

TEST_F(OfflineAverageTest, UpdatesARegisteredAverageWithOneFileAfterTheOther) {
  for (int i = 0; i < 5; ++i) write(fmt::format("epoch_{}.pth", i), weights(i * i));
  for (const char* type :
       {"ExponentialMovingAverage", "StochasticWeightAverage", "CosineEMA", "PowerFunctionEMA"}) {
    OfflineOptions options;
    options.rule = Node::mapping({{"type", type}});
    if (std::string(type) == "ExponentialMovingAverage") options.rule.set("momentum", 0.25);
    if (std::string(type) == "PowerFunctionEMA") options.rule.set("gamma", 2.0);
    const OfflineAverage average = surveyed(
        {"epoch_0.pth", "epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "epoch_4.pth"}, options);

    // The same average of a model that trains through these weights.
    at::Tensor raw = at::zeros({2, 3});
    const ModelRef model(std::vector<NamedTensor>{{"layer.weight", raw, false}});
    const auto direct = build_average(type, options.rule.without({"type"}), model, /*max_iters=*/5);
    for (int i = 0; i < 5; ++i) {
      raw.fill_(i * i);
      direct->update_parameters(model);
    }
    const Value state_dict = average.run();
    EXPECT_TRUE(at::equal(state_dict.at("layer.weight").as_tensor(),
                          direct->named_averages()["layer.weight"]))
        << type;
    EXPECT_EQ(state_dict.at("layer.count").as_tensor().item<int64_t>(), 160);
    EXPECT_EQ(average.files()[2].weight, direct->weight(2)) << type;
  }
}

TEST_F(OfflineAverageTest, AccumulatesHalfPrecisionInMore) {
  // In float16, each sum of 2048 and 1 is 2048 again.
  std::vector<std::string> names;
  for (int i = 0; i < 9; ++i) {
    names.push_back(fmt::format("iter_{}.pth", i));
    write(names.back(), weights(i == 0 ? 2048 : 2056, at::kHalf));
  }
  const Value mean = surveyed(names).run();
  EXPECT_EQ(mean.at("layer.weight").as_tensor().scalar_type(), at::kHalf);
  EXPECT_EQ(value_of(mean), 2056);  // 2055.1 to the next even number
  OfflineOptions wide;
  wide.dtype = "float64";
  EXPECT_NEAR(value_of(surveyed(names, wide).run()), (2048 + 8 * 2056) / 9.0, 1e-9);
  OfflineOptions swa;
  swa.rule = Node::mapping({{"type", "StochasticWeightAverage"}});
  EXPECT_EQ(value_of(surveyed(names, swa).run()), 2056);
}

TEST_F(OfflineAverageTest, KeepsTiedTensorsTied) {
  for (int i = 1; i <= 2; ++i) {
    Value dict = Value::dict({}, /*ordered=*/true);
    const at::Tensor shared = at::full({4}, i, at::kFloat);
    dict.set("embed", shared);
    dict.set("head", shared);
    write(fmt::format("tied_{}.pth", i), dict);
  }
  const Value mean = surveyed({"tied_1.pth", "tied_2.pth"}).run();
  EXPECT_EQ(mean.at("embed").as_tensor().data_ptr(), mean.at("head").as_tensor().data_ptr());
  EXPECT_EQ(mean.at("head").as_tensor()[0].item<double>(), 1.5);
}

TEST_F(OfflineAverageTest, ComparesNamesAndShapesOfAllFilesBeforeAnythingIsAdded) {
  write("a.pth", weights(1));
  Value other = weights(2);
  other.set("layer.weight", at::zeros({3, 2}));
  other.set("extra", at::zeros({1}));
  write("b.pth", other);
  EXPECT_THAT(
      [&] {
        surveyed({"a.pth", "b.pth"});
      },
      ThrowsMessage<CheckpointError>(
          AllOf(HasSubstr("a.pth"), HasSubstr("b.pth"), HasSubstr("not of the same model"),
                HasSubstr("layer.weight ([2, 3] and [3, 2])"), HasSubstr("has: extra"))));
  Value integers = weights(2);
  integers.set("layer.weight", at::zeros({2, 3}, at::kLong));
  write("c.pth", integers);
  EXPECT_THAT(
      [&] {
        surveyed({"a.pth", "c.pth"});
      },
      ThrowsMessage<CheckpointError>(HasSubstr("of another kind of numbers")));
}

TEST_F(OfflineAverageTest, RefusesAFileWithANaN) {
  write("a_1.pth", weights(1));
  Value poisoned = weights(2);
  poisoned.set("layer.weight", at::full({2, 3}, std::numeric_limits<double>::quiet_NaN()));
  write("b_2.pth", poisoned);
  const auto refusal = ThrowsMessage<CheckpointError>(
      AllOf(HasSubstr("b_2.pth"), HasSubstr("'layer.weight' holds a NaN")));
  EXPECT_THAT([&] { surveyed({"a_1.pth", "b_2.pth"}).run(); }, refusal);
  OfflineOptions swa;
  swa.rule = Node::mapping({{"type", "StochasticWeightAverage"}});
  EXPECT_THAT([&] { surveyed({"a_1.pth", "b_2.pth"}, swa).run(); }, refusal);
}

TEST_F(OfflineAverageTest, AsksWhichWeightsOfAFileThatHoldsTwo) {
  for (int i = 1; i <= 2; ++i) {
    Value file = Value::dict();
    file.set("model", weights(i));
    file.set("model_ema", weights(10 * i));
    write(fmt::format("both_{}.pth", i), file);
  }
  EXPECT_THAT(
      [&] {
        surveyed({"both_1.pth", "both_2.pth"});
      },
      ThrowsMessage<ConfigError>(
          AllOf(HasSubstr("both_1.pth: holds raw, averaged weights"), HasSubstr("--weights raw"))));
  OfflineOptions options;
  options.weights = "averaged";
  EXPECT_EQ(value_of(surveyed({"both_1.pth", "both_2.pth"}, options).run()), 15);
  options.weights = "raw";
  EXPECT_EQ(value_of(surveyed({"both_1.pth", "both_2.pth"}, options).run()), 1.5);
  options.weights = "";
  options.key = "model_ema";
  EXPECT_EQ(value_of(surveyed({"both_1.pth", "both_2.pth"}, options).run()), 15);
}

TEST_F(OfflineAverageTest, RefusesChoicesThatContradictEachOther) {
  const auto refusal = [&](std::vector<OfflineFile> files, const OfflineOptions& options) {
    try {
      OfflineAverage(std::move(files), options, registry());
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("no ConfigError");
  };
  OfflineOptions shape;
  shape.shape = "linear";
  OfflineOptions both = shape;
  both.rule = Node::mapping({{"type", "StochasticWeightAverage"}});
  OfflineOptions normalize;
  normalize.normalize = true;
  OfflineOptions typo;
  typo.rule = Node::mapping({{"type", "StochasticWeigthAverage"}});
  OfflineOptions key;
  key.rule = Node::mapping({{"type", "ExponentialMovingAverage"}, {"momentun", 0.1}});
  EXPECT_THAT(refusal({}, {}), HasSubstr("no files"));
  EXPECT_THAT(refusal({{"a", 1.0}, {"b", {}}}, {}), HasSubstr("b has no weight"));
  EXPECT_THAT(refusal({{"a", 1.0}}, shape), HasSubstr("use one of them"));
  EXPECT_THAT(refusal({{"a", {}}}, both), HasSubstr("use one of them"));
  EXPECT_THAT(refusal({{"a", {}}}, normalize), HasSubstr("write FILE:WEIGHT"));
  EXPECT_THAT(refusal({{"a", 1.0}, {"b", -1.0}}, normalize), HasSubstr("add up to 0"));
  EXPECT_THAT(refusal({{"a", std::nan("")}}, {}), HasSubstr("must be a number"));
  EXPECT_THAT(refusal({{"a", {}}, {"a", {}}}, {}), HasSubstr("given twice"));
  EXPECT_THAT(refusal({{"a", {}}}, typo), HasSubstr("did you mean 'StochasticWeightAverage'"));
  EXPECT_THAT(refusal({{"a", {}}}, key), HasSubstr("did you mean 'momentum'"));
}

TEST_F(OfflineAverageTest, AsksForTheOrderWhereItMattersAndIsNotKnown) {
  write("old.pth", weights(1));
  write("new.pth", weights(2));
  EXPECT_EQ(surveyed({"old.pth", "new.pth"}).order(), "as given");
  OfflineOptions options;
  options.shape = "minus_sqrt";
  EXPECT_THAT(
      [&] {
        surveyed({"old.pth", "new.pth"}, options);
      },
      ThrowsMessage<ConfigError>(HasSubstr("--order given")));
  options.by_step = false;
  EXPECT_THAT(names_of(surveyed({"old.pth", "new.pth"}, options)),
              ElementsAre("old.pth", "new.pth"));
}

TEST_F(OfflineAverageTest, AddsToAGreedySoupOnlyWhatDoesNotMakeItWorse) {
  for (const double value : {1, 2, 4, 9}) {
    write(fmt::format("run_{}.pth", value), weights(value));
  }
  // Best at 2.5: alone, 2 (0.5 off), then 1 and 4 (1.5 off), then 9.
  const auto measure = [](const Value& state_dict) {
    return -std::abs(state_dict.at("layer.weight").as_tensor()[0][0].item<double>() - 2.5);
  };
  OfflineAverage average = surveyed({"run_1.pth", "run_2.pth", "run_4.pth", "run_9.pth"});
  std::vector<std::string> steps;
  const Value soup = average.run_greedy(
      measure, /*larger_is_better=*/true,
      [&](const std::string& path, double alone, std::optional<double> together, bool stays) {
        steps.push_back(fmt::format("{} {} {} {}", std::filesystem::path(path).stem().string(),
                                    alone, together.value_or(99), stays));
      });
  // With 1 the mean is 1.5 (1 off): left out. With 4 it is 3 (0.5 off): not worse. With 9: 5.
  EXPECT_THAT(steps, ElementsAre("run_2 -0.5 99 true", "run_1 -1.5 -1 false",
                                 "run_4 -1.5 -0.5 true", "run_9 -6.5 -2.5 false"));
  EXPECT_THAT(names_of(average), ElementsAre("run_2.pth", "run_4.pth"));
  EXPECT_EQ(value_of(soup), 3);
}

TEST_F(OfflineAverageTest, WritesFilesThatSayWhatTheyAreMadeOf) {
  write("iter_1.pth", checkpoint(1, 1));
  write("iter_2.pth", checkpoint(2, 2));
  const OfflineAverage average = surveyed({"iter_2.pth", "iter_1.pth"});
  write_offline_average(path("out.pth"), "", average.run(), average.meta());
  const Value read = read_checkpoint(path("out.pth"));
  EXPECT_EQ(value_of(read.at("state_dict")), 1.5);
  const Value& averaged = read.at("meta").at("averaged");
  EXPECT_EQ(averaged.at("by").as_string(), "the mean");
  EXPECT_EQ(averaged.at("files").items()[0].as_string(), path("iter_1.pth"));
  EXPECT_EQ(averaged.at("steps").items()[1].as_int(), 2);
  EXPECT_EQ(averaged.at("weights_of_files").as_tensor()[1].item<double>(), 0.5);

  write_offline_average(path("out.safetensors"), "", average.run(), average.meta());
  EXPECT_EQ(value_of(read_safetensors(path("out.safetensors"))), 1.5);
  EXPECT_THAT(read_safetensors_metadata(path("out.safetensors")).at("averaged"),
              AllOf(HasSubstr(R"("by":"the mean")"), HasSubstr("[0.5,0.5]")));
}

TEST(WeightedSum, CopiesWhatItIsToldToCopyFromTheLast) {
  WeightedSum sum({"mean"});
  for (const double value : {1.0, 5.0}) {
    Value dict = Value::dict();
    dict.set("weight", at::full({2}, value));
    dict.set("mean", at::full({2}, value));
    sum.add(dict, value == 1.0 ? 2 : -1);
  }
  EXPECT_EQ(sum.result().at("weight").as_tensor()[0].item<double>(), -3);
  EXPECT_EQ(sum.result().at("mean").as_tensor()[0].item<double>(), 5);
  EXPECT_EQ(sum.result("", 0.5).at("weight").as_tensor()[0].item<double>(), -1.5);
}

}  // namespace
}  // namespace polyak::test
