// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <optional>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/sync_batch_norm.h"

namespace polyak {

struct SmallCnnOptions : Options {
  std::vector<int64_t> channels = {32, 64};
  bool with_avg_pool = false;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// A small convolutional network for images of 28 to 32 pixels: one stage per entry of `channels`,
/// each a 3x3 convolution of stride 2, batch normalisation and ReLU; the features are the last map,
/// flattened or averaged over height and width. It uses strides instead of pooling, which is
/// several times faster on a CPU at equal accuracy.
class SmallCnn : public torch::nn::Cloneable<SmallCnn>, public Backbone {
 public:
  SmallCnn(SmallCnnOptions options, ImageShape image);
  void reset() override;
  at::Tensor forward(const at::Tensor& images) override;
  int64_t features() const override;

 private:
  SmallCnnOptions options_;
  ImageShape image_;
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<SyncBatchNorm2d> norms_;
};

struct MlpOptions : Options {
  std::vector<int64_t> hidden = {256};
  double dropout = 0.0;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Fully connected layers over the flattened image, each followed by ReLU and dropout.
class Mlp : public torch::nn::Cloneable<Mlp>, public Backbone {
 public:
  Mlp(MlpOptions options, ImageShape image);
  void reset() override;
  at::Tensor forward(const at::Tensor& images) override;
  int64_t features() const override { return options_.hidden.back(); }

 private:
  MlpOptions options_;
  ImageShape image_;
  std::vector<torch::nn::Linear> layers_;
};

struct ResNetOptions : Options {
  int64_t depth = 18;
  int64_t base_channels = 64;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Two 3x3 convolutions with a shortcut around them (He et al. 2016, "Deep Residual Learning"), or,
/// as a bottleneck, a 3x3 convolution between two 1x1 ones, the last with four times the channels.
/// The first 3x3 convolution has the stride, as in torchvision.
class ResidualBlock : public torch::nn::Cloneable<ResidualBlock> {
 public:
  struct Form {
    int64_t in_channels;
    int64_t channels;  // of the 3x3 convolution
    int64_t stride;
    bool bottleneck;
    int64_t out_channels() const { return bottleneck ? 4 * channels : channels; }
  };
  explicit ResidualBlock(Form form);
  void reset() override;
  at::Tensor forward(const at::Tensor& images);

 private:
  Form form_;
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<SyncBatchNorm2d> norms_;
  torch::nn::Sequential downsample_{nullptr};  // empty if the shortcut is the identity
};

/// ResNet, with global average pooling after its four stages. Tensors are named as in mmpretrain
/// and torchvision.
class ResNet : public torch::nn::Cloneable<ResNet>, public Backbone {
 public:
  enum class Stem {
    imagenet,  // a 7x7 convolution and max pooling, each with stride 2
    cifar,     // one 3x3 convolution with stride 1
  };
  ResNet(ResNetOptions options, Stem stem, ImageShape image);
  void reset() override;
  at::Tensor forward(const at::Tensor& images) override;
  int64_t features() const override;

 private:
  ResNetOptions options_;
  Stem stem_;
  ImageShape image_;
  torch::nn::Conv2d conv1_{nullptr};
  SyncBatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> layers_;
};

}  // namespace polyak
