// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/weights.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <filesystem>
#include <functional>

#include "polyak/averaging/exponential_moving_average.h"
#include "polyak/checkpoint/libtorch_archive.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"
#include "polyak/runtime/file_weights.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::ThrowsMessage;

/// Two modules, of which one is named `backbone`.
struct Net : torch::nn::Module {
  Net() {
    backbone = register_module(
        "backbone", torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4),
                                          torch::nn::Linear(4, 4)));
    head = register_module("head", torch::nn::Linear(4, 2));
  }
  torch::nn::Sequential backbone{nullptr};
  torch::nn::Linear head{nullptr};
};

Value state_of(const ModelRef& model, const std::string& prefix = "") {
  Value state = Value::dict({}, true);
  for (const NamedTensor& item : model.tensors()) {
    state.set(prefix + item.name, item.tensor.detach().clone());
  }
  return state;
}

bool same_values(const ModelRef& a, const ModelRef& b) {
  const std::vector<NamedTensor> x = a.tensors(), y = b.tensors();
  for (size_t i = 0; i < x.size(); ++i) {
    if (!at::equal(x[i].tensor, y[i].tensor)) return false;
  }
  return x.size() == y.size();
}

class Weights : public ::testing::Test {
 protected:
  Weights() {
    previous_ = set_log_sink(
        [this](LogLevel, std::string_view line) { messages_ += fmt::format("{}\n", line); });
  }
  ~Weights() override { set_log_sink(previous_); }

  static std::string path(const std::string& name) { return own_folder() + "/" + name; }
  std::string write(const Value& value) {
    std::string file = path("weights.pth");
    write_pth(file, value);
    messages_.clear();
    return file;
  }
  /// Loads a file of these values into a new network, all of which must fit.
  void expect_loads(const Value& file, const LoadWeightsOptions& options = {}) {
    Net net;
    const std::string name = write(file);
    const WeightsReport report = load_weights(net, name, options);
    EXPECT_TRUE(report.clean()) << report.text();
    EXPECT_EQ(report.loaded, ModelRef(net).tensors().size());
    EXPECT_TRUE(same_values(net, source_));
  }
  std::string refusal(const Value& file, const LoadWeightsOptions& options = {}) {
    Net net;
    const Value before = state_of(net);
    try {
      load_weights(net, write(file), options);
    } catch (const CheckpointError& error) {
      for (const auto& [name, value] : before.entries()) {
        EXPECT_TRUE(at::equal(value.as_tensor(), state_of(net).at(name).as_tensor()))
            << "nothing is loaded from a file that is refused";
      }
      return error.what();
    }
    return "";
  }

  Net source_;
  std::string messages_;
  LogSink previous_;
};

// ---- where weights lie

TEST_F(Weights, AreFoundWhereLibrariesKeepThem) {
  const Value state = state_of(source_);
  expect_loads(state);
  for (const std::string key : {"state_dict", "model", "model_state_dict", "module", "net",
                                "params", "ema", "state_dict_ema", "model_ema", "something_else"}) {
    expect_loads(Value::dict({{"epoch", 3}, {key, state}, {"best", 0.5}}));
  }
  expect_loads(Value::dict({{"ema", Value::dict({{"module", state}, {"decay", 0.99}})}}));
}

TEST_F(Weights, RawOnesComeBeforeAveragedOnesAndTheOthersAreNamed) {
  Net other;
  const Value file = Value::dict({{"model_ema", state_of(other)}, {"model", state_of(source_)}});
  expect_loads(file);
  Net net;
  EXPECT_THAT(load_weights(net, write(file)).others, ElementsAre("model_ema"));
  EXPECT_THAT(messages_, HasSubstr("its 'model' is used"));
  const WeightsReport report =
      load_weights(net, write(file), LoadWeightsOptions().key("model_ema"));
  EXPECT_TRUE(same_values(net, other));
  EXPECT_THAT(report.others, ElementsAre("model"));
}

TEST_F(Weights, AChoiceIsAskedForWhereNoNameIsKnown) {
  const Value state = state_of(source_);
  const Value file = Value::dict({{"first", state}, {"second", state}});
  EXPECT_THAT(refusal(file), AllOf(HasSubstr("weights.pth: holds several state dicts: first, "
                                             "second"),
                                   HasSubstr("key: first")));
  expect_loads(file, LoadWeightsOptions().key("second"));
  EXPECT_THAT(refusal(file, LoadWeightsOptions().key("secnd")),
              AllOf(HasSubstr("there is no key 'secnd'"), HasSubstr("did you mean 'second'?")));
}

TEST_F(Weights, WhatOnlyPythonCanReadIsRefusedWithItsClass) {
  EXPECT_THAT(
      refusal(Value::dict({{"epoch", 1}, {"model", 3}})),
      HasSubstr("holds no weights: no entry is a dict of tensors; its keys are epoch, model"));
}

// ---- names

