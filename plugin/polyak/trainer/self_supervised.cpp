// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/self_supervised.h"

#include <utility>

#include "polyak/registry/registry.h"

namespace polyak {

Encoder::Encoder(std::shared_ptr<Backbone> backbone, std::shared_ptr<Neck> neck)
    : backbone_(std::move(backbone)), neck_(std::move(neck)) {
  register_module("0", as_module(backbone_));
  register_module("1", as_module(neck_));
}

void Encoder::reset() {
  backbone_ =
      std::dynamic_pointer_cast<Backbone>(register_module("0", as_module(backbone_)->clone()));
  neck_ = std::dynamic_pointer_cast<Neck>(register_module("1", as_module(neck_)->clone()));
}

at::Tensor Encoder::forward(const at::Tensor& images) {
  return neck_->forward(backbone_->forward(images));
}

void PairOptions::visit(OptionVisitor& visitor) {
  visitor.required_component("backbone", &backbone, "backbone",
                             "The backbone: from images to features.");
  visitor.required_component("neck", &neck, "neck", "The neck: projects the features.");
  visitor.required_component("head", &head, "pair_head",
                             "Compares two projections, with its predictor and loss.");
}

void TargetLearnerOptions::visit(OptionVisitor& visitor) {
  parts.visit(visitor);
  TargetOptions::visit(visitor);
}

PairNetworks::PairNetworks(const PairOptions& options, const Algorithm::Context& context)
    : backbone(context.catalog->of<Backbone>().build(options.backbone, {context.image})),
      neck(context.catalog->of<Neck>().build(options.neck, {backbone->features()})),
      head(context.catalog->of<PairHead>().build(
          options.head, {context.catalog, neck->out_channels(), context.processes})),
      encoder(std::make_shared<Encoder>(backbone, neck)) {}

void PairNetworks::register_in(torch::nn::Module& owner) const {
  owner.register_module("backbone", as_module(backbone));
  owner.register_module("neck", as_module(neck));
  owner.register_module("head", as_module(head));
}

void PairNetworks::clone_into(torch::nn::Module& owner) {
  backbone = std::dynamic_pointer_cast<Backbone>(as_module(backbone)->clone());
  neck = std::dynamic_pointer_cast<Neck>(as_module(neck)->clone());
  head = std::dynamic_pointer_cast<PairHead>(as_module(head)->clone());
  encoder = std::make_shared<Encoder>(backbone, neck);
  register_in(owner);
}

TargetLearner::TargetLearner(const TargetLearnerOptions& options, Form form, const Context& context)
    : form_(form),
      networks_(options.parts, context),
      target_(form.target_name, networks_.encoder, options, context.progress) {
  networks_.register_in(*this);
  target_.register_in(*this);
}

void TargetLearner::reset() {
  networks_.clone_into(*this);
  target_.clone_into(*this, networks_.encoder);
}

Algorithm::Losses TargetLearner::loss(const Batch& batch) {
  const at::Tensor &view_1 = batch.views[0], &view_2 = batch.views[1];
  const at::Tensor online_1 = networks_.encoder->forward(view_1);
  const at::Tensor online_2 = networks_.encoder->forward(view_2);
  at::Tensor target_1;
  at::Tensor target_2;
  {
    const torch::NoGradGuard no_grad;
    target_.update();
    const auto target = target_.net<Encoder>();
    target_1 = target->forward(view_1);
    target_2 = target->forward(view_2);
  }
  // One after the other: the predictor's running statistics depend on the order.
  const at::Tensor loss_1 = networks_.head->loss(online_1, target_2);
  const at::Tensor loss_2 = networks_.head->loss(online_2, target_1);
  return {{"loss", form_.factor * (loss_1 + loss_2)}};
}

at::Tensor TargetLearner::predict(const at::Tensor& images) {
  return networks_.backbone->forward(images);
}

std::shared_ptr<TargetLearner> make_byol(const ByolOptions& options,
                                         const Algorithm::Context& context) {
  return std::make_shared<TargetLearner>(options, TargetLearner::Form{"target_net", 2.0}, context);
}

std::shared_ptr<TargetLearner> make_moco_v3(const MoCoV3Options& options,
                                            const Algorithm::Context& context) {
  return std::make_shared<TargetLearner>(options, TargetLearner::Form{"momentum_encoder", 1.0},
                                         context);
}

SimSiam::SimSiam(const SimSiamOptions& options, const Context& context)
    : networks_(options.parts, context) {
  networks_.register_in(*this);
}

void SimSiam::reset() {
  networks_.clone_into(*this);
}

Algorithm::Losses SimSiam::loss(const Batch& batch) {
  const at::Tensor &view_1 = batch.views[0], &view_2 = batch.views[1];
  const at::Tensor online_1 = networks_.encoder->forward(view_1);
  const at::Tensor online_2 = networks_.encoder->forward(view_2);
  const at::Tensor loss_1 = networks_.head->loss(online_1, online_2);
  const at::Tensor loss_2 = networks_.head->loss(online_2, online_1);
  return {{"loss", 0.5 * (loss_1 + loss_2)}};
}

at::Tensor SimSiam::predict(const at::Tensor& images) {
  return networks_.backbone->forward(images);
}

}  // namespace polyak
