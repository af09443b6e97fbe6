// SPDX-License-Identifier: Apache-2.0
// Runs that go on from files that other programs wrote, or that somebody changed: right, or refused
// by name.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <functional>
#include <memory>

#include "polyak/averaging/register.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

/// 4 iterations in an epoch.
const char* const kConfig = R"(
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [6, 6, 6]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 4, dataset: {type: RandomImages, size: 16, num_classes: 4}}
train_cfg: {max_epochs: 4}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {runtime_info: null, timer: null, logger: null}
custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.05}]
)";

const char* const kEma = "ema_state_dict";

class ForeignCheckpoint : public ::testing::Test {
 protected:
  using Edit = std::function<void(Value&)>;

  ForeignCheckpoint() {
    register_averages(catalog_);
    register_trainer(catalog_);
    load_plugin(find_plugin("polyak_hooks", ""), catalog_);
    folder_ = own_folder() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    previous_ = set_log_sink(
        [this](LogLevel, std::string_view line) { messages_ += fmt::format("{}\n", line); });
  }
  ~ForeignCheckpoint() override { set_log_sink(previous_); }

  Node config(const std::string& work_dir, const std::vector<std::string>& overrides) const {
    Node node = parse_config(kConfig);
    node.set("work_dir", folder_ + "/" + work_dir);
    for (const std::string& text : overrides) apply_override(node, text);
    return node;
  }
  /// Trains the first two epochs and leaves their file to be changed.
  void train(std::vector<std::string> overrides = {}, const std::string& options = "") {
    overrides_ = overrides;
    options_ = options;
    overrides.emplace_back("train_cfg.max_epochs=2");
    Node node = config("first", overrides);
    set_optimizer(node);
    TrainRunner(node, catalog_).train();
    saved_ = read_pth(folder_ + "/first/epoch_2.pth");
  }
  /// Whole values, which an override cannot set: `optim_wrapper` and others.
  void set_optimizer(Node& node) const {
    if (options_.empty()) return;
    const Node more = parse_config(options_);
    for (const auto& [key, value] : more.entries()) node.set(key, value);
  }
  /// Goes on from the file as `edit` leaves it.
  /// @return the last checkpoint
  Value resume(const Edit& edit = {}, std::vector<std::string> overrides = {}) {
    Value changed = saved_;
    if (edit) edit(changed);
    const std::string file = folder_ + "/changed.pth";
    write_pth(file, changed);
    messages_.clear();
    overrides.insert(overrides.begin(), overrides_.begin(), overrides_.end());
    overrides.insert(overrides.begin(), {"resume=true", "load_from=" + file});
    Node node = config("second", overrides);
    set_optimizer(node);
    TrainRunner(node, catalog_).train();
    return read_pth(folder_ + "/second/epoch_4.pth");
  }
  /// What the refusal says; "" when there is none.
  std::string refusal(const Edit& edit, const std::vector<std::string>& overrides = {}) {
    try {
      resume(edit, overrides);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  static bool same(const Value& a, const Value& b) {
    if (std::string(a.kind_name()) != b.kind_name()) return false;
    if (a.is_tensor()) return at::equal(a.as_tensor(), b.as_tensor());
    if (a.kind() == Value::Kind::real) return a.as_real() == b.as_real();
    if (!a.is_dict()) return true;
    return std::all_of(a.entries().begin(), a.entries().end(), [&](const auto& entry) {
      const Value* other = b.find(entry.first);
      return other && same(entry.second, *other);
    });
  }
  static void expect_same_run(const Value& a, const Value& b) {
    for (const char* key : {"state_dict", "ema_state_dict", "optimizer"}) {
      EXPECT_TRUE(same(a.at(key), b.at(key))) << key;
    }
  }
  /// As MMEngine would have written it.
  static void make_foreign(Value& checkpoint) {
    checkpoint.erase("polyak");
    checkpoint.at("meta").set("cfg", "model = dict(type='X')\n");
    checkpoint.at("message_hub").set("runtime_info", Value::dict({{"epoch", 1}, {"lr", 0.5}}));
  }
  static void rename_keys(Value& dict, const std::function<std::string(std::string)>& rename) {
    for (auto& [key, value] : dict.entries()) {
      if (key.as_string() != "steps") key = Value(rename(key.as_string()));
    }
  }
  static Value& group(Value& checkpoint) {
    return checkpoint.at("optimizer").at("param_groups").items().front();
  }

  Catalog catalog_;
  std::string folder_;
  std::string messages_;
  std::string options_;
  std::vector<std::string> overrides_;
  Value saved_;
  LogSink previous_;
};

// ---- names

TEST_F(ForeignCheckpoint, APrefixOfAllNamesIsTakenOffWithALine) {
  train();
  const Value whole = resume();
  for (const std::string prefix : {"module.", "module.module.", "model."}) {
    const Value other = resume([&](Value& checkpoint) {
      rename_keys(checkpoint.at("state_dict"), [&](const auto& name) { return prefix + name; });
    });
    expect_same_run(whole, other);
    EXPECT_THAT(messages_, HasSubstr(fmt::format("state_dict has '{}' before every name", prefix)));
  }
  for (const std::string prefix : {"", "module.module.", "ema."}) {
    const Value other = resume([&](Value& checkpoint) {
      rename_keys(checkpoint.at(kEma),
                  [&](const auto& name) { return prefix + name.substr(std::strlen("module.")); });
    });
    expect_same_run(whole, other);
    EXPECT_THAT(messages_,
                HasSubstr(fmt::format("ema_state_dict has '{}' before its names", prefix)));
  }
}

TEST_F(ForeignCheckpoint, RawWeightsThatDoNotFitAreRefusedWithTheNamesOfBothSides) {
  train();
  const Edit edits[] = {
      [](Value& c) { c.at(kEma).erase("module.head.fc.bias"); },
      [](Value& c) { rename_keys(c.at(kEma), [](const auto& n) { return "net." + n + ".x"; }); },
      [](Value& c) { c.at(kEma).set("module.head.other", at::zeros({2})); },
      [](Value& c) { c.at(kEma).set("module.head.fc.bias", at::zeros({5})); },
      [](Value& c) { c.at(kEma).set("module.head.fc.bias", at::zeros({4}, at::kChar)); },
  };
  const char* const names[] = {"only in state_dict: head.fc.bias", "only in the other: net.module",
                               "only in the other: module.head.other",
                               "of another shape or dtype: head.fc.bias",
                               "of another shape or dtype: head.fc.bias"};
  for (size_t i = 0; i < std::size(edits); ++i) {
    for (const char* strict : {"false", "true"}) {
      EXPECT_THAT(refusal(edits[i], {fmt::format("custom_hooks.0.strict_load={}", strict)}),
                  AllOf(HasSubstr("changed.pth"), HasSubstr("ema_state_dict"),
                        HasSubstr("raw weights"), HasSubstr(names[i])))
          << i;
    }
    // Also where no hook takes the average.
    EXPECT_THAT(refusal(edits[i], {"custom_hooks=[]"}), HasSubstr(names[i])) << i;
  }
}

TEST_F(ForeignCheckpoint, OneTensorUnderTwoNamesIsRefused) {
  train();
  const Edit twice = [](Value& c) { c.at("state_dict").set("module.head.fc.bias", at::ones({4})); };
  EXPECT_THAT(refusal(twice), AllOf(HasSubstr("changed.pth"), HasSubstr("'head.fc.bias'"),
                                    HasSubstr("'module.head.fc.bias'")));
  EXPECT_THAT(refusal(twice, {"resume=false"}), HasSubstr("'module.head.fc.bias'"));
  EXPECT_THAT(refusal(
                  [](Value& c) {
                    Value& state = c.at("state_dict");
                    state.set("module.head.fc.bias",
                              at::Tensor(state.at("head.fc.bias").as_tensor()));
                    state.erase("head.fc.bias");
                  },
                  {"resume=false"}),
              HasSubstr("some of the model's tensors with 'module.' and others without"));
}

TEST_F(ForeignCheckpoint, OtherNumbersThanTheModelsAreRefused) {
  train();
  for (const at::ScalarType type : {at::kChar, at::kBool, at::kComplexFloat, at::kLong}) {
    for (const char* resume : {"resume=false", "resume=true"}) {
      EXPECT_THAT(
          refusal(
              [&](Value& c) {
                Value& weight = c.at("state_dict").at("head.fc.weight");
                weight = weight.as_tensor().to(type);
                c.erase(kEma);
                make_foreign(c);
              },
              {resume, "custom_hooks=[]"}),
          AllOf(HasSubstr("changed.pth"), HasSubstr("fit the model"), HasSubstr("dtype"),
                HasSubstr("head.fc.weight"), HasSubstr(at::toString(type)), HasSubstr("Float")));
    }
  }
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kDouble}) {
    EXPECT_THAT(refusal(
                    [&](Value& c) {
                      for (auto& [key, value] : c.at("state_dict").entries()) {
                        value = value.as_tensor().to(type);
                      }
                    },
                    {"resume=false"}),
                IsEmpty())
        << "floats of another width are rounded, as everywhere";
  }
}

