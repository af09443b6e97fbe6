// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/metrics.h"

#include <ATen/Functions.h>

#include <algorithm>

namespace polyak {

Metric::~Metric() = default;

at::Tensor Metric::sums() const {
  return {};
}

void Metric::set_sums(const at::Tensor& /*sums*/) {}

void AccuracyOptions::visit(OptionVisitor& visitor) {
  visitor.any("topk", &topk, "integer or list of integers",
              "How many of the largest logits count: an integer or a list of integers.",
              count_from(1));
}

Accuracy::Accuracy(const AccuracyOptions& options, const Context& context) {
  check_options(options, "Accuracy");
  const std::vector<Node> nodes =
      options.topk.is_sequence() ? options.topk.items() : std::vector<Node>{options.topk};
  if (nodes.empty()) options.topk.fail("needs at least one number");
  for (const Node& node : nodes) {
    topk_.push_back(node.as_int());
    if (topk_.back() < 1 || topk_.back() > context.num_classes) {
      node.fail(fmt::format("must be at least 1 and at most the number of classes, {}; got {}",
                            context.num_classes, topk_.back()));
    }
  }
  reset();
}

void Accuracy::reset() {
  correct_.assign(topk_.size(), 0);
  samples_ = 0;
}

void Accuracy::add(const at::Tensor& logits, const at::Tensor& labels) {
  const int64_t largest = *std::max_element(topk_.begin(), topk_.end());
  const at::Tensor hits = std::get<1>(logits.topk(largest, 1)).eq(labels.unsqueeze(1));
  for (size_t i = 0; i < topk_.size(); ++i) {
    correct_[i] += hits.slice(1, 0, topk_[i]).sum().item<int64_t>();
  }
  samples_ += labels.ge(0).sum().item<int64_t>();
}

at::Tensor Accuracy::sums() const {
  std::vector<double> numbers(correct_.begin(), correct_.end());
  numbers.push_back(static_cast<double>(samples_));
  return at::tensor(numbers, at::kDouble);
}

void Accuracy::set_sums(const at::Tensor& sums) {
  const double* const numbers = sums.data_ptr<double>();
  for (size_t i = 0; i < correct_.size(); ++i) correct_[i] = static_cast<int64_t>(numbers[i]);
  samples_ = static_cast<int64_t>(numbers[correct_.size()]);
}

Scalars Accuracy::compute() const {
  Scalars metrics;
  for (size_t i = 0; i < topk_.size(); ++i) {
    const std::string name =
        topk_.size() == 1 ? "accuracy" : fmt::format("accuracy/top{}", topk_[i]);
    metrics[name] = 100.0 * static_cast<double>(correct_[i]) / static_cast<double>(samples_);
  }
  return metrics;
}

}  // namespace polyak
