// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/activation.h>
#include <torch/utils.h>

#include <cmath>

#include "polyak/averaging/model.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/metrics.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/vision_transformer.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Models : public ::testing::TestWithParam<const char*> {
 protected:
  Models() { register_trainer(catalog_); }
  std::shared_ptr<Algorithm> make(const std::string& backbone, ImageShape image = {3, 16, 16}) {
    const std::string text = "{type: ImageClassifier, backbone: " + backbone +
                             ", head: {type: LinearClsHead, num_classes: 10}}";
    return catalog_.of<Algorithm>().build(parse_config(text), {&catalog_, image, 10});
  }
  Catalog catalog_;
};

TEST_P(Models, TrainsAndIsCopiedWhole) {
  const auto model = make(GetParam());
  const auto module = as_module(model);
  const at::Tensor images = at::rand({4, 3, 16, 16});
  model->loss({{images}, at::arange(4)}).at("loss").backward();
  for (const at::Tensor& parameter : module->parameters()) EXPECT_TRUE(parameter.grad().defined());

  const auto copy = std::dynamic_pointer_cast<Algorithm>(module->clone());
  ASSERT_TRUE(copy);
  const auto copied_module = as_module(copy);
  module->eval();
  copied_module->eval();
  const torch::NoGradGuard no_grad;
  const at::Tensor before = model->predict(images);
  EXPECT_EQ(before.sizes(), (std::vector<int64_t>{4, 10}));
  EXPECT_TRUE(at::equal(copy->predict(images), before));
  // The copy's forward pass must use the copy's own tensors, all of them.
  for (const at::Tensor& parameter : module->parameters()) parameter.detach().zero_();
  EXPECT_TRUE(at::equal(copy->predict(images), before));
  const auto names = ModelRef(module).tensors(), copied = ModelRef(copied_module).tensors();
  ASSERT_EQ(names.size(), copied.size());
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(names[i].name, copied[i].name);
  for (const at::Tensor& parameter : copied_module->parameters()) parameter.detach().zero_();
  EXPECT_FALSE(at::equal(copy->predict(images), before));
}

INSTANTIATE_TEST_SUITE_P(Backbones, Models,
                         ::testing::Values("{type: SmallCNN, channels: [4, 8]}",
                                           "{type: SmallCNN, channels: [8], with_avg_pool: true}",
                                           "{type: ResNet_CIFAR, depth: 18, base_channels: 4}",
                                           "{type: ResNet_CIFAR, depth: 34, base_channels: 2}",
                                           "{type: ResNet, depth: 18, base_channels: 4}",
                                           "{type: ResNet, depth: 50, base_channels: 2}",
                                           "{type: VisionTransformer, patch_size: 8, arch:"
                                           " {embed_dims: 6, num_layers: 2, num_heads: 3,"
                                           " feedforward_channels: 8}}",
                                           "{type: MLP, hidden: [8, 6], dropout: 0.5}"));

TEST_F(Models, ResNetHasMmpretrainsNames) {
  std::vector<std::string> names;
  for (const NamedTensor& item : ModelRef(as_module(make("{type: ResNet_CIFAR}"))).tensors()) {
    names.push_back(item.name);
  }
  EXPECT_EQ(names.front(), "backbone.conv1.weight");
  for (const char* name :
       {"backbone.bn1.running_mean", "backbone.layer1.1.conv2.weight",
        "backbone.layer2.0.downsample.0.weight", "backbone.layer4.0.downsample.1.bias",
        "backbone.layer4.1.bn2.num_batches_tracked", "head.fc.weight"}) {
    EXPECT_THAT(names, Contains(name));
  }
}

TEST_F(Models, RefusesWhatDoesNotFitTogether) {
  EXPECT_THAT([&] { make("{type: ResNet_CIFAR, depth: 20}"); },
              ThrowsMessage<ConfigError>(HasSubstr("18, 34, 50")));
  EXPECT_THAT([&] { make("{type: SmallCNN, channels: []}"); },
              ThrowsMessage<ConfigError>(HasSubstr("at least one entry")));
  const Node head = parse_config("{type: LinearClsHead, in_channels: 5}");
  EXPECT_THAT(
      [&] {
        catalog_.of<Head>().build(head, {&catalog_, 8, 10});
      },
      ThrowsMessage<ConfigError>(HasSubstr("gives 8 features")));
  const Node few = parse_config("{type: LinearClsHead, num_classes: 5}");
  EXPECT_THAT(
      [&] {
        catalog_.of<Head>().build(few, {&catalog_, 8, 10});
      },
      ThrowsMessage<ConfigError>(HasSubstr("the data has 10 classes")));
}