TEST_F(ForeignCheckpoint, ANamedAverageOfOtherNumbersIsRefused) {
  const char* kNamed =
      "{custom_hooks: [{type: EMAHook, name: slow, momentum: 0.01, strict_load: false}]}";
  train({}, kNamed);
  EXPECT_THAT(
      refusal([](Value& c) {
        Value& weight = c.at("ema_state_dict.slow").at("module.head.fc.weight");
        weight = weight.as_tensor().to(at::kChar);
      }),
      AllOf(HasSubstr("changed.pth"), HasSubstr("head.fc.weight in Char instead of Float")));
}

TEST_F(ForeignCheckpoint, SaysWhichWeightsWereNotTaken) {
  train();
  const Edit timm = [](Value& c) {
    Value ema = c.at("state_dict");
    c = Value::dict({{"epoch", 3}, {"state_dict", std::move(c.at("state_dict"))}});
    c.set("state_dict_ema", std::move(ema));
  };
  EXPECT_THAT(refusal(timm, {"resume=false"}), IsEmpty());
  EXPECT_THAT(messages_, HasSubstr("its state_dict is used, state_dict_ema is not"));
  resume({}, {"resume=false"});
  EXPECT_THAT(messages_, Not(HasSubstr("is not")));
}

// ---- clocks

