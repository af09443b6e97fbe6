// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cstdint>
#include <memory>

#include "polyak/config/options.h"
#include "polyak/trainer/network.h"

namespace polyak {

/// Sizes of a vision transformer.
struct TransformerOptions : Options {
  int64_t embed_dims = 384;
  int64_t num_layers = 12;
  int64_t num_heads = 12;
  int64_t feedforward_channels = 1536;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

struct MoCoV3VitOptions : Options {
  Node arch = Node("mocov3-small");
  int64_t patch_size = 16;
  bool stop_grad_conv1 = true;
  void visit(OptionVisitor& visitor) override;
};

/// Multi-head self-attention. Tensors are named `qkv.*` and `proj.*`.
class Attention : public torch::nn::Cloneable<Attention> {
 public:
  Attention(int64_t embed_dims, int64_t num_heads);
  void reset() override;
  /// @param tokens float [N, T, embed_dims], like the result
  at::Tensor forward(const at::Tensor& tokens);

 private:
  int64_t embed_dims_;
  int64_t num_heads_;
  torch::nn::Linear qkv_{nullptr};
  torch::nn::Linear proj_{nullptr};
};

/// Two fully connected layers with GELU between them, named `layers.0.0` and `layers.1`.
class FeedForward : public torch::nn::Cloneable<FeedForward> {
 public:
  FeedForward(int64_t embed_dims, int64_t channels);
  void reset() override;
  at::Tensor forward(const at::Tensor& tokens);

 private:
  int64_t embed_dims_;
  int64_t channels_;
  torch::nn::ModuleList layers_{nullptr};
};

/// Attention `attn` and a FeedForward `ffn`, each with a preceding layer normalisation and a
/// shortcut around both.
class TransformerLayer : public torch::nn::Cloneable<TransformerLayer> {
 public:
  explicit TransformerLayer(TransformerOptions sizes);
  void reset() override;
  /// @param tokens float [N, T, embed_dims], like the result
  at::Tensor forward(const at::Tensor& tokens);

 private:
  TransformerOptions sizes_;
  torch::nn::LayerNorm ln1_{nullptr};
  std::shared_ptr<Attention> attn_;
  torch::nn::LayerNorm ln2_{nullptr};
  std::shared_ptr<FeedForward> ffn_;
};

/// Splits images into patches and maps each to a token, by the convolution `projection`.
class PatchEmbedding : public torch::nn::Cloneable<PatchEmbedding> {
 public:
  PatchEmbedding(int64_t channels, int64_t patch_size, int64_t embed_dims, bool frozen);
  void reset() override;
  /// @param images float [N, C, H, W]
  /// @return float [N, patches, embed_dims]
  at::Tensor forward(const at::Tensor& images);

 private:
  int64_t channels_;
  int64_t patch_size_;
  int64_t embed_dims_;
  bool frozen_;
  torch::nn::Conv2d projection_{nullptr};
};

/// The vision transformer of MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057): a fixed
/// two-dimensional sine-cosine position embedding, a frozen patch embedding (`stop_grad_conv1`),
/// and the class token as feature. Tensors are named as in mmpretrain's MoCoV3ViT.
class MoCoV3Vit : public torch::nn::Cloneable<MoCoV3Vit>, public Backbone {
 public:
  /// @throws ConfigError if the image size is not a multiple of patch_size, or a size is invalid
  MoCoV3Vit(const MoCoV3VitOptions& options, ImageShape image);
  void reset() override;
  at::Tensor forward(const at::Tensor& images) override;
  int64_t features() const override { return sizes_.embed_dims; }

 private:
  TransformerOptions sizes_;
  int64_t patch_size_;
  bool stop_grad_conv1_;
  ImageShape image_;
  at::Tensor cls_token_;
  at::Tensor pos_embed_;
  std::shared_ptr<PatchEmbedding> patch_embed_;
  torch::nn::Sequential layers_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};

}  // namespace polyak