TEST_F(Models, LabelSmoothingSpreadsTheTarget) {
  const auto loss =
      catalog_.of<Loss>().build(parse_config("{type: LabelSmoothLoss, label_smooth_val: 0.2}"), {});
  const at::Tensor logits = at::randn({3, 4}, at::kDouble);
  const at::Tensor labels = at::tensor(std::vector<int64_t>{1, 0, 3});
  const at::Tensor target = at::one_hot(labels, 4).to(at::kDouble) * 0.8 + 0.2 / 4;
  const at::Tensor expected = -(target * logits.log_softmax(1)).sum(1).mean();
  EXPECT_NEAR(loss->compute(logits, labels).item<double>(), expected.item<double>(), 1e-12);
}

TEST_F(Models, AccuracyCountsTheLargestLogits) {
  auto make_metric = [&](const std::string& text) {
    return catalog_.of<Metric>().build(parse_config(text), {4, &catalog_, 0, nullptr});
  };
  const at::Tensor logits =
      at::tensor(std::vector<float>{4, 3, 2, 1, 4, 3, 2, 1, 1, 2, 3, 4, 1, 2, 3, 4}).view({4, 4});
  const at::Tensor labels = at::tensor(std::vector<int64_t>{0, 1, 2, 0});
  const auto one = make_metric("{type: Accuracy}");
  one->add(logits, labels);
  EXPECT_EQ(one->compute(), (Scalars{{"accuracy", 25.0}}));
  const auto two = make_metric("{type: Accuracy, topk: [1, 2]}");
  two->add(logits.slice(0, 0, 1), labels.slice(0, 0, 1));
  two->reset();
  two->add(logits.slice(0, 0, 3), labels.slice(0, 0, 3));
  two->add(logits.slice(0, 3), labels.slice(0, 3));
  EXPECT_EQ(two->compute(), (Scalars{{"accuracy/top1", 25.0}, {"accuracy/top2", 75.0}}));
  EXPECT_THAT([&] { make_metric("{type: Accuracy, topk: [1, 5]}"); },
              ThrowsMessage<ConfigError>(HasSubstr("number of classes, 4")));
}

TEST_F(Models, AccuracyLeavesOutSamplesWithoutALabel) {
  const auto metric =
      catalog_.of<Metric>().build(parse_config("{type: Accuracy}"), {2, &catalog_, 0, nullptr});
  const at::Tensor logits = at::tensor({1.0, 0.0, 1.0, 0.0, 1.0, 0.0}).view({3, 2});
  metric->add(logits, at::tensor({0, -1, 1}, at::kLong));
  EXPECT_EQ(metric->compute().at("accuracy"), 50);
  metric->add(logits, at::full({3}, -1, at::kLong));
  EXPECT_EQ(metric->compute().at("accuracy"), 50);
}

TEST_F(Models, AFrozenBackboneKeepsWeightsAndStatisticsInCopiesToo) {
  const auto model = catalog_.of<Algorithm>().build(
      parse_config("{type: ImageClassifier, freeze_backbone: true, backbone: {type: SmallCNN,"
                   " channels: [4]}, head: {type: LinearClsHead}}"),
      {&catalog_, {1, 8, 8}, 3});
  for (const auto& module : {as_module(model), as_module(model)->clone()}) {
    module->train();
    std::vector<at::Tensor> before;
    for (const NamedTensor& item : ModelRef(module).tensors())
      before.push_back(item.tensor.clone());
    const auto algorithm = std::dynamic_pointer_cast<Algorithm>(module);
    algorithm->loss({{at::rand({6, 1, 8, 8})}, at::arange(6).remainder(3)}).at("loss").backward();
    size_t i = 0;
    for (const NamedTensor& item : ModelRef(module).tensors()) {
      const bool head = item.name.find("head.") == 0;
      EXPECT_EQ(item.tensor.grad().defined(), head) << item.name;
      EXPECT_TRUE(at::equal(item.tensor, before[i++])) << item.name;
    }
  }
}

class Transformers : public Models {
 protected:
  std::shared_ptr<VisionTransformer> make_vit(const std::string& text) {
    return std::dynamic_pointer_cast<VisionTransformer>(
        catalog_.of<Backbone>().build(parse_config(text), {{3, 16, 16}}));
  }
};
const char* const kSmallVit =
    "{type: MoCoV3ViT, patch_size: 4, arch: {embed_dims: 16, num_layers: 2, num_heads: 4,"
    " feedforward_channels: 32}}";