TEST_F(ForeignCheckpoint, AnAverageThatCountedIterationsGoesOnInOptimizerSteps) {
  train({"optim_wrapper.accumulative_counts=2"});
  const auto steps = [](const Value& c) {
    return c.at(kEma).at("steps").as_tensor().item<int64_t>();
  };
  EXPECT_EQ(steps(saved_), 4);
  const Value whole = resume();
  const auto count_iterations = [](Value& c) {
    c.at(kEma).set("steps", at::tensor(int64_t{8}, at::kLong));
    make_foreign(c);
  };
  expect_same_run(whole, resume(count_iterations));
  EXPECT_THAT(messages_,
              HasSubstr("ema_state_dict counts 8 iterations; it continues from 4 optimizer "
                        "steps"));
  // Begun after the first epoch: its last 4 iterations are 2 steps.
  const Value begun = resume([](Value& c) {
    c.at(kEma).set("steps", at::tensor(int64_t{4}, at::kLong));
    make_foreign(c);
  });
  EXPECT_EQ(steps(begun), 2 + 4);
  // The hook that counts iterations takes it as it is.
  const Value iterations = resume(count_iterations, {"custom_hooks.0.count=iterations"});
  EXPECT_EQ(steps(iterations), 16);
  EXPECT_THAT(messages_, Not(HasSubstr("it continues from")));
  EXPECT_THAT(refusal([](Value& c) {
                c.at(kEma).set("steps", at::tensor(int64_t{9}, at::kLong));
                make_foreign(c);
              }),
              HasSubstr("ema_state_dict.steps is 9, more than the 8 iterations of the run"));
}

