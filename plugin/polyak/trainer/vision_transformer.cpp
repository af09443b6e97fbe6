// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/vision_transformer.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/activation.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <utility>

#include "polyak/core/error.h"

namespace polyak {
namespace {

struct Architecture {
  const char* name;
  int64_t embed_dims;
  int64_t num_layers;
  int64_t num_heads;
};
constexpr Architecture kArchitectures[] = {
    {"mocov3-small", 384, 12, 12},
    {"mocov3-base", 768, 12, 12},
    {"mocov3-large", 1024, 24, 16},
};

TransformerOptions sizes_of(const Node& arch) {
  TransformerOptions sizes;
  if (arch.is_mapping()) {
    read_options(arch, sizes, "arch");
    return sizes;
  }
  const std::string name = arch.as_string();
  for (const Architecture& known : kArchitectures) {
    if (name != known.name) continue;
    sizes.embed_dims = known.embed_dims;
    sizes.num_layers = known.num_layers;
    sizes.num_heads = known.num_heads;
    sizes.feedforward_channels = 4 * known.embed_dims;
    return sizes;
  }
  arch.fail(fmt::format(
      "'{}' is not known; it must be mocov3-small, mocov3-base, mocov3-large, or a mapping of "
      "embed_dims, num_layers, num_heads and feedforward_channels",
      name));
}

torch::nn::LayerNorm make_norm(int64_t size) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({size}).eps(1e-6));
}

/// A fully connected layer with weights in plus or minus sqrt(6 / (inputs + outputs)). If it
/// combines several layers, `out_of_each` is the outputs of one of them.
torch::nn::Linear make_linear(int64_t in, int64_t out, int64_t out_of_each) {
  torch::nn::Linear linear(in, out);
  const double bound = std::sqrt(6.0 / static_cast<double>(in + out_of_each));
  torch::nn::init::uniform_(linear->weight, -bound, bound);
  torch::nn::init::zeros_(linear->bias);
  return linear;
}

/// [1, 1 + rows * columns, size]: zeros for the class token; then for each patch sine and cosine of
/// its row and of its column, a quarter of the values each, at frequencies from 1 to 1e-4. This is
/// the order of the reference's meshgrid, which swaps the names of rows and columns.
at::Tensor position_embedding(int64_t rows, int64_t columns, int64_t size) {
  const int64_t quarter = size / 4;
  const at::Tensor frequency =
      at::pow(10000.0, -at::arange(quarter, at::kDouble) / static_cast<double>(quarter));
  const at::Tensor column = at::arange(columns, at::kDouble).repeat({rows});
  const at::Tensor row = at::arange(rows, at::kDouble).repeat_interleave(columns);
  const at::Tensor at_column = at::outer(column, frequency), at_row = at::outer(row, frequency);
  const at::Tensor patches =
      at::cat({at_row.sin(), at_row.cos(), at_column.sin(), at_column.cos()}, 1);
  return at::cat({at::zeros({1, size}, at::kDouble), patches}).unsqueeze(0).to(at::kFloat);
}

}  // namespace

void TransformerOptions::visit(OptionVisitor& visitor) {
  visitor.key("embed_dims", &embed_dims, "Width of a token.", closed_interval(4, kMostChannels));
  visitor.key("num_layers", &num_layers, "Number of layers.", closed_interval(1, kMostLayers));
  visitor.key("num_heads", &num_heads, "Number of attention heads.",
              closed_interval(1, kMostChannels));
  visitor.key("feedforward_channels", &feedforward_channels,
              "Width between the two fully connected layers.", closed_interval(1, kWidestLayer));
}

void TransformerOptions::validate() const {
  if (embed_dims % num_heads != 0) {
    fail_option("embed_dims", "must be a multiple of num_heads, {}; got {}", num_heads, embed_dims);
  }
  if (embed_dims % 4 != 0) {
    fail_option("embed_dims", "must be a multiple of 4, for the position embedding; got {}",
                embed_dims);
  }
}

Attention::Attention(int64_t embed_dims, int64_t num_heads)
    : embed_dims_(embed_dims), num_heads_(num_heads) {
  Attention::reset();
}

void Attention::reset() {
  qkv_ = register_module("qkv", make_linear(embed_dims_, 3 * embed_dims_, embed_dims_));
  proj_ = register_module("proj", make_linear(embed_dims_, embed_dims_, embed_dims_));
}

at::Tensor Attention::forward(const at::Tensor& tokens) {
  const int64_t images = tokens.size(0), count = tokens.size(1), head = embed_dims_ / num_heads_;
  const at::Tensor qkv =
      qkv_(tokens).view({images, count, 3, num_heads_, head}).permute({2, 0, 3, 1, 4});
  const at::Tensor query = qkv[0] / std::sqrt(static_cast<double>(head));
  const at::Tensor weights = query.matmul(qkv[1].transpose(2, 3)).softmax(-1);
  return proj_(weights.matmul(qkv[2]).transpose(1, 2).reshape({images, count, embed_dims_}));
}

FeedForward::FeedForward(int64_t embed_dims, int64_t channels)
    : embed_dims_(embed_dims), channels_(channels) {
  FeedForward::reset();
}