TEST_F(Transformers, TrainAllButThePatchEmbeddingAndPositions) {
  const auto vit = make_vit(kSmallVit);
  const at::Tensor images = at::rand({2, 3, 16, 16});
  const at::Tensor features = vit->forward(images);
  EXPECT_EQ(features.sizes(), (std::vector<int64_t>{2, 16}));
  features.pow(2).sum().backward();
  std::vector<std::string> names;
  for (const auto& item : vit->named_parameters()) {
    const bool frozen = item.key() == "pos_embed" || item.key().find("patch_embed.") == 0;
    EXPECT_EQ(item.value().grad().defined(), !frozen) << item.key();
    names.push_back(item.key());
  }
  for (const char* name :
       {"cls_token", "patch_embed.projection.weight", "layers.1.ln1.weight",
        "layers.1.attn.qkv.bias", "layers.1.attn.proj.weight", "layers.0.ffn.layers.0.0.weight",
        "layers.0.ffn.layers.1.bias", "ln1.bias"}) {
    EXPECT_THAT(names, Contains(name));
  }
  const torch::NoGradGuard no_grad;
  const auto copy = std::dynamic_pointer_cast<VisionTransformer>(vit->clone());
  EXPECT_TRUE(at::equal(copy->forward(images), features));
  for (const at::Tensor& parameter : vit->parameters()) parameter.detach().zero_();
  EXPECT_TRUE(at::equal(copy->forward(images), features));
}

TEST_F(Transformers, WithLearnedPositionsTrainEveryTensor) {
  const auto vit = make_vit(
      "{type: VisionTransformer, patch_size: 4, qkv_bias: false, arch: {embed_dims: 16, num_layers:"
      " 2, num_heads: 2, feedforward_channels: 32}}");
  vit->forward(at::rand({2, 3, 16, 16})).pow(2).sum().backward();
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& item : vit->named_parameters()) {
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
    shapes[item.key()] = item.value().sizes().vec();
  }
  EXPECT_EQ(shapes["pos_embed"], (std::vector<int64_t>{1, 17, 16}));
  EXPECT_EQ(shapes["cls_token"], (std::vector<int64_t>{1, 1, 16}));
  EXPECT_EQ(shapes["patch_embed.projection.weight"], (std::vector<int64_t>{16, 3, 4, 4}));
  EXPECT_EQ(shapes["layers.1.attn.qkv.weight"], (std::vector<int64_t>{48, 16}));
  EXPECT_FALSE(shapes.count("layers.1.attn.qkv.bias"));
  EXPECT_TRUE(shapes.count("layers.1.attn.proj.bias"));
  EXPECT_EQ(vit->unseen_sizes(), (std::vector<std::pair<std::string, int64_t>>{{"num_heads", 2}}));
}

TEST_F(Transformers, WithLearnedPositionsBeginAsMmpretrains) {
  at::manual_seed(1);
  const auto vit = make_vit("{type: VisionTransformer, arch: deit-tiny}");
  const auto tensors = vit->named_parameters();
  const auto deviation = [&](const char* name) { return tensors[name].std().item<double>(); };
  const auto largest = [&](const char* name) { return tensors[name].abs().max().item<double>(); };
  EXPECT_EQ(largest("cls_token"), 0);
  EXPECT_NEAR(deviation("pos_embed"), 0.02, 0.003);
  EXPECT_NEAR(deviation("patch_embed.projection.weight"), 1 / std::sqrt(3 * 16 * 16), 1e-3);
  EXPECT_EQ(largest("patch_embed.projection.bias"), 0);
  EXPECT_NEAR(largest("layers.0.attn.qkv.weight"), 1 / std::sqrt(192), 1e-3);
  EXPECT_NEAR(largest("layers.0.attn.proj.bias"), 1 / std::sqrt(192), 1e-2);
  EXPECT_NEAR(largest("layers.0.ffn.layers.0.0.weight"), std::sqrt(6.0 / (192 + 768)), 1e-3);
  EXPECT_NEAR(deviation("layers.0.ffn.layers.1.bias"), 1e-6, 3e-7);
}