TEST_F(ForeignCheckpoint, AHookWhoseClockChangesConvertsTheCount) {
  train({"optim_wrapper.accumulative_counts=2"});
  const Value iterations = resume({}, {"custom_hooks.0.count=iterations"});
  EXPECT_EQ(iterations.at(kEma).at("steps").as_tensor().item<int64_t>(), 16);
  EXPECT_THAT(messages_, HasSubstr("counts 4 optimizer steps; it continues from 8 iterations"));
}

TEST_F(ForeignCheckpoint, ACountThatIsNoneIsRefused) {
  train();
  EXPECT_THAT(
      refusal([](Value& c) { c.at(kEma).set("steps", at::tensor(int64_t{-3}, at::kLong)); }),
      AllOf(HasSubstr("changed.pth"), HasSubstr("ema_state_dict.steps is -3")));
  EXPECT_THAT(refusal([](Value& c) { c.at(kEma).erase("steps"); }),
              AllOf(HasSubstr("changed.pth"), HasSubstr("ema_state_dict has no 'steps'")));
  EXPECT_THAT(refusal([](Value& c) { c.at(kEma).set("steps", 0.5); }),
              HasSubstr("ema_state_dict.steps is not an integer"));
}

// ---- the optimizer

/// Exchanges the two hidden layers, which are of equal shape, wherever a file names or numbers
/// them, as a Python model does that registers them the other way round.
void swap_registration(Value& checkpoint) {
  const auto order = [](Value& dict, const std::string& prefix) {
    std::vector<Value::Entry> last;
    auto& entries = dict.entries();
    for (auto at = entries.begin(); at != entries.end();) {
      const bool moved = at->first.as_string().rfind(prefix + "backbone.fc2", 0) == 0;
      if (moved) last.push_back(std::move(*at));
      at = moved ? entries.erase(at) : at + 1;
    }
    for (auto& entry : last) entries.push_back(std::move(entry));
    return last.size();
  };
  ASSERT_EQ(order(checkpoint.at("state_dict"), ""), 2U);
  ASSERT_EQ(order(checkpoint.at(kEma), "module."), 2U);
}

TEST_F(ForeignCheckpoint, OptimizerStateGoesByNameNotByPlace) {
  for (const char* optimizer :
       {"{type: SGD, lr: 0.05, momentum: 0.9}", "{type: AdamW, lr: 0.01}"}) {
    train({}, fmt::format("{{optim_wrapper: {{optimizer: {}}}}}", optimizer));
    const std::vector<Value> names = group(saved_).at("param_names").items();
    ASSERT_EQ(names.size(), 8U);
    const Value whole = resume();
    // As Python numbers them: in the order of its own state_dict, without names.
    const Value reordered = resume([&](Value& c) {
      swap_registration(c);
      Value state = Value::dict();
      int64_t index = 0;
      for (const auto& [key, value] : c.at("state_dict").entries()) {
        const auto own = std::find_if(names.begin(), names.end(), [&, &name = key](const Value& n) {
          return n.as_string() == name.as_string();
        });
        state.set(index++, saved_.at("optimizer").at("state").at(int64_t{own - names.begin()}));
      }
      c.at("optimizer").set("state", std::move(state));
      group(c).erase("param_names");
      make_foreign(c);
    });
    expect_same_run(whole, reordered);
    // With names, in any order.
    const Value named = resume([&](Value& c) {
      std::vector<Value>& own = group(c).at("param_names").items();
      Value& state = c.at("optimizer").at("state");
      std::swap(own[2], own[4]);
      std::swap(state.at(2), state.at(4));
    });
    expect_same_run(whole, named);
    // MMEngine's paramwise_cfg gives each parameter a group.
    const Value parted = resume([&](Value& c) {
      std::vector<Value> groups;
      for (int64_t i = 0; i < 8; ++i) {
        groups.push_back(group(c));
        groups.back().set("params", Value::list({i}));
        groups.back().erase("param_names");
      }
      c.at("optimizer").set("param_groups", Value::list(std::move(groups)));
    });
    expect_same_run(whole, parted);
  }
}

