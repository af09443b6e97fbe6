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
#include <string>
#include <utility>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/runtime/unseen_sizes.h"
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

struct VisionTransformerOptions : Options {
  Node arch = Node("base");
  int64_t patch_size = 16;
  bool qkv_bias = true;
  void visit(OptionVisitor& visitor) override;
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
  /// @param qkv_bias whether `qkv` has a bias
  Attention(int64_t embed_dims, int64_t num_heads, bool qkv_bias = true);
  void reset() override;
  /// @param tokens float [N, T, embed_dims], like the result
  at::Tensor forward(const at::Tensor& tokens);

 private:
  int64_t embed_dims_;
  int64_t num_heads_;
  bool qkv_bias_;
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
  /// @param qkv_bias of Attention
  explicit TransformerLayer(TransformerOptions sizes, bool qkv_bias = true);
  void reset() override;
  /// @param tokens float [N, T, embed_dims], like the result
  at::Tensor forward(const at::Tensor& tokens);

 private:
  TransformerOptions sizes_;
  bool qkv_bias_;
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

/// A vision transformer with a class token, which is the feature after the last normalisation
/// (epsilon 1e-6). It is made in two forms:
/// - Dosovitskiy et al. 2021, arXiv:2010.11929: a learned position embedding. Tensors are named as
///   in mmpretrain's VisionTransformer, and initialised as there, with the values of its configs
///   (vit-base-p16) for the patch embedding; dropout and stochastic depth are not supported.
/// - MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057): a fixed two-dimensional sine-cosine position
///   embedding and a frozen patch embedding (`stop_grad_conv1`). Tensors are named as in
///   mmpretrain's MoCoV3ViT.
class VisionTransformer : public torch::nn::Cloneable<VisionTransformer>,
                          public Backbone,
                          public UnseenSizes {
 public:
  /// @throws ConfigError if the image size is not a multiple of patch_size, or a size is invalid
  VisionTransformer(const VisionTransformerOptions& options, ImageShape image);
  VisionTransformer(const MoCoV3VitOptions& options, ImageShape image);
  void reset() override;
  at::Tensor forward(const at::Tensor& images) override;
  int64_t features() const override { return form_.sizes.embed_dims; }
  /// `num_heads`.
  std::vector<std::pair<std::string, int64_t>> unseen_sizes() const override;

 private:
  struct Form {
    TransformerOptions sizes;
    int64_t patch_size = 16;
    bool learned_positions = false;  // else sines and cosines
    bool frozen_patches = false;
    bool qkv_bias = true;
  };
  static Form form_of(const VisionTransformerOptions& options);
  static Form form_of(const MoCoV3VitOptions& options);
  VisionTransformer(const char* owner, Form form, ImageShape image);
  void initialize_as_mmpretrain();

  Form form_;
  ImageShape image_;
  at::Tensor cls_token_;
  at::Tensor pos_embed_;
  std::shared_ptr<PatchEmbedding> patch_embed_;
  torch::nn::Sequential layers_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};

}  // namespace polyak