TEST_F(Transformers, HaveMmpretrainsSizes) {
  struct Sizes {
    const char* arch;
    int64_t dims, heads, wide, layers;
  };
  for (const Sizes& sizes : {Sizes{"deit-tiny", 192, 3, 768, 12}, {"small", 768, 8, 2304, 8}}) {
    const auto vit = make_vit(fmt::format("{{type: VisionTransformer, arch: {}}}", sizes.arch));
    EXPECT_EQ(vit->features(), sizes.dims);
    EXPECT_EQ(vit->unseen_sizes().front().second, sizes.heads);
    const auto tensors = vit->named_parameters();
    const auto last = fmt::format("layers.{}.ffn.layers.0.0.weight", sizes.layers - 1);
    ASSERT_TRUE(tensors.contains(last)) << sizes.arch;
    EXPECT_EQ(tensors[last].size(0), sizes.wide);
    EXPECT_FALSE(tensors.contains(fmt::format("layers.{}.ln1.weight", sizes.layers)));
  }
}

TEST_F(Transformers, AttendAsLibTorchsOwnAttention) {
  Attention ours(16, 4);
  torch::nn::MultiheadAttention theirs(16, 4);
  const torch::NoGradGuard no_grad;
  const auto from = ours.named_parameters();
  for (const auto& [name, source] :
       std::map<std::string, std::string>{{"in_proj_weight", "qkv.weight"},
                                          {"in_proj_bias", "qkv.bias"},
                                          {"out_proj.weight", "proj.weight"},
                                          {"out_proj.bias", "proj.bias"}}) {
    theirs->named_parameters()[name].copy_(at::rand_like(from[source]) - 0.5);
    at::Tensor(from[source]).copy_(theirs->named_parameters()[name]);
  }
  const at::Tensor tokens = at::rand({3, 5, 16}), by_token = tokens.transpose(0, 1);
  const at::Tensor wanted = std::get<0>(theirs(by_token, by_token, by_token)).transpose(0, 1);
  EXPECT_TRUE(at::allclose(ours.forward(tokens), wanted, 1e-4, 1e-5));
}

TEST_F(Transformers, PositionsAreSinesOfRowAndColumn) {
  const auto vit = make_vit(kSmallVit);
  const at::Tensor positions = vit->named_parameters()["pos_embed"];
  ASSERT_EQ(positions.sizes(), (std::vector<int64_t>{1, 17, 16}));
  EXPECT_EQ(positions[0][0].abs().sum().item<float>(), 0);
  // The patch in row 2, column 3: frequency 1e4^(-1/4) is the second of each quarter.
  const at::Tensor patch = positions[0][1 + 2 * 4 + 3];
  EXPECT_NEAR(patch[1].item<double>(), std::sin(0.2), 1e-6);
  EXPECT_NEAR(patch[5].item<double>(), std::cos(0.2), 1e-6);
  EXPECT_NEAR(patch[9].item<double>(), std::sin(0.3), 1e-6);
  EXPECT_NEAR(patch[13].item<double>(), std::cos(0.3), 1e-6);
}

TEST_F(Transformers, SizesThatDoNotFitAreRefused) {
  EXPECT_THAT([&] { make_vit("{type: MoCoV3ViT, patch_size: 5, arch: mocov3-small}"); },
              ThrowsMessage<ConfigError>(HasSubstr("not a multiple of patch_size")));
  EXPECT_THAT([&] { make_vit("{type: MoCoV3ViT, arch: mocov3-tiny}"); },
              ThrowsMessage<ConfigError>(HasSubstr("mocov3-small")));
  EXPECT_THAT([&] { make_vit("{type: MoCoV3ViT, arch: {embed_dims: 16, num_heads: 3}}"); },
              ThrowsMessage<ConfigError>(HasSubstr("multiple of num_heads")));
  EXPECT_THAT([&] { make_vit("{type: MoCoV3ViT, arch: {embed_dims: 6, num_heads: 3}}"); },
              ThrowsMessage<ConfigError>(HasSubstr("multiple of 4, for the position embedding")));
  EXPECT_THAT([&] { make_vit("{type: VisionTransformer, arch: mocov3-small}"); },
              ThrowsMessage<ConfigError>(HasSubstr("deit-tiny")));
  EXPECT_THAT([&] { make_vit("{type: VisionTransformer, patch_size: 5}"); },
              ThrowsMessage<ConfigError>(
                  AllOf(HasSubstr("VisionTransformer:"), HasSubstr("multiple of patch_size"))));
  VisionTransformerOptions options;
  options.patch_size = 0;
  EXPECT_THAT(
      [&] {
        VisionTransformer(options, {3, 16, 16});
      },
      ThrowsMessage<ConfigError>(HasSubstr("patch_size")));
}

}  // namespace
}  // namespace polyak
