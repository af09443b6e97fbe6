// SPDX-License-Identifier: Apache-2.0
// Layers that come and go in a loop of one's own, and an average that covers only some.
#include <algorithm>

#include "polyak/checkpoint/pth.h"
#include "support/layer_cases.h"
#include "unit/embed/loop_hooks_testing.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

constexpr const char* kTwoAverages =
    "custom_hooks:\n"
    "  - {type: EMAHook, momentum: 0.3, update_buffers: true}\n"
    "  - {type: EMAHook, momentum: 0.3, update_buffers: true, precision: compensated, name: "
    "fine}\n";

/// Two steps, a change, and two steps in the next epoch.
void run_case(LoopHooks& hooks, LayeredNet& net, const LayerCase& one) {
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (int i = 0; i < 2; ++i) {
      net.step();
      hooks.after_step();
      hooks.after_iter();
    }
    if (epoch == 0) one.change(net);
    hooks.after_epoch();
  }
}

TEST(LoopHooksLayers, NewOnesStartAsCopiesAndTheOthersGoOn) {
  for (const LayerCase& one : layer_cases()) {
    SCOPED_TRACE(one.name);
    at::manual_seed(3);
    const auto net = std::make_shared<LayeredNet>();
    std::shared_ptr<AveragedModel> average, fine;
    log_of([&] {
      LoopHooks hooks =
          make_hooks(kTwoAverages, net, LoopHooksSettings().max_epochs(2).epoch_length(2));
      run_case(hooks, *net, one);
      average = hooks.average();
      fine = hooks.average("fine");
      hooks.after_train();
    });

    at::manual_seed(3);
    LayeredNet same;
    const auto options = ema(0.3).update_buffers(true);
    const ModelRef before(ModelRef(same).tensors());
    ExponentialMovingAverage reference(before, options);
    std::shared_ptr<AveragedModel> fresh;
    for (int i = 0; i < 4; ++i) {
      same.step();
      log_of([&] { reference.update_parameters(before); });
      if (fresh) fresh->update_parameters(same);
      if (i != 1) continue;
      one.change(same);
      fresh = std::make_shared<ExponentialMovingAverage>(same, options);
    }
    EXPECT_EQ(average->named_averages().size(), ModelRef(net).tensors().size());
    for (const auto& item : average->named_averages()) {
      const bool is_new =
          std::find(one.fresh.begin(), one.fresh.end(), item.key()) != one.fresh.end();
      const auto old = one.renamed.find(item.key());
      const std::string name = old == one.renamed.end() ? item.key() : old->second;
      const at::Tensor expected = is_new ? average_of(*fresh, name) : average_of(reference, name);
      EXPECT_TRUE(at::equal(item.value(), expected)) << item.key();
      EXPECT_TRUE(
          at::allclose(average_of(*fine, item.key()).to(at::kFloat), expected.to(at::kFloat)))
          << item.key();
    }
  }
}

TEST(LoopHooksLayers, ARunThatIsResumedAfterTheChangeGoesOnWithTheSameBits) {
  const std::string folder = new_folder("layers_resumed");
  const LayerCase one = layer_cases()[1];  // another head
  const std::string text = "work_dir: " + folder +
                           "\ndefault_hooks:\n  checkpoint: {type: CheckpointHook, interval: 1}\n" +
                           kTwoAverages;
  const auto settings = LoopHooksSettings().max_epochs(3).epoch_length(2);
  at::manual_seed(3);
  const auto net = std::make_shared<LayeredNet>();
  std::shared_ptr<AveragedModel> average;
  log_of([&] {
    {
      LoopHooks hooks = make_hooks(text, net, settings);
      run_case(hooks, *net, one);
      average = hooks.average();
    }
    for (const bool before_construction : {true, false}) {
      const auto again = std::make_shared<LayeredNet>();
      if (before_construction) one.change(*again);
      LoopHooks resumed = make_hooks(text, again, settings);
      if (!before_construction) one.change(*again);
      ASSERT_TRUE(resumed.resume());
      EXPECT_EQ(resumed.average()->steps(), 4);
      for (const auto& item : average->named_averages()) {
        EXPECT_TRUE(at::equal(average_of(*resumed.average(), item.key()), item.value()))
            << item.key();
      }
    }
  });
}

