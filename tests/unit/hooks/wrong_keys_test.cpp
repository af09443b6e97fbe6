// SPDX-License-Identifier: Apache-2.0
// Wrong keys of averages: each is reported at its own line and column, with what is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include "polyak/config/load.h"
#include "support/fake_runner.h"

namespace polyak::test {
namespace {

struct WrongKey {
  const char* block;    // of an EMAHook
  const char* message;  // its start
};

// The second line of a block is where its error is, and column 1 or that of a nested value.
const WrongKey kWrong[] = {
    {"ema_type: CosineEMA\ndecai: 0.9\n", "c.yaml:2:1: decai: unknown key; did you mean 'decay'?"},
    {"momentum: 0.1\ndecay: 0.9\n",
     "c.yaml:2:1: decay: says the same as 'momentum' at c.yaml:1:1; set one of them"},
    {"momentum: 0.1\nhalf_life: 5%\n", "c.yaml:2:1: half_life: says the same as 'momentum'"},
    {"decay: 0.9\nhalf_life: 100\n", "c.yaml:2:1: half_life: says the same as 'decay'"},
    {"interval: 1\ndecay: 1\n", "c.yaml:2:1: decay: must be in (0, 1), got 1"},
    {"interval: 1\nhalf_life: 0\n", "c.yaml:2:1: half_life: must be above 0, got 0"},
    {"interval: 1\nhalf_life: -5\n", "c.yaml:2:1: half_life: must not be negative, got -5"},
    {"interval: 1\nhalf_life: 5 %\n", "c.yaml:2:1: half_life: '5 %' is not a length"},
    {"interval: 1\nhalf_life: 2epochs\n", "c.yaml:2:1: half_life: '2epochs' is not a length"},
    {"interval: 1\nhalf_life: 150%\n", "c.yaml:2:1: half_life: must be at most 100%, got 150%"},
    {"interval: 1\nhalf_life: [1]\n", "c.yaml:2:1: half_life: must be a string, got a list"},
    {"interval: 1\nstart: begin\n", "c.yaml:2:1: start: must be one of first_update, initial"},
    {"interval: 2\nper_interval: yes\n", "c.yaml:2:1: per_interval: must be true or false"},
    {"interval: 2\nbase_batch_size: 0\n", "c.yaml:2:1: base_batch_size: must be at least 1, got 0"},
    {"bias_correction: true\nstart: initial\n",
     "c.yaml:1:1: bias_correction: averages from zero, so 'start: initial' has no meaning"},
    {"ema_type: CosineEMA\nmax_iters: 0\n", "c.yaml:2:1: max_iters: must be at least 1, got 0"},
    {"ema_type: CosineEMA\nmax_iters: 2.5\n", "c.yaml:2:1: max_iters: must be an integer"},
    {"ema_type: CosineEMA\nbias_correction: true\n", "c.yaml:2:1: bias_correction: unknown key"},
    {"ema_type: StochasticWeightAverage\nmomentum: 0.1\n", "c.yaml:2:1: momentum: unknown key"},
    {"ema_type: StochasticWeightAverage\nper_interval: true\n",
     "c.yaml:2:1: per_interval: unknown key"},
    {"ema_type: StochasticWeightAverage\nbegin: 75 percent\n",
     "c.yaml:2:1: begin: '75 percent' is not a length"},
    {"ema_type: StochasticWeightAverage\nmax_snapshots: 0\n",
     "c.yaml:2:1: max_snapshots: must be at least 1, got 0"},
    {"ema_type: WarmupEMA\nform: cubic\n",
     "c.yaml:2:1: form: must be one of power, ratio, got 'cubic'"},
    {"ema_type: WarmupEMA\npower: 0\n", "c.yaml:2:1: power: must be above 0, got 0"},
    {"ema_type: WarmupEMA\ngamma: -1\n", "c.yaml:2:1: gamma: must be above 0, got -1"},
    {"decay: 0.9\nmin_decay: 0.99\nema_type: WarmupEMA\n",
     "c.yaml:2:1: min_decay: is 0.99, above the final decay of 0.9"},
    {"ema_type: WarmupEMA\nupdate_after_step: -1\n",
     "c.yaml:2:1: update_after_step: must not be negative, got -1"},
    {"ema_type: RampUpEMA\nbatch_size: 0\n", "c.yaml:2:1: batch_size: must be at least 1, got 0"},
    {"ema_type: RampUpEMA\nema_rampup: 0\n", "c.yaml:2:1: ema_rampup: must be above 0, got 0"},
    {"ema_type: GrowingHalfLifeEMA\nhalf_life_fraction: 0\n",
     "c.yaml:2:1: half_life_fraction: must be in (0, 1], got 0"},
    {"ema_type: BEMA\nlag: 0\n", "c.yaml:2:1: lag: must be above 0, got 0"},
    {"ema_type: BEMA\nprecision: compensated\n",
     "c.yaml:2:1: precision: cannot be compensated for BEMA; use float64"},
    {"ema_type: SlidingWindowAverage\nwindow: 0\n",
     "c.yaml:2:1: window: must be at least 1, got 0"},
    {"ema_type: SlidingWindowAverage\nsnapshot_every: 0\n",
     "c.yaml:2:1: snapshot_every: must be at least 1, got 0"},
    {"ema_type: SlidingWindowAverage\nstart: initial\n",
     "c.yaml:2:1: start: must be first_update for SlidingWindowAverage"},
    {"ema_type: PowerFunctionEMA\nsigma_rel: 0.5\n", "c.yaml:2:1: sigma_rel: must be in (0, 0.28"},
    {"sigma_rel: 0.1\ngamma: 3\nema_type: PowerFunctionEMA\n",
     "c.yaml:2:1: gamma: sigma_rel and gamma both say how long the average is"},
    {"momentum: 0.1\nwrite_back: 5\n", "c.yaml:2:1: write_back: must be a mapping, got an integer"},
    {"momentum: 0.1\nwrite_back: {weight: 1}\n",
     "c.yaml:2:1: write_back.every: is missing; write_back requires it"},
    {"momentum: 0.1\nwrite_back: {every: 0}\n",
     "c.yaml:2:14: write_back.every: must be at least 1, got 0"},
    {"momentum: 0.1\nwrite_back: {every: 5, weight: 2}\n",
     "c.yaml:2:24: write_back.weight: must be in (0, 1], got 2"},
    {"momentum: 0.1\nwrite_back: {every: 5, begin: 9, end: 4}\n",
     "c.yaml:2:34: write_back.end: is 4, before begin, which is 9"},
    {"momentum: 0.1\nwrite_back: {evry: 5}\n",
     "c.yaml:2:14: write_back.evry: unknown key; did you mean 'every'?"},
    {"momentum: 0.1\nexclude: ['(']\n", "c.yaml:2:11: exclude[0]: "},
    {"momentum: 0.1\nbuffers: [{match: x, mode: keeep}]\n", "c.yaml:2:22: buffers[0].mode: "},
    {"momentum: 0.1\nevaluate: [a]\n", "c.yaml:2:1: evaluate: chooses among 'averages'"},
};

TEST(WrongKeys, OfAveragesAreReportedAtTheirOwnPlace) {
  for (const WrongKey& wrong : kWrong) {
    EXPECT_THAT([&] { make_ema_hook(parse_config(wrong.block, "c.yaml")); },
                ::testing::ThrowsMessage<ConfigError>(::testing::StartsWith(wrong.message)))
        << wrong.block;
  }
  EXPECT_GE(std::size(kWrong), 40u);
}

TEST(WrongKeys, LengthsThatNeedAnUnknownRunAreReportedBeforeTraining) {
  torch::nn::Linear net(1, 1);
  FakeRunner runner(net);
  const auto hook = make_ema_hook(parse_config("momentum: 0.1\nwrite_back: {every: 1ep}\n", "c"));
  EXPECT_THAT([&] { hook->before_run(runner); },
              ::testing::ThrowsMessage<ConfigError>(::testing::HasSubstr(
                  "write_back.every: 1ep needs the length of an epoch, which is unknown here; give "
                  "it in updates")));
}

}  // namespace
}  // namespace polyak::test