TEST_F(Weights, WrappersAndCommonPrefixesAreRemovedWithALine) {
  for (const std::string prefix :
       {"module.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod.", "a.b.c."}) {
    expect_loads(state_of(source_, prefix));
    EXPECT_THAT(messages_, HasSubstr("it is removed")) << prefix;
  }
  const Value state = state_of(source_);
  Value inside = Value::dict({}, true);
  for (const auto& [key, value] : state.entries()) {
    std::string name = key.as_string();
    if (name.rfind("backbone.", 0) == 0) name.insert(9, "_orig_mod.");
    inside.set(name, value);
  }
  expect_loads(inside);  // torch.compile of a part of the network
}

TEST_F(Weights, TheCounterOfPyTorchsAveragedModelIsLeftOut) {
  Value state = state_of(source_, "module.");
  state.set("n_averaged", at::scalar_tensor(7, at::kLong));
  expect_loads(Value::dict({{"state_dict", state}}));
}

TEST_F(Weights, ABackboneAloneFindsItsPlace) {
  const Value state = state_of(ModelRef(source_.backbone));
  Net net;
  const WeightsReport report = load_weights(net, write(state));
  EXPECT_THAT(report.missing, ElementsAre("head.weight", "head.bias"));
  EXPECT_THAT(report.unexpected, IsEmpty());
  EXPECT_TRUE(same_values(ModelRef(net.backbone), ModelRef(source_.backbone)));
  EXPECT_THAT(messages_, AllOf(HasSubstr("those of the model's 'backbone'"),
                               HasSubstr("only partly fits the model; missing in the checkpoint: "
                                         "head.weight")));
  // Under another name.
  const WeightsReport renamed = load_weights(net, write(state_of(source_.backbone, "encoder.")));
  EXPECT_EQ(renamed.loaded, report.loaded);
  EXPECT_THAT(messages_, HasSubstr("'encoder' is read as the model's 'backbone'"));
  EXPECT_THAT(refusal(state, LoadWeightsOptions().strict(true)),
              HasSubstr("does not fit the model; missing in the checkpoint: head.weight"));
}

TEST_F(Weights, TwoNetworksOfTheSameNamesNeedAChoice) {
  Value both = state_of(source_, "student.");
  Net other;
  const Value teacher = state_of(other, "teacher.");
  for (const auto& [key, value] : teacher.entries()) both.set(key, value);
  EXPECT_THAT(refusal(both), AllOf(HasSubstr("without 'student.'"), HasSubstr("without 'teacher.'"),
                                   HasSubstr("prefix: {strip, map}")));
  expect_loads(both, LoadWeightsOptions().strip({"student."}).exclude({"teacher.*"}));
}

TEST_F(Weights, RulesRenameAndLeaveOut) {
  const Value own = state_of(source_);
  Value state = Value::dict({}, true);
  for (const auto& [key, value] : own.entries()) {
    std::string name = key.as_string();
    name = name.rfind("head.", 0) == 0 ? "fc" + name.substr(4) : "enc" + name.substr(8);
    state.set("net." + name, value);
  }
  expect_loads(state,
               LoadWeightsOptions().strip({"net."}).map({{"enc.", "backbone."}, {"fc.", "head."}}));
  EXPECT_THAT(refusal(state, LoadWeightsOptions().strip({"nets."})),
              AllOf(HasSubstr("prefix.strip 'nets.' fits none of its tensors"),
                    HasSubstr("net.enc.0.weight")));
  EXPECT_THAT(refusal(state, LoadWeightsOptions().map({{"x.", "y."}})),
              HasSubstr("prefix.map 'x.' fits none"));
  EXPECT_THAT(refusal(state, LoadWeightsOptions().exclude({"*.gamma"})),
              HasSubstr("exclude '*.gamma' fits none"));
  EXPECT_THAT(refusal(state, LoadWeightsOptions().map(
                                 {{"net.fc.weight", "head.bias"}, {"net.fc.bias", "head.bias"}})),
              HasSubstr("holds both 'net.fc.weight' and 'net.fc.bias'"));
}

