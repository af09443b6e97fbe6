// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/knn_metric.h"

#include <ATen/Functions.h>
#include <torch/nn/functional/normalization.h>

#include "polyak/core/error.h"

namespace polyak {
namespace {

at::Tensor unit_rows(const at::Tensor& features) {
  return torch::nn::functional::normalize(features.flatten(1).to(at::kFloat),
                                          torch::nn::functional::NormalizeFuncOptions().dim(1));
}

}  // namespace

void KnnAccuracyOptions::visit(OptionVisitor& visitor) {
  visitor.key("k", &k, "Neighbours that vote.", count_from(1));
  visitor.key("temperature", &temperature, "A vote has the weight exp(similarity / temperature).",
              above(0));
  visitor.required_block<DataLoaderOptions>(
      "dataloader", &dataloader,
      "A data loader for the labelled samples to search for neighbours, without "
      "random transforms.",
      Blocks::Form::one, "a dataloader");
}

KnnAccuracy::KnnAccuracy(const KnnAccuracyOptions& options, const Context& context)
    : k_(options.k),
      temperature_(options.temperature),
      num_classes_(context.num_classes),
      predict_(context.predict),
      loader_(std::make_shared<DataLoader>(options.dataloader, *context.catalog, /*training=*/false,
                                           context.seed)) {
  check_options(options, "KnnAccuracy");
  if (!context.classes.empty()) loader_->number_classes_by(context.classes);
  const Dataset& bank = loader_->dataset();
  if (bank.num_labelled() < k_) {
    options.dataloader.fail(
        fmt::format("holds {} labelled samples, but k is {}", bank.num_labelled(), k_));
  }
  if (bank.num_classes() > num_classes_) {
    options.dataloader.fail(fmt::format("has {} classes, but the evaluated data has {}",
                                        bank.num_classes(), num_classes_));
  }
}

void KnnAccuracy::reset() {
  bank_.reset();
  labels_.reset();
  correct_ = samples_ = 0;
}

void KnnAccuracy::fill_bank() {
  std::vector<at::Tensor> features;
  std::vector<at::Tensor> labels;
  int64_t samples = 0;
  for (int64_t index = 0; index < loader_->size(); ++index) {
    const Batch batch = loader_->batch(/*epoch=*/0, index);
    const at::Tensor known = batch.labels.ge(0).nonzero().flatten();
    samples += known.size(0);
    if (known.size(0) == 0) continue;
    features.push_back(unit_rows(predict_(batch.images().index_select(0, known))));
    labels.push_back(batch.labels.index_select(0, known));
  }
  if (samples < k_) {
    fail<DataError>(
        "KnnAccuracy: its data loader yielded {} labelled samples, but k is {}; drop_last, the "
        "sampler or on_bad_image may leave samples out",
        samples, k_);
  }
  bank_ = at::cat(features);
  labels_ = at::cat(labels).to(bank_.device());
}

void KnnAccuracy::add(const at::Tensor& features, const at::Tensor& labels) {
  if (!bank_.defined()) fill_bank();
  const auto [similarity, nearest] = unit_rows(features).matmul(bank_.t()).topk(k_, /*dim=*/1);
  const at::Tensor votes = at::zeros({features.size(0), num_classes_}, bank_.options());
  // Subtracts the largest similarity first: the votes do not change, and exp cannot overflow.
  const at::Tensor weight = ((similarity - similarity.slice(1, 0, 1)) / temperature_).exp();
  const at::Tensor classes = labels_.index_select(0, nearest.flatten()).view_as(nearest);
  const at::Tensor winner = votes.scatter_add(1, classes, weight).argmax(1);
  correct_ += winner.eq(labels).sum().item<int64_t>();
  samples_ += labels.ge(0).sum().item<int64_t>();
}

at::Tensor KnnAccuracy::sums() const {
  return at::tensor({static_cast<double>(correct_), static_cast<double>(samples_)}, at::kDouble);
}

void KnnAccuracy::set_sums(const at::Tensor& sums) {
  correct_ = sums[0].item<int64_t>();
  samples_ = sums[1].item<int64_t>();
}

Scalars KnnAccuracy::compute() const {
  return {{"knn_accuracy", 100.0 * static_cast<double>(correct_) / static_cast<double>(samples_)}};
}

}  // namespace polyak
