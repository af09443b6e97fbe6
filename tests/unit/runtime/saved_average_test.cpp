// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/saved_average.h"

#include <gmock/gmock.h>

#include "polyak/checkpoint/pth.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "support/own_folder.h"
#include "support/saved_states.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

Value through_a_file(const Value& checkpoint) {
  const std::string file = own_folder() + "/average.pth";
  write_pth(file, checkpoint);
  return read_pth(file);
}

Value state_dict_of(NumbersNet& net) {
  Value dict = Value::dict({}, /*ordered=*/true);
  for (const NamedTensor& item : ModelRef(net).tensors()) dict.set(item.name, item.tensor.detach());
  return dict;
}

/// A bfloat16 model and an average of it that differs from it.
struct Averaged {
  Averaged() {
    for (int step = 0; step < 3; ++step) {
      net.step(step);
      average->update_parameters(net);
    }
  }
  std::string raw() const { return bits_of(net.named_parameters()["weight"]); }
  std::string averaged() const { return bits_of(average->state()[0].tensor); }

  const StateCase kept{"CosineEMA", at::kBFloat16, "compensated", true};
  NumbersNet net{kept.dtype};
  std::shared_ptr<AveragedModel> average = kept.build(net);
};

TEST(SavedAverage, GoesOnFromAFileWithTheSameBits) {
  for (const StateCase& kept : state_cases()) {
    if (kept.rule == "CosineEMA" || !kept.update_buffers) continue;  // files are flushed to disk
    expect_exact_continuation(kept, [](const AverageState& state) {
      Value checkpoint = Value::dict();
      save_average(checkpoint, "teacher", state);
      return saved_average(through_a_file(checkpoint), "teacher");
    });
  }
}

TEST(SavedAverage, KeepsRuleAndOptionsThroughAFile) {
  Averaged run;
  Value checkpoint = Value::dict();
  save_average(checkpoint, "teacher", run.average->state_dict());
  const AverageState state = saved_average(through_a_file(checkpoint), "teacher");
  EXPECT_EQ(state.rule, "CosineEMA");
  EXPECT_EQ(state.options, run.average->rule_options());
}

TEST(SavedAverage, SeveralLieInOneFileByName) {
  Averaged one, other;
  other.net.step(9);
  other.average->update_parameters(other.net);
  Value checkpoint = Value::dict();
  save_average(checkpoint, "one", one.average->state_dict());
  save_average(checkpoint, "other", other.average->state_dict());
  const Value read = through_a_file(checkpoint);
  for (const auto& [name, run] : {std::make_pair("one", &one), std::make_pair("other", &other)}) {
    NumbersNet net(run->kept.dtype);
    const auto loaded = run->kept.build(net);
    EXPECT_TRUE(loaded->load_state_dict(saved_average(read, name)).clean());
    expect_same_bits(*loaded, *run->average);
  }
}

TEST(SavedAverage, WithoutANameStandsInStateDictForPlainLoaders) {
  Averaged run;
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(run.net));
  save_average(checkpoint, "", run.average->state_dict());
  Value read = through_a_file(checkpoint);
  EXPECT_EQ(bits_of(read.at("state_dict").at("weight").as_tensor()), run.averaged());
  EXPECT_EQ(bits_of(read.at("ema_state_dict").at("module.weight").as_tensor()), run.raw());
  for (const char* weights : {"averaged", "raw"}) {  // whichever of both `state_dict` holds
    if (std::string(weights) == "raw") put_into_state_dict(read, weights);
    NumbersNet net(run.kept.dtype);
    const auto loaded = run.kept.build(net);
    EXPECT_TRUE(loaded->load_state_dict(saved_average(read, "")).clean());
    expect_same_bits(*loaded, *run.average);
    EXPECT_EQ(bits_of(read.at("state_dict").at("weight").as_tensor()),
              std::string(weights) == "raw" ? run.raw() : run.averaged());  // left as it was
  }
}

TEST(SavedAverage, WithoutANameNeedsTheRawWeights) {
  Averaged run;
  Value checkpoint = Value::dict();
  EXPECT_THAT([&] { save_average(checkpoint, "", run.average->state_dict()); },
              ThrowsMessage<CheckpointError>(HasSubstr("state_dict")));
}

TEST(SavedAverage, OneThatIsMissingIsNamedWithThoseThatAreThere) {
  Averaged run;
  Value checkpoint = Value::dict();
  EXPECT_THAT([&] { saved_average(checkpoint, "teacher"); },
              ThrowsMessage<CheckpointError>(HasSubstr("no average")));
  save_average(checkpoint, "teacher", run.average->state_dict());
  EXPECT_THAT([&] { saved_average(checkpoint, "slow"); },
              ThrowsMessage<CheckpointError>(
                  AllOf(HasSubstr("'ema_state_dict.slow'"), HasSubstr("ema_state_dict.teacher"))));
}

TEST(SavedAverage, OfAnotherProgramHasNoRule) {
  Value checkpoint = Value::dict();
  checkpoint.set("ema_state_dict.slow", Value::dict({{"steps", at::tensor(int64_t{7})},
                                                     {"module.weight", at::ones({2})}}));
  const AverageState state = saved_average(checkpoint, "slow");
  EXPECT_EQ(state.steps, 7);
  EXPECT_EQ(state.rule, "");
  ASSERT_EQ(state.values.size(), 1u);
  EXPECT_EQ(state.values[0].name, "weight");
}

}  // namespace
}  // namespace polyak::test
