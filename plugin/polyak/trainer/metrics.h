// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/runtime/progress.h"

namespace polyak {

class Catalog;

/// Measures predictions over a validation or test pass.
class POLYAK_API Metric {
 public:
  static constexpr const char* kKind = "metric";  // for messages and `polyak list`
  /// What a maker receives beside the options.
  struct Context {
    int64_t num_classes = 0;           // classes of the data
    const Catalog* catalog = nullptr;  // for datasets of the metric's own
    uint64_t seed = 0;                 // of the run
    /// Runs images (float [N, C, H, W]) through the model as it is at the call, for metrics that
    /// compare with other samples; for add() only.
    std::function<at::Tensor(const at::Tensor&)> predict = nullptr;
    /// The names that labels are numbered by; empty where the data have none.
    std::vector<std::string> classes = {};
  };
  virtual ~Metric();
  /// Forgets what was added: a new pass begins.
  virtual void reset() = 0;
  /// @param logits float [N, classes], or whatever else the model predicts
  /// @param labels int64 [N]; -1: none, as `labelled` of a dataset leaves them
  virtual void add(const at::Tensor& logits, const at::Tensor& labels) = 0;
  /// Whether samples without a label are left out, so that a pass without any label measures
  /// nothing and is an error.
  virtual bool needs_labels() const { return false; }
  /// The same names whatever was added; without samples the values mean nothing.
  virtual Scalars compute() const = 0;
};

struct POLYAK_API AccuracyOptions : Options {
  Node topk = Node(1);
  void visit(OptionVisitor& visitor) override;
};

/// The share, in percent, of the samples with a label whose label is among the k largest logits.
/// With one k the metric is named `accuracy`, with several `accuracy/top1`, `accuracy/top5`, ...
class POLYAK_API Accuracy : public Metric {
 public:
  /// @throws ConfigError when a k is not in 1 to the number of classes
  Accuracy(const AccuracyOptions& options, const Context& context);
  void reset() override;
  void add(const at::Tensor& logits, const at::Tensor& labels) override;
  bool needs_labels() const override { return true; }
  Scalars compute() const override;

 private:
  std::vector<int64_t> topk_;
  std::vector<int64_t> correct_;  // for each k
  int64_t samples_ = 0;
};

}  // namespace polyak
