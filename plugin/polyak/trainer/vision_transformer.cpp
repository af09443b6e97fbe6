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
  int64_t feedforward_channels;
};
// mmpretrain's names; its `small` is not DeiT's.
constexpr Architecture kVisionTransformers[] = {
    {"deit-tiny", 192, 12, 3, 768},   {"deit-t", 192, 12, 3, 768},
    {"deit-small", 384, 12, 6, 1536}, {"deit-s", 384, 12, 6, 1536},
    {"deit-base", 768, 12, 12, 3072}, {"deit-b", 768, 12, 12, 3072},
    {"small", 768, 8, 8, 2304},       {"s", 768, 8, 8, 2304},
    {"base", 768, 12, 12, 3072},      {"b", 768, 12, 12, 3072},
    {"large", 1024, 24, 16, 4096},    {"l", 1024, 24, 16, 4096},
    {"huge", 1280, 32, 16, 5120},     {"h", 1280, 32, 16, 5120},
};
constexpr Architecture kMoCoV3Vits[] = {
    {"mocov3-small", 384, 12, 12, 1536},
    {"mocov3-base", 768, 12, 12, 3072},
    {"mocov3-large", 1024, 24, 16, 4096},
};
constexpr const char* kVisionTransformerArchs =
    "deit-tiny, deit-small, deit-base, small, base, large or huge";
constexpr const char* kMoCoV3VitArchs = "mocov3-small, mocov3-base or mocov3-large";

template <size_t N>
TransformerOptions sizes_of(const Node& arch, const Architecture (&architectures)[N],
                            const char* names) {
  TransformerOptions sizes;
  if (arch.is_mapping()) {
    read_options(arch, sizes, "arch");
    return sizes;
  }
  const std::string name = arch.as_string();
  for (const Architecture& known : architectures) {
    if (name != known.name) continue;
    sizes.embed_dims = known.embed_dims;
    sizes.num_layers = known.num_layers;
    sizes.num_heads = known.num_heads;
    sizes.feedforward_channels = known.feedforward_channels;
    return sizes;
  }
  arch.fail(fmt::format(
      "'{}' is not known; it must be {}, or a mapping of embed_dims, num_layers, num_heads and "
      "feedforward_channels",
      name, names));
}

torch::nn::LayerNorm make_norm(int64_t size) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({size}).eps(1e-6));
}

/// A fully connected layer with weights in plus or minus sqrt(6 / (inputs + outputs)). If it
/// combines several layers, `out_of_each` is the outputs of one of them.
torch::nn::Linear make_linear(int64_t in, int64_t out, int64_t out_of_each, bool bias = true) {
  torch::nn::Linear linear(torch::nn::LinearOptions(in, out).bias(bias));
  const double bound = std::sqrt(6.0 / static_cast<double>(in + out_of_each));
  torch::nn::init::uniform_(linear->weight, -bound, bound);
  if (bias) torch::nn::init::zeros_(linear->bias);
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
}

Attention::Attention(int64_t embed_dims, int64_t num_heads, bool qkv_bias)
    : embed_dims_(embed_dims), num_heads_(num_heads), qkv_bias_(qkv_bias) {
  Attention::reset();
}