void FeedForward::reset() {
  torch::nn::ModuleList layers;
  layers->push_back(
      torch::nn::Sequential(make_linear(embed_dims_, channels_, channels_), torch::nn::GELU())
          .ptr());
  layers->push_back(make_linear(channels_, embed_dims_, embed_dims_).ptr());
  layers_ = register_module("layers", layers);
}

at::Tensor FeedForward::forward(const at::Tensor& tokens) {
  const at::Tensor wide = layers_[0]->as<torch::nn::Sequential>()->forward(tokens);
  return layers_[1]->as<torch::nn::Linear>()->forward(wide);
}

TransformerLayer::TransformerLayer(TransformerOptions sizes) : sizes_(std::move(sizes)) {
  TransformerLayer::reset();
}

void TransformerLayer::reset() {
  ln1_ = register_module("ln1", make_norm(sizes_.embed_dims));
  attn_ = register_module("attn", std::make_shared<Attention>(sizes_.embed_dims, sizes_.num_heads));
  ln2_ = register_module("ln2", make_norm(sizes_.embed_dims));
  ffn_ = register_module(
      "ffn", std::make_shared<FeedForward>(sizes_.embed_dims, sizes_.feedforward_channels));
}

at::Tensor TransformerLayer::forward(const at::Tensor& tokens) {
  const at::Tensor x = tokens + attn_->forward(ln1_(tokens));
  return x + ffn_->forward(ln2_(x));
}

PatchEmbedding::PatchEmbedding(int64_t channels, int64_t patch_size, int64_t embed_dims,
                               bool frozen)
    : channels_(channels), patch_size_(patch_size), embed_dims_(embed_dims), frozen_(frozen) {
  PatchEmbedding::reset();
}

void PatchEmbedding::reset() {
  const auto options =
      torch::nn::Conv2dOptions(channels_, embed_dims_, patch_size_).stride(patch_size_);
  projection_ = register_module("projection", torch::nn::Conv2d(options));
  const double bound =
      std::sqrt(6.0 / static_cast<double>(channels_ * patch_size_ * patch_size_ + embed_dims_));
  torch::nn::init::uniform_(projection_->weight, -bound, bound);
  torch::nn::init::zeros_(projection_->bias);
}

at::Tensor PatchEmbedding::forward(const at::Tensor& images) {
  const at::AutoGradMode gradients(at::GradMode::is_enabled() && !frozen_);
  return projection_(images).flatten(2).transpose(1, 2);
}

void MoCoV3VitOptions::visit(OptionVisitor& visitor) {
  visitor.key("arch", &arch,
              "mocov3-small, mocov3-base, mocov3-large, or a mapping of embed_dims, num_layers, "
              "num_heads and feedforward_channels.");
  visitor.key("patch_size", &patch_size, "Height and width of a patch.",
              closed_interval(1, kLargestSide));
  visitor.key("stop_grad_conv1", &stop_grad_conv1, "Whether the patch embedding is frozen.");
}

MoCoV3Vit::MoCoV3Vit(const MoCoV3VitOptions& options, ImageShape image)
    : sizes_(sizes_of(options.arch)),
      patch_size_(options.patch_size),
      stop_grad_conv1_(options.stop_grad_conv1),
      image_(image) {
  check_options(options, "MoCoV3ViT");
  if (image_.height % patch_size_ != 0 || image_.width % patch_size_ != 0) {
    fail<ConfigError>("MoCoV3ViT: images of {} x {} are not a multiple of patch_size, {}",
                      image_.height, image_.width, patch_size_);
  }
  const auto width = static_cast<double>(sizes_.embed_dims);
  const auto patch = static_cast<double>(patch_size_ * patch_size_);
  const auto patches = static_cast<double>(image_.height * image_.width) / patch;
  check_parameters(width * (static_cast<double>(sizes_.num_layers) *
                                (4 * width + 2 * static_cast<double>(sizes_.feedforward_channels)) +
                            static_cast<double>(image_.channels) * patch + patches),
                   "embed_dims, num_layers, feedforward_channels and patch_size");
  MoCoV3Vit::reset();
}

void MoCoV3Vit::reset() {
  const int64_t size = sizes_.embed_dims;
  cls_token_ = register_parameter("cls_token", at::randn({1, 1, size}) * 1e-6);
  pos_embed_ = register_parameter(
      "pos_embed",
      position_embedding(image_.height / patch_size_, image_.width / patch_size_, size),
      /*requires_grad=*/false);
  patch_embed_ = register_module(
      "patch_embed",
      std::make_shared<PatchEmbedding>(image_.channels, patch_size_, size, stop_grad_conv1_));
  torch::nn::Sequential layers;
  for (int64_t i = 0; i < sizes_.num_layers; ++i) {
    layers->push_back(std::make_shared<TransformerLayer>(sizes_));
  }
  layers_ = register_module("layers", layers);
  norm_ = register_module("ln1", make_norm(size));
}

at::Tensor MoCoV3Vit::forward(const at::Tensor& images) {
  const at::Tensor patches = patch_embed_->forward(images);
  const at::Tensor class_token = cls_token_.expand({images.size(0), -1, -1});
  const at::Tensor tokens = at::cat({class_token, patches}, 1) + pos_embed_;
  return norm_(layers_->forward(tokens)).select(1, 0);
}

}  // namespace polyak
