// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/image_classifier.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/utils.h>

#include "polyak/registry/registry.h"

namespace polyak {

void CrossEntropyLossOptions::visit(OptionVisitor& visitor) {
  visitor.key("loss_weight", &loss_weight, "Factor of the loss.", at_least(0));
}

void LabelSmoothLossOptions::visit(OptionVisitor& visitor) {
  visitor.key("label_smooth_val", &label_smooth_val,
              "Fraction of the target that is spread evenly over all classes.",
              Bounds{0.0, 1.0, false, true});
  visitor.key("loss_weight", &loss_weight, "Factor of the loss.", at_least(0));
}

CrossEntropyLoss::CrossEntropyLoss(const CrossEntropyLossOptions& options)
    : smoothing_(0.0), weight_(options.loss_weight) {
  check_options(options, "CrossEntropyLoss");
}

CrossEntropyLoss::CrossEntropyLoss(const LabelSmoothLossOptions& options)
    : smoothing_(options.label_smooth_val), weight_(options.loss_weight) {
  check_options(options, "LabelSmoothLoss");
}

at::Tensor CrossEntropyLoss::compute(const at::Tensor& logits, const at::Tensor& labels) const {
  const int64_t no_ignored_label = -100;  // LibTorch's default
  at::Tensor loss =
      at::cross_entropy_loss(logits, labels, {}, at::Reduction::Mean, no_ignored_label, smoothing_);
  return weight_ == 1.0 ? loss : loss * weight_;
}

void LinearClsHeadOptions::visit(OptionVisitor& visitor) {
  visitor.key("num_classes", &num_classes, "Number of classes; null: the data's number of classes.",
              closed_interval(1, kMostClasses));
  visitor.key("in_channels", &in_channels,
              "Number of features; null: the backbone's number of features.", count_from(1));
  visitor.component("loss", &loss, "loss", "The loss; null: CrossEntropyLoss.");
}

LinearClsHead::LinearClsHead(const LinearClsHeadOptions& options, const Context& context)
    : features_(context.features), num_classes_(options.num_classes.value_or(context.num_classes)) {
  check_options(options, "LinearClsHead");
  if (options.in_channels.value_or(features_) != features_) {
    fail<ConfigError>("LinearClsHead: in_channels is {}, but the backbone gives {} features",
                      *options.in_channels, features_);
  }
  if (num_classes_ < context.num_classes) {
    fail<ConfigError>("LinearClsHead: num_classes is {}, but the data has {} classes", num_classes_,
                      context.num_classes);
  }
  check_parameters(static_cast<double>(features_) * static_cast<double>(num_classes_),
                   "num_classes and the backbone's features");
  loss_ = options.loss.is_null() ? std::make_shared<CrossEntropyLoss>(CrossEntropyLossOptions())
                                 : context.catalog->of<Loss>().build(options.loss, {});
  reset();
}

void LinearClsHead::reset() {
  fc_ = register_module("fc", torch::nn::Linear(features_, num_classes_));
}

at::Tensor LinearClsHead::loss(const at::Tensor& logits, const at::Tensor& labels) const {
  return loss_->compute(logits, labels);
}

void ImageClassifierOptions::visit(OptionVisitor& visitor) {
  visitor.required_component("backbone", &backbone, "backbone",
                             "The backbone: from images to features.");
  visitor.component("neck", &neck, "neck", "The neck between backbone and head; null: none.");
  visitor.required_component("head", &head, "head",
                             "The head: from features to logits, with its loss.");
  visitor.key("freeze_backbone", &freeze_backbone,
              "Train only the other parts; the backbone keeps its weights and statistics.");
}

ImageClassifier::ImageClassifier(const ImageClassifierOptions& options, const Context& context)
    : freeze_backbone_(options.freeze_backbone),
      backbone_(context.catalog->of<Backbone>().build(options.backbone, {context.image})),
      neck_(options.neck.is_null()
                ? nullptr
                : context.catalog->of<Neck>().build(options.neck, {backbone_->features()})),
      head_(context.catalog->of<Head>().build(
          options.head, {context.catalog, neck_ ? neck_->out_channels() : backbone_->features(),
                         context.num_classes})) {
  register_module("backbone", as_module(backbone_));
  if (neck_) register_module("neck", as_module(neck_));
  register_module("head", as_module(head_));
}

void ImageClassifier::reset() {
  // Only called on a copy, which still shares the original's parts and needs its own.
  const auto backbone = register_module("backbone", as_module(backbone_)->clone());
  if (neck_) {
    neck_ = std::dynamic_pointer_cast<Neck>(register_module("neck", as_module(neck_)->clone()));
  }
  const auto head = register_module("head", as_module(head_)->clone());
  backbone_ = std::dynamic_pointer_cast<Backbone>(backbone);
  head_ = std::dynamic_pointer_cast<Head>(head);
}

at::Tensor ImageClassifier::features(const at::Tensor& images) {
  if (!freeze_backbone_) return backbone_->forward(images);
  const torch::NoGradGuard no_grad;
  as_module(backbone_)->eval();  // independent of the mode of the whole model
  return backbone_->forward(images);
}

Algorithm::Losses ImageClassifier::loss(const Batch& batch) {
  return {{"loss", loss_of(predict(batch.images()), batch.labels)}};
}

at::Tensor ImageClassifier::loss_of(const at::Tensor& logits, const at::Tensor& labels) const {
  return head_->loss(logits, labels);
}

at::Tensor ImageClassifier::predict(const at::Tensor& images) {
  const at::Tensor given = features(images);
  return head_->forward(neck_ ? neck_->forward(given) : given);
}

}  // namespace polyak