TEST_F(ForeignCheckpoint, NamesThatAreNotTheModelsAreRefused) {
  train();
  EXPECT_THAT(refusal([](Value& c) { group(c).at("param_names").items()[1] = "fc3.weight"; }),
              AllOf(HasSubstr("changed.pth"), HasSubstr("only the checkpoint has: fc3.weight"),
                    HasSubstr("only the model has: ")));
}

TEST_F(ForeignCheckpoint, AnotherOptimizersStateIsRefused) {
  const auto refused = [&](const std::string& optimizer, const Edit& edit) {
    train({}, fmt::format("{{optim_wrapper: {{optimizer: {}}}}}", optimizer));
    return refusal([&](Value& c) {
      make_foreign(c);
      edit(c);
    });
  };
  const std::string sgd = "{type: SGD, lr: 0.05, momentum: 0.9}", adam = "{type: Adam, lr: 0.01}",
                    adamw = "{type: AdamW, lr: 0.01}";
  const Edit mention = [](Value& c) {
    c.at("meta").set(
        "cfg",
        "model = dict(type='X')\noptim_wrapper = dict(\n    optimizer=dict(betas=(0.9, "
        "0.99), lr=0.1, type='Adam'),\n    type='OptimWrapper')\n");
    group(c).erase("decoupled_weight_decay");
  };
  EXPECT_THAT(refused(sgd, [](Value& c) { group(c).set("maximize", true); }),
              AllOf(HasSubstr("changed.pth"), HasSubstr("it maximizes")));
  EXPECT_THAT(refused(sgd, [](Value& c) { group(c).set("eta", 0.001); }), HasSubstr("LARS"));
  EXPECT_THAT(refused(sgd, [](Value& c) { group(c).set("lr_scale", 0.5); }),
              HasSubstr("'lr_scale' (0.5), which SGD does not support"));
  EXPECT_THAT(refused(adam, [](Value& c) { group(c).set("decoupled_weight_decay", true); }),
              HasSubstr("contains the optimizer state of AdamW"));
  EXPECT_THAT(refused(adamw, [](Value& c) { group(c).set("decoupled_weight_decay", false); }),
              HasSubstr("contains the optimizer state of Adam, but"));
  EXPECT_THAT(refused(adamw, mention), HasSubstr("contains the optimizer state of Adam, but"));
  EXPECT_THAT(refused(adam, mention), IsEmpty());
  EXPECT_THAT(refused(adam, [](Value& c) { group(c).erase("decoupled_weight_decay"); }), IsEmpty());
  EXPECT_THAT(
      messages_,
      HasSubstr("does not say whether its optimizer is Adam or AdamW; it is resumed as Adam\n"));
  EXPECT_THAT(refused(adam, [](Value& c) { group(c).set("maximize", false); }), IsEmpty());
}

