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
  /// What a maker receives in addition to the options.
  struct Context {
    int64_t num_classes = 0;           // classes of the data
    const Catalog* catalog = nullptr;  // for the metric's own datasets
    uint64_t seed = 0;                 // of the run
    /// Runs images (float [N, C, H, W]) through the current model, for metrics that compare with
    /// other samples. Only for use in add().
    std::function<at::Tensor(const at::Tensor&)> predict = nullptr;
    /// The class names, by label; empty if the data has none.
    std::vector<std::string> classes = {};
  };
  virtual ~Metric();
  /// Discards all added samples: a new pass begins.
  virtual void reset() = 0;
  /// @param logits float [N, classes], or other predictions of the model
  /// @param labels int64 [N]; -1: none, because of `labelled` of a dataset
  virtual void add(const at::Tensor& logits, const at::Tensor& labels) = 0;
  /// Whether the metric ignores samples without a label. If so, a pass without any label is an
  /// error.
  virtual bool needs_labels() const { return false; }
  /// The names do not depend on the samples; without samples the values are undefined.
  virtual Scalars compute() const = 0;
  /// For several processes, each of which adds a part of the samples: numbers whose sums over all
  /// of them say what compute() needs, float64 [N]. Undefined: the metric cannot be put together.
  virtual at::Tensor sums() const;
  /// Replaces these numbers.
  virtual void set_sums(const at::Tensor& sums);
};

struct POLYAK_API AccuracyOptions : Options {
  Node topk = Node(1);
  void visit(OptionVisitor& visitor) override;
};

/// The percentage of labelled samples whose label is among the k largest logits. With one k the
/// metric is named `accuracy`, with several `accuracy/top1`, `accuracy/top5`, ...
class POLYAK_API Accuracy : public Metric {
 public:
  /// @throws ConfigError if a k is not between 1 and the number of classes
  Accuracy(const AccuracyOptions& options, const Context& context);
  void reset() override;
  void add(const at::Tensor& logits, const at::Tensor& labels) override;
  bool needs_labels() const override { return true; }
  Scalars compute() const override;
  at::Tensor sums() const override;
  void set_sums(const at::Tensor& sums) override;

 private:
  std::vector<int64_t> topk_;
  std::vector<int64_t> correct_;  // for each k
  int64_t samples_ = 0;
};

}  // namespace polyak