TEST_F(Weights, OfHostileNamesAreRefusedInShortTime) {
  std::string deep, modules;
  for (int i = 0; i < 200'000; ++i) deep += "a.";
  for (int i = 0; i < 100'000; ++i) modules += "module.";
  const Value file = Value::dict({{deep + "w", at::ones({1})}, {modules + "w", at::ones({1})}});
  EXPECT_THAT(refusal(file), HasSubstr("none of it fits the model"));
}

TEST_F(Weights, NamesOfBothSidesAreShownWhereNothingFits) {
  const Value state =
      Value::dict({{"conv.weight", at::ones({8, 3, 3, 3})}, {"conv.bias", at::ones({8})}});
  EXPECT_THAT(refusal(state), AllOf(HasSubstr("none of it fits the model"),
                                    HasSubstr("\n  in the file                in the model\n"),
                                    HasSubstr("\n  conv.weight [8, 3, 3, 3]   backbone.0.weight "
                                              "[4, 3]\n")));
}

TEST_F(Weights, AHeadOfAnotherSizeIsReportedAndLeftOut) {
  Value state = state_of(source_);
  state.set("head.weight", at::ones({7, 4}));
  state.set("head.bias", at::ones({7}));
  Net net;
  const at::Tensor before = net.head->bias.detach().clone();
  const WeightsReport report = load_weights(net, write(state));
  EXPECT_THAT(report.mismatched,
              ElementsAre("head.weight ([7, 4] in the checkpoint, [2, 4] in the "
                          "model)",
                          "head.bias ([7] in the checkpoint, [2] in the model)"));
  EXPECT_TRUE(at::equal(net.head->bias, before));
  EXPECT_TRUE(same_values(ModelRef(net.backbone), ModelRef(source_.backbone)));
}

// ---- writing

TEST_F(Weights, AreSavedAndLoadedByEachFormat) {
  for (const char* name : {"mine.pth", "mine.safetensors"}) {
    save_weights(source_, path(name));
    Net net;
    EXPECT_TRUE(load_weights(net, path(name), LoadWeightsOptions().strict(true)).clean());
    EXPECT_TRUE(same_values(net, source_)) << name;
  }
  EXPECT_THAT([&] { save_weights(source_, path("mine.txt")); },
              ThrowsMessage<CheckpointError>(HasSubstr("mine.txt: unknown checkpoint format")));
}

TEST_F(Weights, OfAnAverageAreSavedUnderTheModelsNames) {
  Net net;
  ExponentialMovingAverage ema(net);
  ema.update_parameters(net);
  {
    const torch::NoGradGuard no_grad;
    for (const NamedTensor& item : ModelRef(net).tensors()) item.tensor.fill_(2);
  }
  ema.update_parameters(net);
  save_weights(ema, path("average.pth"));
  const Value saved = read_pth(path("average.pth"));
  Net other;
  load_weights(other, path("average.pth"), LoadWeightsOptions().strict(true));
  const auto averages = ema.named_averages();
  EXPECT_TRUE(at::equal(other.head->weight, averages["head.weight"]));
  EXPECT_FALSE(at::equal(other.head->weight, net.head->weight));
}

// ---- LibTorch's archives

TEST_F(Weights, OfLibTorchsArchiveAreReadWithoutTheModule) {
  auto net = std::make_shared<Net>();
  torch::save(net, path("module.pt"));
  Net other;
  EXPECT_TRUE(load_weights(other, path("module.pt"), LoadWeightsOptions().strict(true)).clean());
  EXPECT_TRUE(same_values(other, net));
}

TEST_F(Weights, ArchiveIsWhatLibTorchLoads) {
  write_libtorch_archive(path("ours.pt"), state_of(source_));
  auto net = std::make_shared<Net>();
  torch::load(net, path("ours.pt"));
  EXPECT_TRUE(same_values(net, source_));
  for (const char* name : {"a..b", "", "a."}) {
    EXPECT_THAT(
        [&] {
          write_libtorch_archive(path("bad.pt"), Value::dict({{name, at::ones({1})}}));
        },
        ThrowsMessage<CheckpointError>(AllOf(HasSubstr("bad.pt"), HasSubstr("is empty"))));
  }
  EXPECT_THAT(
      [&] {
        write_libtorch_archive(path("bad.pt"),
                               Value::dict({{"a", at::ones({1})}, {"a.b", at::ones({1})}}));
      },
      ThrowsMessage<CheckpointError>(HasSubstr("'a' is both a tensor and a module")));
  EXPECT_FALSE(std::filesystem::exists(path("bad.pt")));
}

// ---- kinds of weights

TEST_F(Weights, AreChosenByTheirKind) {
  Net raw, averaged;
  Value state = state_of(averaged);
  Value ema = state_of(raw, "module.");
  ema.set("steps", at::scalar_tensor(5, at::kLong));
  const Value mmengine = Value::dict({{"state_dict", state}, {"ema_state_dict", ema}});
  const auto head_of = [](Value file, const std::string& kind) {
    return checkpoint_with_kind(std::move(file), kind)
        .at("state_dict")
        .at("head.weight")
        .as_tensor();
  };
  EXPECT_TRUE(at::equal(head_of(mmengine, "averaged"), averaged.head->weight));
  EXPECT_TRUE(at::equal(head_of(mmengine, "raw"), raw.head->weight));
  EXPECT_THAT([&] { head_of(mmengine, "slow"); },
              ThrowsMessage<CheckpointError>(HasSubstr("holds no weights 'slow'; it holds raw, "
                                                       "averaged")));
  const Value timm = Value::dict({{"state_dict", state_of(raw)}, {"state_dict_ema", state}});
  EXPECT_TRUE(at::equal(head_of(timm, "averaged"), averaged.head->weight));
  EXPECT_TRUE(at::equal(head_of(timm, "raw"), raw.head->weight));
  const Value lightning =
      Value::dict({{"state_dict", state}, {"current_model_state", state_of(raw)}});
  EXPECT_TRUE(at::equal(head_of(lightning, "averaged"), averaged.head->weight));
  EXPECT_TRUE(at::equal(head_of(lightning, "raw"), raw.head->weight));
  EXPECT_THAT(
      [&] {
        head_of(Value::dict({{"state_dict", state}}), "averaged");
      },
      ThrowsMessage<CheckpointError>(HasSubstr("holds no weights 'averaged'")));
}

}  // namespace
}  // namespace polyak::test
