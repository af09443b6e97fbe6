// SPDX-License-Identifier: Apache-2.0
// Optimizers of a loop of one's own, saved and taken up again.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>
#include <torch/version.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <tuple>

#include "polyak/averaging/averaged_model.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/embed/loop_hooks.h"
#include "support/own_folder.h"
#include "unit/embed/loop_program.h"

namespace polyak::test {
namespace {

class LoopOptimizer : public ::testing::TestWithParam<std::string> {};

TEST_P(LoopOptimizer, IsSavedAndGoesOnBitForBit) {
  for (const int64_t steps : {0, 1, 2, 3, 4}) {
    SCOPED_TRACE(steps);
    const std::string folder = own_folder() + "/run";
    std::filesystem::remove_all(folder);
    Program first(GetParam(), folder, /*idle=*/1);
    if (steps == 0) first.iterate(/*step=*/false);
    for (int64_t i = 0; i < steps; ++i) first.iterate(true);
    {
      Program second(GetParam(), copy_of(folder), 1);  // one run a folder
      ASSERT_TRUE(second.hooks.resume());
      EXPECT_TRUE(at::equal(first.net->weight, second.net->weight));
      for (int i = 0; i < 3; ++i) {
        first.iterate(true);
        second.iterate(true);
      }
      EXPECT_TRUE(at::equal(first.net->weight, second.net->weight));
      EXPECT_TRUE(first.net->weight.isfinite().all().item<bool>());
      second.hooks.after_train();
    }
    first.hooks.after_train();
  }
}

TEST(LoopOptimizers, AnotherOnesStateIsRefusedWithBothNames) {
  struct Case {
    const char *before, *now, *message;
  };
  const Case cases[] = {
      {"SGD", "Adam", "holds the optimizer state of SGD, but the loop's optimizer is Adam"},
      {"Adam", "AdamW", "holds the optimizer state of Adam, but the loop's optimizer is AdamW"},
      {"AdamW", "SGDMomentum", "holds the optimizer state of AdamW, but the loop's optimizer is "},
      {"RMSprop", "LBFGS", "the optimizer state of RMSprop, but the loop's optimizer is LBFGS"},
      {"Adagrad", "RMSprop", "the optimizer state of Adagrad, but the loop's optimizer is RMSprop"},
      {"LBFGS", "SGD",
       "the optimizer state of torch::optim::LBFGS, but the loop's optimizer is torch::optim::SGD"},
  };
  for (const Case& each : cases) {
    const std::string folder = own_folder() + "/run";
    std::filesystem::remove_all(folder);
    Program first(each.before, folder, 0);
    first.iterate(true);
    first.hooks.after_train();
    Program second(each.now, folder, 0);
    const at::Tensor weight = second.net->weight.detach().clone();
    EXPECT_THAT([&] { second.hooks.resume(); },
                testing::ThrowsMessage<CheckpointError>(testing::AllOf(
                    testing::HasSubstr("iter_1.pth: "), testing::HasSubstr(each.message))));
    EXPECT_TRUE(at::equal(second.net->weight, weight));
  }
}

/// The keys of a dict, in its order.
std::vector<std::string> keys_of(const Value& dict) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : dict.entries()) keys.push_back(key.as_string());
  return keys;
}

