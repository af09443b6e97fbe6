// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/evaluation.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <algorithm>

#include "polyak/core/error.h"

namespace polyak {

Scalars Evaluation::run(Algorithm& model, c10::Device device, EvaluationScope* scope,
                        const std::function<void()>& before_batch,
                        const std::function<void(const at::Tensor&)>& add_up) const {
  const torch::NoGradGuard no_grad;
  for (const auto& metric : metrics) metric->reset();
  int64_t num_labelled = 0;
  for (int64_t index = 0; index < loader->size(); ++index) {
    before_batch();
    const Batch batch = loader->batch(/*epoch=*/0, index);
    if (scope) scope->before_iter(index);
    if (batch.labels.numel() > 0) {  // none if all images of the batch were skipped
      const at::Tensor logits = model.predict(batch.images().to(device));
      const at::Tensor labels = batch.labels.to(device);
      for (const auto& metric : metrics) metric->add(logits, labels);
    }
    num_labelled += batch.labels.ge(0).sum().item<int64_t>();
    if (scope) scope->after_iter(index);
  }
  if (add_up) {
    const at::Tensor labelled = at::full({1}, num_labelled, at::kLong);
    add_up(labelled);
    num_labelled = labelled.item<int64_t>();
    for (const auto& metric : metrics) {
      const at::Tensor sums = metric->sums();
      if (!sums.defined()) {
        fail<Error>(
            "a metric of this run cannot be put together over several processes: its class "
            "overrides neither sums() nor set_sums(); evaluate in one process");
      }
      add_up(sums);
      metric->set_sums(sums);
    }
  }
  if (num_labelled == 0 && std::any_of(metrics.begin(), metrics.end(),
                                       [](const auto& metric) { return metric->needs_labels(); })) {
    fail<DataError>(
        "none of the samples read in validation or test has a label, so there is nothing to "
        "measure");
  }
  Scalars found;
  for (const auto& metric : metrics) found.merge(metric->compute());
  return found;
}

std::vector<std::string> Evaluation::metric_names() const {
  std::vector<std::string> names;
  for (const auto& metric : metrics) {
    for (const auto& [name, value] : metric->compute()) names.push_back(name);
  }
  return names;
}

}  // namespace polyak
