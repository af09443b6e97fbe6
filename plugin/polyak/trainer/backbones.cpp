// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/backbones.h"

#include <ATen/ops/dropout.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/init.h>

#include <string>
#include <utility>

namespace polyak {
namespace {

void check_count(const std::vector<int64_t>& sizes, const char* key) {
  if (sizes.empty()) fail<ConfigError>("{}: needs at least one entry", key);
  if (sizes.size() > static_cast<size_t>(kMostLayers)) {
    fail<ConfigError>("{}: must have at most {} entries, got {}", key, kMostLayers, sizes.size());
  }
}

/// The number of weights in layers from `in` to the first size, from there to the second, ...
double weights_of(int64_t in, const std::vector<int64_t>& sizes) {
  double weights = 0;
  for (const int64_t out : sizes) {
    weights += static_cast<double>(in) * static_cast<double>(out);
    in = out;
  }
  return weights;
}

/// A 3x3 or 1x1 convolution that keeps the size at stride 1, without a bias, since normalisation
/// follows.
torch::nn::Conv2d make_conv(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

/// Initialised as in torchvision and in mmpretrain's self-supervised configs: the last norm of a
/// block is not zeroed.
torch::nn::Conv2d make_he_conv(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  torch::nn::Conv2d conv = make_conv(in, out, kernel, stride);
  torch::nn::init::kaiming_normal_(conv->weight, 0, torch::kFanOut, torch::kReLU);
  return conv;
}

bool has_bottlenecks(int64_t depth) {
  return depth >= 50;
}

/// Blocks of each stage; empty for an unknown depth.
std::vector<int64_t> stages_of(int64_t depth) {
  switch (depth) {
    case 18:
      return {2, 2, 2, 2};
    case 34:
    case 50:
      return {3, 4, 6, 3};
    case 101:
      return {3, 4, 23, 3};
    case 152:
      return {3, 8, 36, 3};
    default:
      return {};
  }
}

int64_t halved(int64_t size, size_t times) {
  for (size_t i = 0; i < times; ++i) size = (size + 1) / 2;
  return size;
}

}  // namespace

void SmallCnnOptions::visit(OptionVisitor& visitor) {
  visitor.key("channels", &channels, "Channels of each stage; every stage halves height and width.",
              closed_interval(1, kMostChannels));
  visitor.key("with_avg_pool", &with_avg_pool,
              "Average the last feature map over height and width instead of flattening it.");
}

void SmallCnnOptions::validate() const {
  check_count(channels, "channels");
}

SmallCnn::SmallCnn(SmallCnnOptions options, ImageShape image)
    : options_(std::move(options)), image_(image) {
  check_options(options_, "SmallCNN");
  check_parameters(9 * weights_of(image_.channels, options_.channels), "channels");
  reset();
}

void SmallCnn::reset() {
  convs_.clear();
  norms_.clear();
  int64_t in = image_.channels;
  for (int64_t out : options_.channels) {
    const std::string number = std::to_string(convs_.size() + 1);
    convs_.push_back(register_module("conv" + number, make_conv(in, out, 3, 2)));
    norms_.push_back(register_module("bn" + number, SyncBatchNorm2d(out)));
    in = out;
  }
}

at::Tensor SmallCnn::forward(const at::Tensor& images) {
  at::Tensor x = images;
  for (size_t i = 0; i < convs_.size(); ++i) x = norms_[i](convs_[i](x)).relu_();
  return options_.with_avg_pool ? x.mean({2, 3}) : x.flatten(1);
}

int64_t SmallCnn::features() const {
  if (options_.with_avg_pool) return options_.channels.back();
  const size_t stages = options_.channels.size();
  return options_.channels.back() * halved(image_.height, stages) * halved(image_.width, stages);
}

void MlpOptions::visit(OptionVisitor& visitor) {
  visitor.key("hidden", &hidden, "Width of each layer.", closed_interval(1, kWidestLayer));
  visitor.key("dropout", &dropout,
              "Fraction of the activations that is zeroed after each layer in training.",
              Bounds{0.0, 1.0, false, true});
}

void MlpOptions::validate() const {
  check_count(hidden, "hidden");
}

Mlp::Mlp(MlpOptions options, ImageShape image) : options_(std::move(options)), image_(image) {
  check_options(options_, "MLP");
  check_parameters(weights_of(image_.channels * image_.height * image_.width, options_.hidden),
                   "hidden");
  reset();
}

void Mlp::reset() {
  layers_.clear();
  int64_t in = image_.channels * image_.height * image_.width;
  for (int64_t out : options_.hidden) {
    layers_.push_back(
        register_module("fc" + std::to_string(layers_.size() + 1), torch::nn::Linear(in, out)));
    in = out;
  }
}

at::Tensor Mlp::forward(const at::Tensor& images) {
  at::Tensor x = images.flatten(1);
  for (torch::nn::Linear& layer : layers_) {
    x = layer(x).relu_();
    // Draws no random numbers without dropout.
    if (options_.dropout > 0) x = at::dropout(x, options_.dropout, is_training());
  }
  return x;
}

void ResNetOptions::visit(OptionVisitor& visitor) {
  visitor.key("depth", &depth, "Layers: 18, 34, 50, 101 or 152.", closed_interval(18, 152));
  visitor.key("base_channels", &base_channels,
              "Channels of the first stage; each stage doubles them.", closed_interval(1, 256));
}

void ResNetOptions::validate() const {
  if (stages_of(depth).empty()) {
    fail_option("depth", "must be 18, 34, 50, 101 or 152, got {}", depth);
  }
}

ResidualBlock::ResidualBlock(Form form) : form_(form) {
  ResidualBlock::reset();
}

void ResidualBlock::reset() {
  convs_.clear();
  norms_.clear();
  auto add = [&](int64_t in, int64_t out, int64_t kernel, int64_t stride) {
    const std::string number = std::to_string(convs_.size() + 1);
    convs_.push_back(register_module("conv" + number, make_he_conv(in, out, kernel, stride)));
    norms_.push_back(register_module("bn" + number, SyncBatchNorm2d(out)));
  };
  const int64_t in = form_.in_channels, channels = form_.channels, out = form_.out_channels();
  if (form_.bottleneck) {
    add(in, channels, 1, 1);
    add(channels, channels, 3, form_.stride);
    add(channels, out, 1, 1);
  } else {
    add(in, channels, 3, form_.stride);
    add(channels, out, 3, 1);
  }
  if (form_.stride == 1 && in == out) return;
  downsample_ = register_module(
      "downsample",
      torch::nn::Sequential(make_he_conv(in, out, 1, form_.stride), SyncBatchNorm2d(out)));
}

at::Tensor ResidualBlock::forward(const at::Tensor& images) {
  at::Tensor x = images;
  for (size_t i = 0; i < convs_.size(); ++i) {
    if (i > 0) x.relu_();
    x = norms_[i](convs_[i](x));
  }
  x += downsample_ ? downsample_->forward(images) : images;
  return x.relu_();
}

ResNet::ResNet(ResNetOptions options, Stem stem, ImageShape image)
    : options_(std::move(options)), stem_(stem), image_(image) {
  check_options(options_, "ResNet");
  ResNet::reset();
}

void ResNet::reset() {
  int64_t in = options_.base_channels;
  const bool large = stem_ == Stem::imagenet;
  conv1_ = register_module(
      "conv1", make_he_conv(image_.channels, in, large ? 7 : 3, /*stride=*/large ? 2 : 1));
  bn1_ = register_module("bn1", SyncBatchNorm2d(in));
  layers_.clear();
  for (const int64_t blocks : stages_of(options_.depth)) {
    const size_t stage = layers_.size();
    const int64_t channels = options_.base_channels << stage;
    torch::nn::Sequential layer;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      const ResidualBlock::Form form{in, channels, stride, has_bottlenecks(options_.depth)};
      layer->push_back(std::make_shared<ResidualBlock>(form));
      in = form.out_channels();
    }
    layers_.push_back(register_module("layer" + std::to_string(stage + 1), layer));
  }
}

at::Tensor ResNet::forward(const at::Tensor& images) {
  at::Tensor x = bn1_(conv1_(images)).relu_();
  if (stem_ == Stem::imagenet)
    x = at::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
  for (torch::nn::Sequential& layer : layers_) x = layer->forward(x);
  return x.mean({2, 3});
}

int64_t ResNet::features() const {
  return options_.base_channels * 8 * (has_bottlenecks(options_.depth) ? 4 : 1);
}

}  // namespace polyak