TEST(LoopOptimizers, AFileHasPythonsLayoutWhereverPyTorchHasTheClass) {
  using testing::ElementsAre;
  using testing::IsSupersetOf;
  struct Case {
    const char* name;
    std::vector<std::string> numbers, state;
  };
  const Case cases[] = {
      {"SGD", {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"}, {}},
      {"SGDMomentum", {"lr", "momentum", "dampening"}, {"momentum_buffer"}},
      {"Adam",
       {"lr", "betas", "eps", "weight_decay", "amsgrad"},
       {"step", "exp_avg", "exp_avg_sq"}},
      {"AdamAmsgrad",
       {"amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"},
       {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}},
      {"AdamW", {"betas", "decoupled_weight_decay"}, {"step", "exp_avg", "exp_avg_sq"}},
      {"Adagrad", {"lr_decay", "eps", "initial_accumulator_value"}, {"step", "sum"}},
      {"RMSprop", {"alpha", "momentum", "centered", "eps"}, {"step", "square_avg"}},
      {"RMSpropCentered", {"alpha"}, {"step", "square_avg", "momentum_buffer", "grad_avg"}},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    const std::string folder = own_folder() + "/layout";
    std::filesystem::remove_all(folder);
    Program program(each.name, folder, 0);
    program.iterate(true);
    program.iterate(true);
    program.hooks.after_train();
    const Value saved = read_pth(folder + "/iter_2.pth").at("optimizer");
    EXPECT_THAT(keys_of(saved), ElementsAre("state", "param_groups"));
    ASSERT_EQ(saved.at("param_groups").items().size(), 1U);
    const Value& group = saved.at("param_groups").items()[0];
    EXPECT_THAT(keys_of(group), IsSupersetOf(each.numbers));
    EXPECT_EQ(group.at("lr").as_real(), 0.01);
    EXPECT_FALSE(group.at("maximize").as_bool());
    EXPECT_TRUE(group.at("foreach").is_none());
    EXPECT_EQ(group.at("params").items()[1].as_int(), 1);
    EXPECT_EQ(group.at("param_names").items()[0].as_string(), "weight");
    EXPECT_EQ(group.at("param_names").items()[1].as_string(), "bias");
    ASSERT_EQ(saved.at("state").entries().size(), each.state.empty() ? 0U : 2U);
    for (const auto& [index, state] : saved.at("state").entries()) {
      EXPECT_EQ(index.kind(), Value::Kind::integer);
      EXPECT_EQ(keys_of(state), each.state);
      const Value* step = state.find("step");
      if (!step) continue;
      EXPECT_EQ(step->as_tensor().scalar_type(), at::kFloat);
      EXPECT_EQ(step->as_tensor().dim(), 0);
      EXPECT_EQ(step->as_tensor().item<double>(), 2);
    }
  }
}

TEST(LoopOptimizers, AParameterWithoutGradientsHasNoStateAndBeginsAnew) {
  for (const char* name : {"AdamAmsgrad", "SGDMomentum", "RMSpropCentered"}) {
    SCOPED_TRACE(name);
    const std::string folder = own_folder() + "/frozen";
    std::filesystem::remove_all(folder);
    Program first(name, folder, 0);
    first.net->bias.set_requires_grad(false);
    first.iterate(true);
    const Value saved = read_pth(folder + "/iter_1.pth").at("optimizer").at("state");
    EXPECT_TRUE(saved.contains(0));
    EXPECT_FALSE(saved.contains(1));
    Program second(name, copy_of(folder), 0);
    ASSERT_TRUE(second.hooks.resume());
    EXPECT_EQ(second.optimizer->state().size(), 1U);
    first.net->bias.set_requires_grad(true);
    for (int i = 0; i < 3; ++i) {
      first.iterate(true);
      second.iterate(true);
    }
    EXPECT_TRUE(at::equal(first.net->bias, second.net->bias));
    first.hooks.after_train();
    second.hooks.after_train();
  }
}

TEST(LoopOptimizers, EveryNumberOfTheFileGoesOnWithAWord) {
  const std::string folder = own_folder() + "/numbers";
  std::filesystem::remove_all(folder);
  Program first("Adam", folder, 0);
  auto& before =
      static_cast<torch::optim::AdamOptions&>(first.optimizer->param_groups()[0].options());
  before.betas({0.5, 0.75}).eps(0.25).weight_decay(0.125).lr(0.0625);
  first.iterate(true);
  first.hooks.after_train();
  Program second("Adam", folder, 0);
  const auto& after = static_cast<const torch::optim::AdamOptions&>(
      second.optimizer->param_groups()[0].options());  // which a program may hold
  std::vector<std::string> lines;
  LogSink sink = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  EXPECT_TRUE(second.hooks.resume());
  set_log_sink(sink);
  EXPECT_EQ(after.lr(), 0.0625);
  EXPECT_EQ(after.betas(), std::make_tuple(0.5, 0.75));
  EXPECT_EQ(after.eps(), 0.25);
  EXPECT_EQ(after.weight_decay(), 0.125);
  EXPECT_THAT(lines,
              testing::Contains(
                  "resume: continuing with the checkpoint's lr 0.0625 (the program set 0.01), "
                  "betas [0.5, 0.75] (the program set [0.9, 0.999]), eps 0.25 (the program set "
                  "1e-08), weight_decay 0.125 (the program set 0)"));
  second.hooks.after_train();
}

TEST(LoopOptimizers, CountsThatFloat32DoesNotHaveSurvive) {
  const std::string folder = own_folder() + "/counts";
  std::filesystem::remove_all(folder);
  const auto step_of = [](Program& program) -> int64_t& {
    auto* state = program.optimizer->state().begin()->second.get();
    return static_cast<torch::optim::AdagradParamState&>(*state).step();
  };
  Program first("Adagrad", folder, 0);
  step_of(first) = int64_t{1} << 24;
  first.iterate(true);
  first.hooks.after_train();
  Program second("Adagrad", folder, 0);
  ASSERT_TRUE(second.hooks.resume());
  int64_t largest = 0;
  for (const auto& item : second.optimizer->state()) {
    largest = std::max(largest, static_cast<torch::optim::AdagradParamState&>(*item.second).step());
  }
  EXPECT_EQ(largest, (int64_t{1} << 24) + 1);
  second.hooks.after_train();
}

/// Derived from a class of LibTorch: it may have more to save than that.
class OwnSgd : public torch::optim::SGD {
 public:
  using torch::optim::SGD::SGD;
};

TEST(LoopOptimizers, WhatPythonsLayoutCannotHoldIsLibTorchsArchive) {
  torch::nn::Linear net(3, 2);
  const std::vector<at::Tensor> all = net->parameters(), twice = {all[0], all[1], all[0]};
  OwnSgd own(all, torch::optim::SGDOptions(0.01).momentum(0.9));
  torch::optim::LBFGS lbfgs(all);
  torch::optim::Adam repeated(twice);
  for (torch::optim::Optimizer* optimizer :
       std::initializer_list<torch::optim::Optimizer*>{&own, &lbfgs, &repeated}) {
    const std::string folder = own_folder() + "/archive";
    std::filesystem::remove_all(folder);
    const auto hooks = [&] {
      return LoopHooks::from_config(
          parse_config("{work_dir: " + folder +
                       ", custom_hooks: [{type: CheckpointHook, by_epoch: false, interval: 1}]}"),
          net, LoopHooksSettings().optimizer(*optimizer).max_iters(8));
    };
    {
      LoopHooks first = hooks();
      first.after_step();
      first.after_iter();
      first.after_train();
    }
    EXPECT_TRUE(
        read_pth(folder + "/iter_1.pth").at("optimizer").at("libtorch_archive").is_tensor());
    EXPECT_TRUE(hooks().resume());
  }
}

// ---- files of others

/// A folder with a loop's file of two steps, changed by `edit`.
std::string edited_file(const std::string& name, const std::function<void(Value&)>& edit) {
  static auto& files = *new std::map<std::string, Value>;  // as they are written
  const std::string folder = own_folder() + "/edited";
  if (!files.count(name)) {
    std::filesystem::remove_all(folder);
    Program first(name, folder, 0);
    first.iterate(true);
    first.iterate(true);
    first.hooks.after_train();
    files[name] = read_pth(folder + "/iter_2.pth");
  }
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  Value file = files[name];
  edit(file);
  write_pth(folder + "/iter_2.pth", file);
  return folder;
}

Value& group_of(Value& file) {
  return file.at("optimizer").at("param_groups").items().front();
}

/// As MMEngine's paramwise_cfg has Python save it: without names, each parameter in a group.
void part_groups(Value& file) {
  std::vector<Value> groups;
  for (int64_t i = 0; i < 2; ++i) {
    groups.push_back(group_of(file));
    groups.back().set("params", Value::list({i}));
    groups.back().erase("param_names");
  }
  file.at("optimizer").set("param_groups", Value::list(std::move(groups)));
  file.erase("polyak");
}

TEST(LoopOptimizers, FilesOfPythonGoOnBitForBit) {
  const std::map<std::string, std::function<void(Value&)>> forms = {
      {"without names", [](Value& file) { group_of(file).erase("param_names"); }},
      {"a group for each", part_groups},
      {"names of DistributedDataParallel",
       [](Value& file) {
         for (Value& name : group_of(file).at("param_names").items()) {
           name = "module." + name.as_string();
         }
       }},
      {"another order",
       [](Value& file) {
         for (const char* key : {"params", "param_names"}) {
           std::vector<Value>& items = group_of(file).at(key).items();
           std::swap(items[0], items[1]);
         }
       }},
      {"steps as int", [](Value& file) {
         for (auto& [index, state] : file.at("optimizer").at("state").entries()) {
           if (Value* step = state.find("step")) *step = 2;
         }
       }}};
  for (const char* name : {"SGDMomentum", "AdamAmsgrad", "AdamW", "Adagrad", "RMSpropCentered"}) {
    Program whole(name, own_folder() + "/whole", 0);
    for (int i = 0; i < 4; ++i) whole.iterate(true);
    whole.hooks.after_train();
    for (const auto& [form, edit] : forms) {
      SCOPED_TRACE(name + (": " + form));
      Program second(name, edited_file(name, edit), 0);
      ASSERT_TRUE(second.hooks.resume());
      second.iterate(true);
      second.iterate(true);
      EXPECT_TRUE(at::equal(whole.net->weight, second.net->weight));
      EXPECT_TRUE(at::equal(whole.net->bias, second.net->bias));
      second.hooks.after_train();
    }
    std::filesystem::remove_all(own_folder() + "/whole");
  }
}

TEST(LoopOptimizers, WhatCannotTakeTheLayoutRefusesIt) {
  for (const bool says_class : {true, false}) {
    const std::string folder = edited_file("Adam", [&](Value& file) {
      if (!says_class) group_of(file).erase("decoupled_weight_decay");
    });
    torch::nn::Linear net(3, 2);
    torch::optim::Adam repeated(std::vector<at::Tensor>{net->weight, net->bias, net->weight});
    LoopHooks hooks =
        LoopHooks::from_config(parse_config("{work_dir: " + folder +
                                            ", custom_hooks: [{type: CheckpointHook, by_epoch: "
                                            "false, interval: 1}]}"),
                               net, LoopHooksSettings().optimizer(repeated).max_iters(8));
    EXPECT_THAT([&] { hooks.resume(); }, testing::ThrowsMessage<CheckpointError>(testing::HasSubstr(
                                             "in Python's layout, which the loop's optimizer")));
  }
}

TEST(LoopOptimizers, AnArchiveThatIsNoneIsRefused) {
  const std::string folder = edited_file(
      "LBFGS", [](Value& file) { file.at("optimizer").set("libtorch_archive", at::ones({5})); });
  Program second("LBFGS", folder, 0);
  EXPECT_THAT([&] { second.hooks.resume(); },
              testing::ThrowsMessage<CheckpointError>(
                  testing::HasSubstr("its optimizer state does not fit")));
}

TEST(LoopOptimizers, FilesThatDoNotSayAdamOrAdamWAreResumedWithAWord) {
  const std::string folder =
      edited_file("AdamW", [](Value& file) { group_of(file).erase("decoupled_weight_decay"); });
  Program second("AdamW", folder, 0);
  std::vector<std::string> lines;
  LogSink sink = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  EXPECT_TRUE(second.hooks.resume());
  set_log_sink(sink);
  EXPECT_THAT(lines, testing::Contains(testing::HasSubstr(
                         "whether its optimizer is Adam or AdamW; it is resumed as AdamW")));
  second.hooks.after_train();
}

TEST(LoopOptimizers, AStateThatIsWrongIsRefusedAndChangesNothing) {
  struct Case {
    const char* message;
    std::function<void(Value&)> edit;
  };
  const auto entry = [](Value& file) -> Value& { return file.at("optimizer").at("state").at(1); };
  const auto set_step = [&](Value step) {
    return [entry, step](Value& file) { entry(file).set("step", step); };
  };
  const double inf = std::numeric_limits<double>::infinity();
  const Case cases[] = {
      {"holds no state of an optimizer", [](Value& f) { f.erase("optimizer"); }},
      {"holds no state of an optimizer", [](Value& f) { f.set("optimizer", Value()); }},
      {"optimizer: must contain 'state' and 'param_groups'; it is a int",
       [](Value& f) { f.set("optimizer", 1); }},
      {"its param_groups are empty",
       [](Value& f) { f.at("optimizer").set("param_groups", Value::list()); }},
      {"'state'", [](Value& f) { f.at("optimizer").erase("state"); }},
      {"the state of bias has no 'exp_avg_sq'", [=](Value& f) { entry(f).erase("exp_avg_sq"); }},
      {"the step of bias is not a count", set_step(-1)},
      {"the step of bias is not a count", set_step(0.5)},
      {"the step of bias is not a count", set_step(inf)},
      {"the step of bias is not a count", set_step(at::scalar_tensor(inf))},
      {"the step of bias is not a count", set_step(at::scalar_tensor(-inf))},
      {"the step of bias is not a count", set_step(at::scalar_tensor(std::nan("")))},
      {"the step of bias is not a count", set_step(at::ones({2}))},
      {"the step of bias is not a count", set_step("two")},
      {"exp_avg of bias has 1 dimensions and 3 elements",
       [=](Value& f) { entry(f).set("exp_avg", at::ones({3})); }},
      {"exp_avg of bias is Int",
       [=](Value& f) { entry(f).set("exp_avg", at::ones({2}, at::kInt)); }},
      {"optimizer: exp_avg: expected Tensor, found str",
       [=](Value& f) { entry(f).set("exp_avg", "x"); }},
      {"optimizer: exp_avg: expected Tensor, found None",
       [=](Value& f) { entry(f).set("exp_avg", Value()); }},
      {"dict", [](Value& f) { f.at("optimizer").at("state").set(1, 7); }},
      {"the key 7", [](Value& f) { f.at("optimizer").at("state").set(7, Value::dict()); }},
      {"optimizer: betas: must be two numbers",
       [](Value& f) {
         group_of(f).set("betas", Value::list({0.9, 0.99, 0.999}));
       }},
      {"optimizer: amsgrad: expected bool, found int",
       [](Value& f) { group_of(f).set("amsgrad", 3); }},
      {"lr", [](Value& f) { group_of(f).erase("lr"); }},
      {"it maximizes", [](Value& f) { group_of(f).set("maximize", true); }},
      {"'momentum_decay' (0.004), which Adam does not support; pass no optimizer",
       [](Value& f) { group_of(f).set("momentum_decay", 0.004); }},
      {"the checkpoint has 1 parameters, the loop 2",
       [](Value& f) {
         group_of(f).set("params", Value::list({0}));
         group_of(f).set("param_names", Value::list({"weight"}));
         f.at("optimizer").at("state").erase(1);
       }},
      {"only the loop has: bias; only the checkpoint has: shift",
       [](Value& f) { group_of(f).at("param_names").items()[1] = "shift"; }},
      {"is in its groups twice", [](Value& f) { group_of(f).at("params").items()[1] = Value(0); }},
      {"lr is 0.01 for weight and 0.5 for bias in the checkpoint, but this optimizer has both in "
       "one group; give the optimizer its parameters in the groups of before",
       [](Value& f) {
         part_groups(f);
         f.at("optimizer").at("param_groups").items()[1].set("lr", 0.5);
       }},
      {"it contains no state of any parameter after 2 iterations",
       [](Value& f) {
         f.at("optimizer").set("state", Value::dict());
         f.erase("polyak");
       }},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.message);
    Program second("Adam", edited_file("Adam", each.edit), 0);
    const at::Tensor weight = second.net->weight.detach().clone();
    second.optimizer->param_groups()[0].options().set_lr(0.5);
    EXPECT_THAT([&] { second.hooks.resume(); },
                testing::ThrowsMessage<CheckpointError>(testing::AllOf(
                    testing::HasSubstr("iter_2.pth: "), testing::HasSubstr(each.message))));
    EXPECT_TRUE(at::equal(second.net->weight, weight));
    EXPECT_TRUE(second.optimizer->state().empty());
    EXPECT_EQ(second.optimizer->param_groups()[0].options().get_lr(), 0.5);
    EXPECT_EQ(second.hooks.progress().iter, 0);
  }
}

/// Runs of 0.1, which saved every optimizer as an archive: tests/kept.
class KeptLoops : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(KeptLoops, GoOnAndEndAsTheyDidThen) {
  const auto& [name, file] = GetParam();
  const std::string kept = std::string(POLYAK_KEPT_DIR) + "/0.1/loop_" + file;
  const Value end = read_pth(kept + "_end.pth");
  for (const bool with_names : {true, false}) {
    const std::string folder = own_folder() + "/kept";
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    Value begin = read_pth(kept + ".pth");
    ASSERT_TRUE(begin.at("optimizer").contains("libtorch_archive"));
    if (!with_names) begin.at("optimizer").erase("parameters");  // the first files had none
    write_pth(folder + "/iter_3.pth", begin);
    Program second(name, folder, 0);
    if (TORCH_VERSION_MAJOR > 1) {  // which misreads what LibTorch 1 wrote
      const size_t states = second.optimizer->state().size();  // Adagrad has some from the start
      EXPECT_THAT([&] { second.hooks.resume(); },
                  testing::ThrowsMessage<CheckpointError>(
                      testing::AllOf(testing::HasSubstr("was saved by LibTorch 1"),
                                     testing::HasSubstr("resume once with LibTorch 1"))));
      EXPECT_EQ(second.optimizer->state().size(), states);
      continue;
    }
    ASSERT_TRUE(second.hooks.resume());
    for (int i = 0; i < 3; ++i) second.iterate(true);
    second.hooks.after_train();
    const at::Tensor weight = end.at("state_dict").at("weight").as_tensor();
    EXPECT_TRUE(at::allclose(second.net->weight, weight, 1e-5, 1e-6));
    EXPECT_TRUE(read_pth(folder + "/iter_6.pth").at("optimizer").contains("param_groups"));
  }
}

TEST(LoopOptimizers, AnArchiveWithParametersInAnotherOrderIsRefusedByName) {
  const std::string folder = own_folder() + "/kept_order";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  Value file = read_pth(std::string(POLYAK_KEPT_DIR) + "/0.1/loop_sgd.pth");
  std::vector<Value>& names = file.at("optimizer").at("parameters").items();
  std::swap(names[0], names[1]);
  write_pth(folder + "/iter_3.pth", file);
  Program second("SGDMomentum", folder, 0);
  EXPECT_THAT([&] { second.hooks.resume(); },
              testing::ThrowsMessage<CheckpointError>(testing::HasSubstr(
                  "parameter 1 of its optimizer is 'bias', but 'weight' in the loop's")));
}

INSTANTIATE_TEST_SUITE_P(Types, KeptLoops,
                         ::testing::Values(std::pair("SGDMomentum", "sgd"),
                                           std::pair("AdamAmsgrad", "adam"),
                                           std::pair("AdamW", "adamw"),
                                           std::pair("Adagrad", "adagrad"),
                                           std::pair("RMSpropCentered", "rmsprop")),
                         [](const auto& info) { return std::string(info.param.first); });

TEST(LoopOptimizers, TheCheckpointsRateGoesOnWithAWord) {
  const std::string folder = own_folder() + "/run";
  std::filesystem::remove_all(folder);
  Program first("SGD", folder, 0);
  first.iterate(true);
  first.hooks.after_train();
  Program second("SGD", folder, 0);
  second.optimizer->param_groups()[0].options().set_lr(0.5);
  std::vector<std::string> lines;
  LogSink before = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  EXPECT_TRUE(second.hooks.resume());
  set_log_sink(before);
  EXPECT_THAT(lines, testing::Contains(
                         "resume: continuing with the checkpoint's lr 0.01 (the program set 0.5)"));
  EXPECT_EQ(second.optimizer->param_groups()[0].options().get_lr(), 0.01);
}

INSTANTIATE_TEST_SUITE_P(Types, LoopOptimizer, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& item : makers()) names.push_back(item.first);
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace polyak::test