TEST_F(ForeignCheckpoint, AStateThatFitsNothingIsRefused) {
  for (const char* optimizer : {"{type: SGD, lr: 0.05, momentum: 0.9}", "{type: Adam, lr: 0.01}"}) {
    train({}, fmt::format("{{optim_wrapper: {{optimizer: {}}}}}", optimizer));
    EXPECT_THAT(refusal([](Value& c) { c.at("optimizer").set("state", Value::dict()); }),
                AllOf(HasSubstr("changed.pth"),
                      HasSubstr("it contains no state of any parameter after 8 iterations")));
    EXPECT_THAT(refusal([](Value& c) {
                  Value state = Value::dict();
                  for (auto& [key, value] : c.at("optimizer").at("state").entries()) {
                    state.set(std::to_string(key.as_int()), std::move(value));
                  }
                  c.at("optimizer").set("state", std::move(state));
                }),
                AllOf(HasSubstr("changed.pth"), HasSubstr("the key '0'"),
                      HasSubstr("the integers 0 to 7")));
    EXPECT_THAT(
        refusal([](Value& c) {
          c.at("optimizer").at("state").set(0, Value::dict({{"square_avg", at::ones({1})}}));
        }),
        AllOf(HasSubstr("changed.pth"), HasSubstr("it has: square_avg")));
    EXPECT_THAT(refusal([](Value& c) {
                  for (auto& [name, value] : c.at("optimizer").at("state").at(0).entries()) {
                    if (name.as_string() != "step") value = value.as_tensor().to(at::kInt);
                  }
                }),
                HasSubstr("expected floating-point numbers"));
    EXPECT_THAT(refusal([](Value& c) { c.at("optimizer").at("state").set(17, Value::dict()); }),
                HasSubstr("the key 17"));
    EXPECT_THAT(refusal([](Value& c) {
                  c.set("optimizer", Value::dict({{"generator", 1}}));
                }),
                AllOf(HasSubstr("changed.pth"), HasSubstr("it contains generator")));
  }
}

TEST_F(ForeignCheckpoint, NumbersThatOneGroupCannotHaveAreRefused) {
  train();
  const Edit two_groups = [](Value& c) {
    Value second = group(c);
    std::vector<Value>&params = group(c).at("params").items(),
    &names = group(c).at("param_names").items();
    second.set("params", Value::list({params.back()}));
    second.set("param_names", Value::list({names.back()}));
    second.set("weight_decay", 0.1);
    params.pop_back();
    names.pop_back();
    c.at("optimizer").at("param_groups").items().push_back(std::move(second));
  };
  EXPECT_THAT(refusal(two_groups),
              AllOf(HasSubstr("changed.pth"), HasSubstr("weight_decay is 0 for"),
                    HasSubstr("0.1 for"), HasSubstr("paramwise_cfg")));
  EXPECT_THAT(refusal(two_groups, {"resume_options=config"}), IsEmpty());
  EXPECT_THAT(refusal([&](Value& c) {
                two_groups(c);
                Value& second = c.at("optimizer").at("param_groups").items().back();
                second.set("weight_decay", 0.0);
                second.set("lr", 0.5);
              }),
              HasSubstr("the learning rates 0.05 and 0.5"));
}

// ---- schedules

const char* const kSchedules =
    "{param_scheduler: [{type: LinearLR, by_epoch: false, end: 6, start_factor: 0.1}, "
    "{type: CosineAnnealingLR, by_epoch: false, begin: 6}]}";

TEST_F(ForeignCheckpoint, SchedulesAreMatchedByWhatTheyAre) {
  train({}, kSchedules);
  const Value whole = resume();
  EXPECT_THAT(messages_, HasSubstr("using the config's schedules: CosineAnnealing of lr (by_epoch "
                                   "false, begin 6): end 16 (was 8), T_max 10 (was 2)"));
  const Value exchanged = resume([](Value& c) {
    std::vector<Value>& states = c.at("param_schedulers").items();
    std::swap(states[0], states[1]);
  });
  expect_same_run(whole, exchanged);
  const Value first_version = resume([](Value& c) {  // 0.1 wrote nothing that tells the kind
    for (Value& state : c.at("param_schedulers").items()) {
      for (const char* key : {"T_max", "eta_min", "start_factor", "end_factor", "total_iters"}) {
        state.erase(key);
      }
    }
  });
  expect_same_run(whole, first_version);
}

