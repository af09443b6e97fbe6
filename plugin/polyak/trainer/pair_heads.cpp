// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/pair_heads.h"

#include <ATen/ops/arange.h>
#include <torch/nn/functional/normalization.h>

#include <utility>

#include "polyak/core/error.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/image_classifier.h"

namespace polyak {
namespace {

at::Tensor unit(const at::Tensor& rows) {
  return torch::nn::functional::normalize(rows,
                                          torch::nn::functional::NormalizeFuncOptions().dim(1));
}

std::shared_ptr<Neck> build_predictor(const Node& node, const PairHead::Context& context) {
  auto predictor = context.catalog->of<Neck>().build(node, {context.in_channels});
  if (predictor->out_channels() != context.in_channels) {
    node.fail(
        fmt::format("predicts {} values, but the projections that it is compared with have {}",
                    predictor->out_channels(), context.in_channels));
  }
  return predictor;
}

/// For reset() of a copy, which still shares the original's predictor and needs its own.
std::shared_ptr<Neck> clone_predictor(torch::nn::Module& owner,
                                      const std::shared_ptr<Neck>& predictor) {
  return std::dynamic_pointer_cast<Neck>(
      owner.register_module("predictor", as_module(predictor)->clone()));
}

}  // namespace

PairHead::~PairHead() = default;

void CosineSimilarityLossOptions::visit(OptionVisitor& visitor) {
  visitor.key("shift_factor", &shift_factor, "Constant that is added to the loss.");
  visitor.key("scale_factor", &scale_factor, "Factor of the similarity.");
}

CosineSimilarityLoss::CosineSimilarityLoss(CosineSimilarityLossOptions options)
    : options_(std::move(options)) {
  check_options(options_, "CosineSimilarityLoss");
}

at::Tensor CosineSimilarityLoss::compute(const at::Tensor& prediction,
                                         const at::Tensor& target) const {
  const at::Tensor similarity = (unit(prediction) * unit(target)).sum(1).mean();
  return options_.shift_factor - options_.scale_factor * similarity;
}

void LatentPredictHeadOptions::visit(OptionVisitor& visitor) {
  visitor.required_component("predictor", &predictor, "neck",
                             "A neck that maps online projections to target projections.");
  visitor.component("loss", &loss, "loss", "The loss; null: CosineSimilarityLoss.");
}

LatentPredictHead::LatentPredictHead(const LatentPredictHeadOptions& options,
                                     const Context& context)
    : predictor_(build_predictor(options.predictor, context)),
      loss_(options.loss.is_null()
                ? std::make_shared<CosineSimilarityLoss>(CosineSimilarityLossOptions())
                : context.catalog->of<Loss>().build(options.loss, {})) {
  register_module("predictor", as_module(predictor_));
}

void LatentPredictHead::reset() {
  predictor_ = clone_predictor(*this, predictor_);
}

at::Tensor LatentPredictHead::loss(const at::Tensor& online, const at::Tensor& target) {
  return loss_->compute(predictor_->forward(online), target.detach());
}

void MoCoV3HeadOptions::visit(OptionVisitor& visitor) {
  visitor.required_component("predictor", &predictor, "neck",
                             "A neck that maps online projections to target projections.");
  visitor.component("loss", &loss, "loss",
                    "The loss; null: CrossEntropyLoss with loss_weight 2 * temperature.");
  visitor.key("temperature", &temperature, "Divisor of the similarities.", above(0));
}

MoCoV3Head::MoCoV3Head(const MoCoV3HeadOptions& options, const Context& context)
    : processes_(context.processes),
      predictor_(build_predictor(options.predictor, context)),
      temperature_(options.temperature) {
  check_options(options, "MoCoV3Head");
  if (options.loss.is_null()) {
    CrossEntropyLossOptions loss;
    loss.loss_weight = 2 * temperature_;
    loss_ = std::make_shared<CrossEntropyLoss>(loss);
  } else {
    loss_ = context.catalog->of<Loss>().build(options.loss, {});
  }
  register_module("predictor", as_module(predictor_));
}

void MoCoV3Head::reset() {
  predictor_ = clone_predictor(*this, predictor_);
}

at::Tensor MoCoV3Head::loss(const at::Tensor& online, const at::Tensor& target) {
  const at::Tensor query = unit(predictor_->forward(online));
  at::Tensor key = unit(target.detach());
  int64_t own = 0;  // the first key of this process
  if (size_of(processes_.get()) > 1) {
    own = processes_->rank() * key.size(0);
    key = at::cat(processes_->all_gather(key.contiguous(), "gathering the keys of MoCo v3"));
  }
  const at::Tensor logits = query.matmul(key.t()) / temperature_;
  return loss_->compute(logits,
                        at::arange(own, own + query.size(0), logits.options().dtype(at::kLong)));
}

}  // namespace polyak
