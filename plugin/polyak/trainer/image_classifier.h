// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <memory>
#include <optional>

#include "polyak/config/options.h"
#include "polyak/trainer/neck.h"
#include "polyak/trainer/network.h"

namespace polyak {

struct CrossEntropyLossOptions : Options {
  double loss_weight = 1.0;
  void visit(OptionVisitor& visitor) override;
};

struct LabelSmoothLossOptions : Options {
  double label_smooth_val = 0.1;
  double loss_weight = 1.0;
  void visit(OptionVisitor& visitor) override;
};

/// Mean cross entropy of softmax(logits). With smoothing s and C classes the target is 1 - s + s/C
/// for the label and s/C for the others (Szegedy et al. 2016, "Rethinking the Inception
/// Architecture").
class CrossEntropyLoss : public Loss {
 public:
  explicit CrossEntropyLoss(const CrossEntropyLossOptions& options);
  explicit CrossEntropyLoss(const LabelSmoothLossOptions& options);
  at::Tensor compute(const at::Tensor& logits, const at::Tensor& labels) const override;

 private:
  double smoothing_;
  double weight_;
};

struct LinearClsHeadOptions : Options {
  std::optional<int64_t> num_classes;
  std::optional<int64_t> in_channels;
  Node loss;
  void visit(OptionVisitor& visitor) override;
};

/// One linear layer from features to logits, named `fc`.
class LinearClsHead : public torch::nn::Cloneable<LinearClsHead>, public Head {
 public:
  /// @throws ConfigError if in_channels differs from the backbone's features, or num_classes is
  /// smaller than the data's number of classes.
  LinearClsHead(const LinearClsHeadOptions& options, const Context& context);
  void reset() override;
  at::Tensor forward(const at::Tensor& features) override { return fc_(features); }
  at::Tensor loss(const at::Tensor& logits, const at::Tensor& labels) const override;

 private:
  int64_t features_;
  int64_t num_classes_;
  std::shared_ptr<Loss> loss_;
  torch::nn::Linear fc_{nullptr};
};

struct ImageClassifierOptions : Options {
  Node backbone;
  Node neck;
  Node head;
  bool freeze_backbone = false;
  void visit(OptionVisitor& visitor) override;
};

/// A backbone, an optional neck, and a head: mmpretrain's ImageClassifier. Tensors are named
/// `backbone.*`, `neck.*` and `head.*`. A frozen backbone keeps its weights and stays in eval mode,
/// so that only neck and head are trained: a linear probe.
class ImageClassifier : public torch::nn::Cloneable<ImageClassifier>, public Algorithm {
 public:
  ImageClassifier(const ImageClassifierOptions& options, const Context& context);
  void reset() override;
  Losses loss(const Batch& batch) override;
  at::Tensor predict(const at::Tensor& images) override;
  /// The head's loss for the result of predict().
  at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) const;

 private:
  at::Tensor features(const at::Tensor& images);

  bool freeze_backbone_;
  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<Neck> neck_;  // or null
  std::shared_ptr<Head> head_;
};

}  // namespace polyak
