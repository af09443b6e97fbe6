#include "polyak/trainer/backbones.h"

#include <ATen/ops/dropout.h>
#include <torch/nn/init.h>

#include <string>
#include <utility>

namespace polyak {
namespace {

void require_positive(const std::vector<int64_t>& sizes, const char* key) {
  if (sizes.empty()) fail<ConfigError>("{}: needs at least one entry", key);
  for (int64_t size : sizes) {
    if (size < 1) fail<ConfigError>("{}: every entry must be at least 1, got {}", key, size);
  }
}

/// A 3x3 or 1x1 convolution that keeps the size at stride 1, without bias: a normalisation follows.
torch::nn::Conv2d make_conv(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

/// As torchvision and mmpretrain initialise residual networks.
torch::nn::Conv2d make_he_conv(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  torch::nn::Conv2d conv = make_conv(in, out, kernel, stride);
  torch::nn::init::kaiming_normal_(conv->weight, 0, torch::kFanOut, torch::kReLU);
  return conv;
}

int64_t halved(int64_t size, size_t times) {
  for (size_t i = 0; i < times; ++i) size = (size + 1) / 2;
  return size;
}

}  // namespace

void SmallCnnOptions::visit(OptionVisitor& visitor) {
  visitor.key("channels", &channels,
              "Channels of each stage; every stage halves height and width.");
}

void SmallCnnOptions::validate() const {
  require_positive(channels, "channels");
}

SmallCnn::SmallCnn(SmallCnnOptions options, ImageShape image)
    : options_(std::move(options)), image_(image) {
  check_options(options_, "SmallCNN");
  reset();
}

void SmallCnn::reset() {
  convs_.clear();
  norms_.clear();
  int64_t in = image_.channels;
  for (int64_t out : options_.channels) {
    const std::string number = std::to_string(convs_.size() + 1);
    convs_.push_back(register_module("conv" + number, make_conv(in, out, 3, 2)));
    norms_.push_back(register_module("bn" + number, torch::nn::BatchNorm2d(out)));
    in = out;
  }
}

at::Tensor SmallCnn::forward(const at::Tensor& images) {
  at::Tensor x = images;
  for (size_t i = 0; i < convs_.size(); ++i) x = norms_[i](convs_[i](x)).relu_();
  return x.flatten(1);
}

int64_t SmallCnn::features() const {
  const size_t stages = options_.channels.size();
  return options_.channels.back() * halved(image_.height, stages) * halved(image_.width, stages);
}

void MlpOptions::visit(OptionVisitor& visitor) {
  visitor.key("hidden", &hidden, "Width of each layer.");
  visitor.key("dropout", &dropout,
              "Share of activations that are zeroed after each layer in training.",
              Bounds{0.0, 1.0, false, true});
}

void MlpOptions::validate() const {
  require_positive(hidden, "hidden");
}

Mlp::Mlp(MlpOptions options, ImageShape image) : options_(std::move(options)), image_(image) {
  check_options(options_, "MLP");
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
    // Without dropout no random number is drawn.
    if (options_.dropout > 0) x = at::dropout(x, options_.dropout, is_training());
  }
  return x;
}

void ResNetCifarOptions::visit(OptionVisitor& visitor) {
  visitor.key("depth", &depth, "Layers: 18 (two blocks a stage) or 34.", closed_interval(18, 34));
  visitor.key("base_channels", &base_channels,
              "Channels of the first stage; each stage doubles them.", at_least(1));
}

void ResNetCifarOptions::validate() const {
  if (depth != 18 && depth != 34) fail<ConfigError>("depth: must be 18 or 34, got {}", depth);
}

BasicBlock::BasicBlock(int64_t in_channels, int64_t channels, int64_t stride)
    : in_channels_(in_channels), channels_(channels), stride_(stride) {
  BasicBlock::reset();
}

void BasicBlock::reset() {
  conv1_ = register_module("conv1", make_he_conv(in_channels_, channels_, 3, stride_));
  bn1_ = register_module("bn1", torch::nn::BatchNorm2d(channels_));
  conv2_ = register_module("conv2", make_he_conv(channels_, channels_, 3, 1));
  bn2_ = register_module("bn2", torch::nn::BatchNorm2d(channels_));
  if (stride_ == 1 && in_channels_ == channels_) return;
  downsample_ = register_module(
      "downsample", torch::nn::Sequential(make_he_conv(in_channels_, channels_, 1, stride_),
                                          torch::nn::BatchNorm2d(channels_)));
}

at::Tensor BasicBlock::forward(const at::Tensor& images) {
  at::Tensor x = bn1_(conv1_(images)).relu_();
  x = bn2_(conv2_(x));
  x += downsample_ ? downsample_->forward(images) : images;
  return x.relu_();
}

ResNetCifar::ResNetCifar(ResNetCifarOptions options, ImageShape image)
    : options_(std::move(options)), image_(image) {
  check_options(options_, "ResNet_CIFAR");
  reset();
}

void ResNetCifar::reset() {
  const std::vector<int64_t> blocks_of_stage =
      options_.depth == 18 ? std::vector<int64_t>{2, 2, 2, 2} : std::vector<int64_t>{3, 4, 6, 3};
  int64_t in = options_.base_channels;
  conv1_ = register_module("conv1", make_he_conv(image_.channels, in, 3, 1));
  bn1_ = register_module("bn1", torch::nn::BatchNorm2d(in));
  layers_.clear();
  for (size_t stage = 0; stage < blocks_of_stage.size(); ++stage) {
    const int64_t channels = options_.base_channels << stage;
    torch::nn::Sequential layer;
    for (int64_t block = 0; block < blocks_of_stage[stage]; ++block) {
      const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      layer->push_back(std::make_shared<BasicBlock>(in, channels, stride));
      in = channels;
    }
    layers_.push_back(register_module("layer" + std::to_string(stage + 1), layer));
  }
}

at::Tensor ResNetCifar::forward(const at::Tensor& images) {
  at::Tensor x = bn1_(conv1_(images)).relu_();
  for (torch::nn::Sequential& layer : layers_) x = layer->forward(x);
  return x.mean({2, 3});
}

}  // namespace polyak