void Attention::reset() {
  qkv_ = register_module("qkv", make_linear(embed_dims_, 3 * embed_dims_, embed_dims_, qkv_bias_));
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

TransformerLayer::TransformerLayer(TransformerOptions sizes, bool qkv_bias)
    : sizes_(std::move(sizes)), qkv_bias_(qkv_bias) {
  TransformerLayer::reset();
}

void TransformerLayer::reset() {
  ln1_ = register_module("ln1", make_norm(sizes_.embed_dims));
  attn_ = register_module(
      "attn", std::make_shared<Attention>(sizes_.embed_dims, sizes_.num_heads, qkv_bias_));
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

void VisionTransformerOptions::visit(OptionVisitor& visitor) {
  visitor.block<TransformerOptions>(
      "arch", &arch,
      "deit-tiny, deit-small, deit-base, small, base, large, huge, or a mapping of "
      "embed_dims, num_layers, num_heads and feedforward_channels.",
      Blocks::Form::one_or_text);
  visitor.key("patch_size", &patch_size, "Height and width of a patch.",
              closed_interval(1, kLargestSide));
  visitor.key("qkv_bias", &qkv_bias, "Whether queries, keys and values have a bias.");
}

void MoCoV3VitOptions::visit(OptionVisitor& visitor) {
  visitor.block<TransformerOptions>(
      "arch", &arch,
      "mocov3-small, mocov3-base, mocov3-large, or a mapping of embed_dims, num_layers, "
      "num_heads and feedforward_channels.",
      Blocks::Form::one_or_text);
  visitor.key("patch_size", &patch_size, "Height and width of a patch.",
              closed_interval(1, kLargestSide));
  visitor.key("stop_grad_conv1", &stop_grad_conv1, "Whether the patch embedding is frozen.");
}

VisionTransformer::VisionTransformer(const VisionTransformerOptions& options, ImageShape image)
    : VisionTransformer("VisionTransformer", form_of(options), image) {}

VisionTransformer::VisionTransformer(const MoCoV3VitOptions& options, ImageShape image)
    : VisionTransformer("MoCoV3ViT", form_of(options), image) {}

VisionTransformer::Form VisionTransformer::form_of(const VisionTransformerOptions& options) {
  check_options(options, "VisionTransformer");
  Form form;
  form.sizes = sizes_of(options.arch, kVisionTransformers, kVisionTransformerArchs);
  form.patch_size = options.patch_size;
  form.learned_positions = true;
  form.qkv_bias = options.qkv_bias;
  return form;
}

VisionTransformer::Form VisionTransformer::form_of(const MoCoV3VitOptions& options) {
  check_options(options, "MoCoV3ViT");
  Form form;
  form.sizes = sizes_of(options.arch, kMoCoV3Vits, kMoCoV3VitArchs);
  form.patch_size = options.patch_size;
  form.frozen_patches = options.stop_grad_conv1;
  return form;
}

VisionTransformer::VisionTransformer(const char* owner, Form form, ImageShape image)
    : form_(std::move(form)), image_(image) {
  const TransformerOptions& sizes = form_.sizes;
  if (image_.height % form_.patch_size != 0 || image_.width % form_.patch_size != 0) {
    fail<ConfigError>("{}: images of {} x {} are not a multiple of patch_size, {}", owner,
                      image_.height, image_.width, form_.patch_size);
  }
  if (!form_.learned_positions && sizes.embed_dims % 4 != 0) {
    fail<ConfigError>(
        "{}: arch.embed_dims must be a multiple of 4, for the position embedding; got {}", owner,
        sizes.embed_dims);
  }
  const auto width = static_cast<double>(sizes.embed_dims);
  const auto patch = static_cast<double>(form_.patch_size * form_.patch_size);
  const auto patches = static_cast<double>(image_.height * image_.width) / patch;
  check_parameters(width * (static_cast<double>(sizes.num_layers) *
                                (4 * width + 2 * static_cast<double>(sizes.feedforward_channels)) +
                            static_cast<double>(image_.channels) * patch + patches),
                   "embed_dims, num_layers, feedforward_channels and patch_size");
  VisionTransformer::reset();
}

void VisionTransformer::reset() {
  const int64_t size = form_.sizes.embed_dims;
  const int64_t rows = image_.height / form_.patch_size, columns = image_.width / form_.patch_size;
  if (form_.learned_positions) {
    cls_token_ = register_parameter("cls_token", at::zeros({1, 1, size}));
    pos_embed_ = register_parameter("pos_embed", at::randn({1, 1 + rows * columns, size}) * 0.02);
  } else {
    cls_token_ = register_parameter("cls_token", at::randn({1, 1, size}) * 1e-6);
    pos_embed_ = register_parameter("pos_embed", position_embedding(rows, columns, size),
                                    /*requires_grad=*/false);
  }
  patch_embed_ = register_module(
      "patch_embed", std::make_shared<PatchEmbedding>(image_.channels, form_.patch_size, size,
                                                      form_.frozen_patches));
  torch::nn::Sequential layers;
  for (int64_t i = 0; i < form_.sizes.num_layers; ++i) {
    layers->push_back(std::make_shared<TransformerLayer>(form_.sizes, form_.qkv_bias));
  }
  layers_ = register_module("layers", layers);
  norm_ = register_module("ln1", make_norm(size));
  if (form_.learned_positions) initialize_as_mmpretrain();
}

/// What differs from MoCo v3: the patch embedding (normal, of variance 1 / inputs), the attention
/// (LibTorch's own initialisation of Linear), and the biases of the FeedForward (normal, 1e-6).
void VisionTransformer::initialize_as_mmpretrain() {
  const int64_t inputs = image_.channels * form_.patch_size * form_.patch_size;
  for (const auto& item : named_modules("", /*include_self=*/false)) {
    const bool attention = item.key().find(".attn.") != std::string::npos;
    if (auto* conv = item.value()->as<torch::nn::Conv2d>()) {
      torch::nn::init::normal_(conv->weight, 0, 1 / std::sqrt(static_cast<double>(inputs)));
    } else if (auto* linear = item.value()->as<torch::nn::Linear>()) {
      if (attention) {
        linear->reset_parameters();
      } else {
        torch::nn::init::normal_(linear->bias, 0, 1e-6);
      }
    }
  }
}

at::Tensor VisionTransformer::forward(const at::Tensor& images) {
  const at::Tensor patches = patch_embed_->forward(images);
  const at::Tensor class_token = cls_token_.expand({images.size(0), -1, -1});
  const at::Tensor tokens = at::cat({class_token, patches}, 1) + pos_embed_;
  return norm_(layers_->forward(tokens)).select(1, 0);
}

std::vector<std::pair<std::string, int64_t>> VisionTransformer::unseen_sizes() const {
  return {{"num_heads", form_.sizes.num_heads}};
}

}  // namespace polyak