TEST(LoopHooksScope, APatternThatMatchesNothingIsPlacedAtItsElementBeforeTraining) {
  const auto net = std::make_shared<Net>();
  const auto make = [&](const std::string& keys) {
    const Node config =
        parse_config("custom_hooks:\n  - type: EMAHook\n    momentum: 0.1\n" + keys, "c.yaml");
    LoopHooks::from_config(config, net, {});
  };
  EXPECT_THAT([&] { make("    exclude:\n      - ^linear\n      - ^nrom\n"); },
              ThrowsMessage<ConfigError>(
                  AllOf(StartsWith("c.yaml:6:9: custom_hooks[0].exclude[1]: '^nrom' matches none "
                                   "of the model's 4 parameters; did you mean 'norm'?"),
                        HasSubstr("linear.weight"))));
  EXPECT_THAT(
      [&] { make("    buffers: [{match: mean, mode: average}, {match: x, mode: keep}]\n"); },
      ThrowsMessage<ConfigError>(
          StartsWith("c.yaml:4:46: custom_hooks[0].buffers[1].match: 'x' matches none")));
  EXPECT_THAT([&] { make("    keep: ['(']\n"); },
              ThrowsMessage<ConfigError>(StartsWith("c.yaml:4:12: custom_hooks[0].keep[0]: '('")));
  EXPECT_THAT([&] { make("    exlude: [norm]\n"); },
              ThrowsMessage<ConfigError>(HasSubstr("did you mean 'exclude'?")));
}

TEST(LoopHooksScope, ACheckpointHoldsEveryNameAndAResumedRunGoesOn) {
  const std::string folder = new_folder("scope");
  const std::string text =
      "work_dir: " + folder +
      "\ndefault_hooks:\n  checkpoint: {type: CheckpointHook, interval: 1}\n"
      "custom_hooks:\n  - {type: EMAHook, momentum: 0.5, exclude: [^norm], keep: ['bias$'],\n"
      "     buffers: [{match: mean, mode: average}]}\n";
  const auto settings = LoopHooksSettings().max_epochs(2).epoch_length(2);
  const auto train = [](LoopHooks& hooks, const ModelRef& net, double from) {
    for (int i = 0; i < 2; ++i) iterate(hooks, net, from + i);
    hooks.after_epoch();
  };
  const auto net = std::make_shared<Net>(), again = std::make_shared<Net>();
  std::shared_ptr<AveragedModel> whole, resumed;
  log_of([&] {
    {
      LoopHooks hooks = make_hooks(text, net, settings);
      train(hooks, net, 1);
      const Value checkpoint = read_pth(folder + "/epoch_1.pth");
      EXPECT_EQ(checkpoint.at("state_dict").entries().size(), ModelRef(net).tensors().size());
      const auto value = [&](const char* name) {
        return checkpoint.at("state_dict").at(name).as_tensor().flatten()[0].item<double>();
      };
      EXPECT_EQ(value("linear.weight"), 1.5);
      EXPECT_EQ(value("linear.bias"), 1);
      EXPECT_EQ(value("norm.weight"), 2) << "the model's";
      EXPECT_EQ(value("norm.running_mean"), 1.5);
      EXPECT_EQ(value("norm.running_var"), 2);
      whole = hooks.average();
    }
    LoopHooks hooks = make_hooks(text, again, settings);
    ASSERT_TRUE(hooks.resume());
    EXPECT_EQ(value_of(again), 2) << "the raw weights";
    train(hooks, again, 3);
    resumed = hooks.average();
  });
  for (const double value : {3.0, 4.0}) {
    set_all(net, value);
    whole->update_parameters(net);
  }
  expect_same(whole->state(), resumed->state());
}

}  // namespace
}  // namespace polyak::test
