// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "polyak/config/options.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/metrics.h"

namespace polyak {

struct KnnAccuracyOptions : Options {
  int64_t k = 20;
  double temperature = 0.07;
  Node dataloader;
  void visit(OptionVisitor& visitor) override;
};

/// Evaluates features without training on them: the percentage of labelled samples whose class wins
/// a vote of their k nearest neighbours in a bank of labelled samples. Neighbours are found by
/// cosine similarity s; a vote has the weight exp(s / temperature) (Wu et al. 2018,
/// arXiv:1805.01978). Named `knn_accuracy`.
///
/// The model's predictions are the features, as for self-supervised algorithms. Each pass runs the
/// bank through the model again, with the weights that the pass measures.
class KnnAccuracy : public Metric {
 public:
  /// @throws ConfigError, and DataError if the bank cannot be read or has fewer labels than k
  KnnAccuracy(const KnnAccuracyOptions& options, const Context& context);
  void reset() override;
  void add(const at::Tensor& features, const at::Tensor& labels) override;
  bool needs_labels() const override { return true; }
  Scalars compute() const override;
  at::Tensor sums() const override;
  void set_sums(const at::Tensor& sums) override;

 private:
  void fill_bank();

  int64_t k_;
  double temperature_;
  int64_t num_classes_;
  std::function<at::Tensor(const at::Tensor&)> predict_;
  std::shared_ptr<DataLoader> loader_;
  at::Tensor bank_;    // float [samples, F], rows of length 1; undefined before a pass's first add
  at::Tensor labels_;  // int64 [samples]
  int64_t correct_ = 0;
  int64_t samples_ = 0;
};

}  // namespace polyak
