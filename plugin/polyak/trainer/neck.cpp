// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/neck.h"

#include <string>
#include <utility>

#include "polyak/core/error.h"
#include "polyak/trainer/network.h"

namespace polyak {
namespace {

void check_channels(const char* key, std::optional<int64_t> stated, int64_t given) {
  if (stated.value_or(given) != given) {
    fail<ConfigError>("{} is {}, but its input has {} features", key, *stated, given);
  }
}

}  // namespace

Neck::~Neck() = default;

void NonLinearNeckOptions::visit(OptionVisitor& visitor) {
  visitor.key("in_channels", &in_channels,
              "Number of input features; null: determined by the input.", count_from(1));
  visitor.required("hid_channels", &hid_channels, "Width of all layers but the last.",
                   closed_interval(1, kWidestLayer));
  visitor.required("out_channels", &out_channels, "Width of the last layer.",
                   closed_interval(1, kWidestLayer));
  visitor.key("num_layers", &num_layers, "Fully connected layers.",
              closed_interval(2, kMostLayers));
  visitor.key("with_bias", &with_bias, "Whether all layers but the last have a bias.");
  visitor.key("with_last_bn", &with_last_bn, "Batch normalisation after the last layer.");
  visitor.key("with_last_bn_affine", &with_last_bn_affine,
              "Whether that batch normalisation has a weight and a bias.");
  visitor.key("with_last_bias", &with_last_bias, "Whether the last layer has a bias.");
  visitor.key("with_avg_pool", &with_avg_pool, "Average feature maps over height and width.");
}

NonLinearNeck::NonLinearNeck(NonLinearNeckOptions options, const Context& context)
    : options_(std::move(options)), in_channels_(context.in_channels) {
  check_options(options_, "NonLinearNeck");
  check_channels("NonLinearNeck: in_channels", options_.in_channels, in_channels_);
  const auto hidden = static_cast<double>(options_.hid_channels);
  check_parameters(hidden * (static_cast<double>(in_channels_ + options_.out_channels) +
                             static_cast<double>(options_.num_layers - 2) * hidden),
                   "hid_channels, out_channels and num_layers");
  NonLinearNeck::reset();
}

void NonLinearNeck::reset() {
  layers_.clear();
  norms_.clear();
  int64_t in = in_channels_;
  for (int64_t i = 0; i < options_.num_layers; ++i) {
    const bool last = i + 1 == options_.num_layers;
    const int64_t out = last ? options_.out_channels : options_.hid_channels;
    const std::string number = std::to_string(i);
    layers_.push_back(
        register_module("fc" + number, torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(
                                           last ? options_.with_last_bias : options_.with_bias))));
    if (!last || options_.with_last_bn) {
      norms_.push_back(
          register_module("bn" + number, SyncBatchNorm1d(torch::nn::BatchNorm1dOptions(out).affine(
                                             !last || options_.with_last_bn_affine))));
    }
    in = out;
  }
}

at::Tensor NonLinearNeck::forward(const at::Tensor& features) {
  at::Tensor x = features;
  if (options_.with_avg_pool && x.dim() == 4) x = x.mean({2, 3});
  x = x.flatten(1);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (i > 0) x = x.relu();
    x = layers_[i](x);
    if (i < norms_.size()) x = norms_[i](x);
  }
  return x;
}

void ClsBatchNormNeckOptions::visit(OptionVisitor& visitor) {
  visitor.key("input_features", &input_features,
              "Number of input features; null: determined by the input.", count_from(1));
}

ClsBatchNormNeck::ClsBatchNormNeck(const ClsBatchNormNeckOptions& options, const Context& context)
    : channels_(context.in_channels) {
  check_options(options, "ClsBatchNormNeck");
  check_channels("ClsBatchNormNeck: input_features", options.input_features, channels_);
  ClsBatchNormNeck::reset();
}

void ClsBatchNormNeck::reset() {
  bn_ = register_module(
      "bn", SyncBatchNorm1d(torch::nn::BatchNorm1dOptions(channels_).affine(false).eps(1e-6)));
}

}  // namespace polyak