TEST_F(ForeignCheckpoint, OtherMilestonesAreNamed) {
  constexpr const char* kSteps = "{{param_scheduler: {{type: MultiStepLR, milestones: {}}}}}";
  train({}, fmt::format(kSteps, "[1, 3]"));
  resume();
  EXPECT_THAT(messages_, Not(HasSubstr("milestones")));
  options_ = fmt::format(kSteps, "[1, 2]");
  resume();
  EXPECT_THAT(messages_, HasSubstr("milestones [1, 2] (was [1, 3])"));
}

TEST_F(ForeignCheckpoint, SchedulesThatAreNotTheConfigsAreRefused) {
  train({}, kSchedules);
  const auto states = [](Value& c) -> std::vector<Value>& {
    return c.at("param_schedulers").items();
  };
  const Edit edits[] = {
      [&](Value& c) { states(c)[0].set("param_name", "momentum"); },
      [&](Value& c) { states(c)[0].set("by_epoch", true); },
      [&](Value& c) { states(c)[1].set("begin", 5); },
      [&](Value& c) { states(c).pop_back(); },
      [&](Value& c) { states(c).push_back(states(c).back()); },
      [&](Value& c) {
        states(c)[0].erase("start_factor");
        states(c)[0].set("power", 0.9);
      },
  };
  const char* const texts[] = {
      "only the checkpoint has: Linear of momentum (by_epoch false, begin 0)",
      "only the checkpoint has: Linear of lr (by_epoch true, begin 0)",
      "only the checkpoint has: CosineAnnealing of lr (by_epoch false, begin 5)",
      "only the config has: CosineAnnealing of lr (by_epoch false, begin 6)",
      "only the checkpoint has: CosineAnnealing of lr (by_epoch false, begin 6)",
      "only the checkpoint has: Poly of lr (by_epoch false, begin 0)"};
  for (size_t i = 0; i < std::size(edits); ++i) {
    EXPECT_THAT(refusal(edits[i]),
                AllOf(HasSubstr("changed.pth"), HasSubstr("resume_options"), HasSubstr(texts[i])));
    EXPECT_THAT(refusal(edits[i], {"resume_options=config"}), IsEmpty()) << i;
  }
  EXPECT_THAT(refusal([](Value& c) { c.set("param_schedulers", Value::dict()); }),
              AllOf(HasSubstr("changed.pth"), HasSubstr("is a dict, expected a list")));
  EXPECT_THAT(
      refusal([&](Value& c) { states(c)[1].erase("last_step"); }),
      AllOf(HasSubstr("changed.pth"), HasSubstr("param_schedulers[1]: has no 'last_step'")));
}

// ---- what is beside

TEST_F(ForeignCheckpoint, StaleInfoOfAnotherProgramIsNotWrittenOn) {
  train();
  const Value end = resume(make_foreign);
  const Value& info = end.at("message_hub").at("runtime_info");
  EXPECT_FALSE(info.contains("epoch"));
  EXPECT_FALSE(info.contains("lr"));
}

TEST_F(ForeignCheckpoint, DamagedPartsAreRefusedWithTheFilesName) {
  train();
  const Edit edits[] = {
      [](Value& c) { c.at("meta").erase("iter"); },
      [](Value& c) { c.at("meta").set("iter", "8"); },
      [](Value& c) { c.set("meta", Value()); },
      [](Value& c) { c.set("state_dict", Value()); },
      [](Value& c) { c.at("state_dict").set(3, at::ones({1})); },
      [](Value& c) { c.set(kEma, Value()); },
      [](Value& c) { c.set("optimizer", Value()); },
      [](Value& c) { c.set("param_schedulers", Value(1)); },
      [](Value& c) { c.set("polyak", Value()); },
      [](Value& c) { c.at("polyak").erase("format"); },
  };
  for (size_t i = 0; i < std::size(edits); ++i) {
    EXPECT_THAT(refusal(edits[i]), HasSubstr("changed.pth")) << i;
  }
}

}  // namespace
}  // namespace polyak::test
