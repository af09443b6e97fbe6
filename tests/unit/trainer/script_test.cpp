// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/utils.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "polyak/averaging/averages.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/runner.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/torch_script.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// Exports small modules as Python would, and builds them from a config.
class Scripts : public ::testing::Test {
 protected:
  Scripts() {
    register_trainer(catalog_);
    folder_ = std::filesystem::temp_directory_path() / fmt::format("polyak_script_{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  ~Scripts() override { std::filesystem::remove_all(folder_); }

  /// A module with a weight [3, 4] and code.
  static torch::jit::Module linear(const std::string& code) {
    torch::jit::Module net("Net");
    net.register_attribute("training", c10::BoolType::get(), true);
    net.register_parameter("weight", at::linspace(-1, 1, 12).view({3, 4}).requires_grad_(), false);
    net.define(code);
    return net;
  }
  static torch::jit::Module linear() {
    return linear("def forward(self, x):\n  return torch.matmul(x.flatten(1), self.weight.t())\n");
  }
  /// Batch normalisation as torch.nn.BatchNorm1d is written, its momentum 0.25 inside the code.
  static torch::jit::Module norm() {
    torch::jit::Module norm("Norm");
    norm.register_attribute("training", c10::BoolType::get(), true);
    norm.register_attribute("momentum", c10::FloatType::get(), 0.25);
    norm.register_parameter("weight", at::ones({4}).requires_grad_(), false);
    norm.register_parameter("bias", at::zeros({4}).requires_grad_(), false);
    norm.register_buffer("running_mean", at::zeros({4}));
    norm.register_buffer("running_var", at::ones({4}));
    norm.register_buffer("num_batches_tracked", at::zeros({}, at::kLong));
    norm.define(R"(
def forward(self, x):
  if self.training:
    self.num_batches_tracked = self.num_batches_tracked + 1
  return torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.training, 0.25, 1e-5, True)
)");
    return norm;
  }
  static torch::jit::Module normed() {
    torch::jit::Module net("Net");
    net.register_attribute("training", c10::BoolType::get(), true);
    net.register_module("norm", norm());
    net.register_module("fc", linear());
    net.define(
        "def forward(self, x):\n  return self.fc.forward(self.norm.forward(x.flatten(1)))\n");
    return net;
  }

  std::string save(const torch::jit::Module& net) {
    net.save((folder_ / "net.pt").string());
    return (folder_ / "net.pt").string();
  }
  std::shared_ptr<Algorithm> build(const std::string& path, const std::string& more = "") {
    const std::string text = fmt::format(
        "{{type: TorchScript, path: {}, loss: {{type: CrossEntropyLoss}}{}}}", path, more);
    return catalog_.of<Algorithm>().build(parse_config(text, (folder_ / "c.yaml").string()),
                                          {&catalog_, {1, 2, 2}, 3});
  }
  std::shared_ptr<Algorithm> build(const torch::jit::Module& net) { return build(save(net)); }
  static std::vector<std::string> names(const std::shared_ptr<Algorithm>& model) {
    std::vector<std::string> names;
    for (const NamedTensor& item : ModelRef(as_module(model)).tensors()) names.push_back(item.name);
    return names;
  }
  static at::Tensor tensor(const std::shared_ptr<Algorithm>& model, const std::string& name) {
    for (const NamedTensor& item : ModelRef(as_module(model)).tensors()) {
      if (item.name == name) return item.tensor;
    }
    return {};
  }
  static at::Tensor images(int64_t count, int64_t start = 0) {
    return at::arange(start, start + count * 4).view({count, 1, 2, 2}).to(at::kFloat).sin();
  }

  Catalog catalog_;
  std::filesystem::path folder_;
};

TEST_F(Scripts, TrainUnderTheirOwnNames) {
  const auto model = build(normed());
  EXPECT_THAT(names(model),
              ElementsAre("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
                          "norm.num_batches_tracked", "fc.weight"));
  const at::Tensor weight = tensor(model, "fc.weight");
  const at::Tensor labels = at::arange(3);
  const Batch batch{{images(3)}, labels};
  const at::Tensor before = model->loss(batch).at("loss");
  before.backward();
  ASSERT_TRUE(weight.grad().defined());
  {
    const torch::NoGradGuard no_grad;
    weight.sub_(weight.grad());  // what is registered is what forward uses
  }
  EXPECT_LT(model->loss(batch).at("loss").item<double>(), before.item<double>());
  as_module(model)->to(at::kDouble);
  EXPECT_EQ(model->predict(images(2).to(at::kDouble)).scalar_type(), at::kDouble);
}

TEST_F(Scripts, FollowTrainAndEval) {
  const auto model = build(normed());
  const auto module = as_module(model);
  EXPECT_TRUE(module->is_training());
  module->eval();
  model->predict(images(3));
  EXPECT_EQ(tensor(model, "norm.num_batches_tracked").item<int64_t>(), 0);
  module->train();
  model->predict(images(3));
  EXPECT_EQ(tensor(model, "norm.num_batches_tracked").item<int64_t>(), 1);
  EXPECT_NE(tensor(model, "norm.running_mean")[0].item<float>(), 0);

  torch::jit::Module exported = linear();
  exported.eval();
  EXPECT_FALSE(as_module(build(exported))->is_training());
}

TEST_F(Scripts, BuffersThatForwardAssignsStayTheSameTensors) {
  torch::jit::Module net("Net");
  net.register_attribute("training", c10::BoolType::get(), true);
  net.register_parameter("weight", at::full({3}, 2.0).requires_grad_(), false);
  net.register_buffer("factor", at::ones({}));
  net.register_buffer("rows", at::zeros({1}));
  // `factor` is read by what goes into the backward pass, then assigned.
  net.define(R"(
def forward(self, x):
  logits = x.flatten(1)[:, :3] * (self.weight * self.factor)
  self.factor = self.factor * 3.0
  self.rows = torch.zeros([x.size(0)])
  return logits
)");
  const auto model = build(net);
  const at::Tensor factor = tensor(model, "factor"), weight = tensor(model, "weight");
  for (const double expected : {1.0, 3.0}) {
    const at::Tensor logits = model->predict(at::ones({2, 1, 2, 2}));
    EXPECT_EQ(factor.item<double>(), 3 * expected);
    logits.sum().backward();
    EXPECT_EQ(weight.grad()[0].item<double>(), 2 * expected);
    weight.mutable_grad() = at::Tensor();
  }
  EXPECT_TRUE(tensor(model, "factor").is_same(factor));
  EXPECT_EQ(tensor(model, "rows").size(0), 2);
}

TEST_F(Scripts, TiesAndFrozenParametersSurviveFileAndCopy) {
  torch::jit::Module net("Net");
  const at::Tensor tied = at::linspace(-1, 1, 12).view({3, 4}).requires_grad_();
  for (const char* name : {"a", "b"}) {
    torch::jit::Module part = linear();
    part.setattr("weight", tied);
    net.register_module(name, part);
  }
  net.register_parameter("scale", at::ones({3}), false);  // frozen: wants no gradient
  net.define(
      "def forward(self, x):\n  return (self.a.forward(x) + self.b.forward(x)) * self.scale\n");
  const auto model = build(net);
  const auto copy = std::dynamic_pointer_cast<Algorithm>(as_module(model)->clone());
  ASSERT_TRUE(copy);
  for (const auto& each : {model, copy}) {
    EXPECT_THAT(names(each), ElementsAre("scale", "a.weight", "b.weight"));
    EXPECT_TRUE(tensor(each, "a.weight").is_same(tensor(each, "b.weight")));
    EXPECT_TRUE(tensor(each, "a.weight").requires_grad());
    EXPECT_TRUE(tensor(each, "a.weight").is_leaf());
    EXPECT_FALSE(tensor(each, "scale").requires_grad());
  }
  const torch::NoGradGuard no_grad;
  const at::Tensor before = model->predict(images(2));
  EXPECT_TRUE(at::equal(copy->predict(images(2)), before));
  tensor(model, "a.weight").zero_();
  EXPECT_TRUE(at::equal(copy->predict(images(2)), before));
  EXPECT_EQ(model->predict(images(2)).abs().max().item<float>(), 0);
}

TEST_F(Scripts, AreAveragedAndSwapped) {
  const auto model = build(normed());
  const auto module = as_module(model);
  CosineEMA average(module, CosineEMAOptions().momentum(0.5).end_momentum(0.5).max_iters(4));
  average.update_parameters(module);
  const torch::NoGradGuard no_grad;
  const at::Tensor weight = tensor(model, "fc.weight"), raw = weight + 2;
  const at::Tensor averaged = weight + 1;
  weight.add_(2);
  model->predict(images(3));
  average.update_parameters(module);
  module->eval();
  const at::Tensor of_raw = model->predict(images(2));
  {
    const auto guard = average.swap(module);
    EXPECT_TRUE(at::allclose(tensor(model, "fc.weight"), averaged));
    const at::Tensor of_average = model->predict(images(2));
    EXPECT_FALSE(at::allclose(of_average, of_raw));
    const auto copy = average.module<TorchScript>();  // a copy that runs
    copy->eval();
    EXPECT_TRUE(at::equal(copy->predict(images(2)), of_average));
  }
  EXPECT_TRUE(at::equal(weight, raw));
  EXPECT_TRUE(at::equal(model->predict(images(2)), of_raw));
}

TEST_F(Scripts, GiveThePlainMeanOfStatisticsWhenAsked) {
  const auto model = build(normed());
  const auto module = as_module(model);
  RunningStatistics* layer = nullptr;
  for (const auto& part : module->modules(/*include_self=*/false)) {
    if (auto* found = dynamic_cast<RunningStatistics*>(part.get())) layer = found;
  }
  ASSERT_NE(layer, nullptr);
  const torch::NoGradGuard no_grad;
  model->predict(images(5));
  layer->begin_mean();
  at::Tensor mean = at::zeros({4}), var = at::zeros({4});
  for (int64_t i = 0; i < 3; ++i) {
    const at::Tensor batch = images(5, 7 * i);
    model->predict(batch);
    mean += batch.flatten(1).mean(0) / 3;
    var += batch.flatten(1).var(0) / 3;
  }
  layer->end_mean();
  EXPECT_TRUE(at::allclose(tensor(model, "norm.running_mean"), mean, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(tensor(model, "norm.running_var"), var, 1e-5, 1e-6));
  EXPECT_EQ(tensor(model, "norm.num_batches_tracked").item<int64_t>(), 1);
  model->predict(images(5));
  EXPECT_TRUE(at::allclose(tensor(model, "norm.running_mean"),
                           0.75 * mean + 0.25 * images(5).flatten(1).mean(0), 1e-5, 1e-6));
}

TEST_F(Scripts, ALayerInEvalModeComputesWithItsStatisticsAndKeepsThem) {
  const auto model = build(normed());
  const auto module = as_module(model);
  const torch::NoGradGuard no_grad;
  model->predict(images(5));
  module->eval();
  const at::Tensor wanted = model->predict(images(2));
  const at::Tensor mean = tensor(model, "norm.running_mean").clone();
  module->train();
  for (const auto& part : module->modules(/*include_self=*/false)) {
    auto* layer = dynamic_cast<RunningStatistics*>(part.get());
    if (!layer) continue;
    part->eval();  // this one alone
    layer->begin_mean();
    EXPECT_TRUE(at::equal(model->predict(images(2)), wanted));
    layer->end_mean();
  }
  EXPECT_TRUE(at::equal(tensor(model, "norm.running_mean"), mean));
  EXPECT_TRUE(module->is_training());
}

TEST_F(Scripts, StatisticsOfALayerThatNoPassReachesStay) {
  torch::jit::Module net = linear();
  net.register_module("beside", norm());
  const auto model = build(net);
  const torch::NoGradGuard no_grad;
  tensor(model, "beside.running_mean").fill_(3);
  for (const auto& part : as_module(model)->modules(/*include_self=*/false)) {
    auto* layer = dynamic_cast<RunningStatistics*>(part.get());
    if (!layer) continue;
    layer->begin_mean();
    model->predict(images(2));
    layer->end_mean();
  }
  EXPECT_EQ(tensor(model, "beside.running_mean")[0].item<float>(), 3);
  EXPECT_EQ(tensor(model, "beside.running_var")[0].item<float>(), 1);
}

TEST_F(Scripts, CopiesKeepTheModeOfEachLayer) {
  torch::jit::Module net = normed();
  net.attr("norm").toModule().eval();
  const auto module = as_module(build(net));
  EXPECT_TRUE(module->is_training());
  EXPECT_FALSE(module->named_modules()["norm"]->is_training());
  EXPECT_FALSE(module->clone()->named_modules()["norm"]->is_training());
}

TEST_F(Scripts, GiveTheSameBitsInEveryCall) {
  // TorchScript's optimiser would differentiate these in a way of its own from the second call on.
  const auto model = build(linear(R"(
def forward(self, x):
  x = torch.gelu(torch.matmul(x.flatten(1), self.weight.t()))
  x = torch.tanh(x * torch.sigmoid(x) + 0.3 * x) / (1.0 + x * x)
  return torch.softmax(torch.silu(x), 1)
)"));
  const at::Tensor weight = tensor(model, "weight");
  at::Tensor first;
  for (int call = 0; call < 4; ++call) {
    (model->predict(images(64)) * images(48).view({64, 3})).sum().backward();
    if (call == 0) first = weight.grad();
    EXPECT_TRUE(at::equal(weight.grad(), first)) << call;
    weight.mutable_grad() = at::Tensor();
  }
}

TEST_F(Scripts, APathIsSeenFromTheConfigsFolder) {
  save(linear());
  const auto model = std::dynamic_pointer_cast<TorchScript>(build("net.pt"));
  EXPECT_EQ(model->file(), (folder_ / "net.pt").string());
  Node node = parse_config("{type: TorchScript, loss: {type: CrossEntropyLoss}}", "elsewhere.yaml");
  apply_override(node, "path=no/such.pt");
  EXPECT_THAT(
      [&] {
        catalog_.of<Algorithm>().build(node, {&catalog_, {1, 2, 2}, 3});
      },
      ThrowsMessage<ConfigError>(
          HasSubstr((std::filesystem::current_path() / "no/such.pt: no such file").string())));
}

TEST_F(Scripts, RefuseWhatCannotBeTrainedAtThePlaceThatNamesIt) {
  auto expect = [&](const std::string& path, const char* message) {
    EXPECT_THAT([&] { build(path); }, ThrowsMessage<ConfigError>(AllOf(
                                          HasSubstr("c.yaml:1:21: path: "), HasSubstr(message))));
  };
  expect("missing.pt", "missing.pt: no such file");
  expect(folder_.string(), "is not a file");
  std::ofstream(folder_ / "text.pt") << "hello";
  expect("text.pt", "is not a TorchScript archive; in Python, torch.jit.script");
  Value state = Value::dict();
  state.set("weight", at::ones({3, 4}));
  write_pth((folder_ / "state.pth").string(), state);
  expect("state.pth", "torch.save wrote it");
  save(linear());
  std::filesystem::resize_file(folder_ / "net.pt", 300);
  expect("net.pt", "if it is damaged, export it again");

  torch::jit::Module frozen("Net");
  frozen.define("def forward(self, x):\n  return x.flatten(1)[:, :3]\n");
  expect(save(frozen), "has no parameters");
  expect(save(linear("def forward(self, x, mask):\n  return x * mask\n")),
         "forward takes (x: Tensor, mask: Tensor); it must take one tensor, the images");
  expect(save(linear("def forward(self, x: List[Tensor]):\n  return x[0]\n")),
         "forward takes (x: List[Tensor])");
  expect(save(linear("def forward(self, x):\n  return x, x\n")),
         "forward returns Tuple[Tensor, Tensor]");
  expect(save(linear("def predict(self, x):\n  return x\n")), "has no forward");
  EXPECT_TRUE(
      build(save(linear("def forward(self, x, scale: float = 1.0):\n"
                        "  return torch.matmul(x.flatten(1), self.weight.t()) * scale\n"))));
}

TEST_F(Scripts, SayWhatIsWrongWithLogits) {
  auto expect = [&](const std::string& code, const char* message) {
    const auto model = build(linear("def forward(self, x):\n  return " + code + "\n"));
    EXPECT_THAT([&] { model->predict(images(2)); },
                ThrowsMessage<Error>(AllOf(HasSubstr("net.pt: "), HasSubstr(message))));
  };
  expect("x.flatten(1)", "the shape [2, 4] for 2 images; it must return logits, float [2, 3]");
  expect("torch.matmul(x.flatten(1), self.weight.t()).sum(0, True)", "the shape [1, 3]");
  expect("x", "the shape [2, 1, 2, 2]");
  expect("torch.matmul(x.flatten(1), self.weight.t()).argmax(1, True).expand(2, 3)",
         "a Long tensor");
  expect("torch.matmul(x, self.weight)", "forward failed: RuntimeError: ");
  const std::string features =
      save(linear("def forward(self, x):\n  return x.flatten(1) * self.weight[0]\n"));
  EXPECT_EQ(build(features, ", num_classes: 4")->predict(images(2)).size(1), 4);
  EXPECT_THAT([&] { build(features, ", num_classes: 2"); },
              ThrowsMessage<ConfigError>(HasSubstr("the data has 3 classes")));
  EXPECT_THAT(
      [&] {
        catalog_.of<Algorithm>().build(parse_config("{type: TorchScript, path: net.pt}", "c.yaml"),
                                       {&catalog_, {1, 2, 2}, 3});
      },
      ThrowsMessage<ConfigError>(HasSubstr("loss: is missing")));
}

}  // namespace
}  // namespace polyak
