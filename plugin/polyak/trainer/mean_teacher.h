// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>

#include <cstdint>
#include <memory>

#include "polyak/config/options.h"
#include "polyak/trainer/image_classifier.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/target_network.h"

namespace polyak {

struct MeanTeacherOptions : TargetOptions {
  MeanTeacherOptions() : TargetOptions(0.01) { end_momentum = 0.001; }
  ImageClassifierOptions classifier;
  double consistency_weight = 10;
  double ramp_up = 0.2;
  void visit(OptionVisitor& visitor) override;
};

/// Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): classification when few images have
/// a label. A student learns from the labels, and also to agree on every image with its teacher, a
/// CosineEMA of the student, which sees another view:
///
///     loss = L(student(view 1), label) over labelled images
///            + weight * mean((softmax(student(view 1)) - softmax(teacher(view 2)))^2)
///
/// The weight rises to consistency_weight as exp(-5 (1 - t)^2), t from 0 to 1 over the first
/// `ramp_up` of the run. Images without a label have the label -1. Tensors are named `student.*`
/// and `teacher.*`; the teacher predicts.
class MeanTeacher : public torch::nn::Cloneable<MeanTeacher>, public Algorithm {
 public:
  MeanTeacher(const MeanTeacherOptions& options, const Context& context);
  void reset() override;
  int64_t num_views() const override { return 2; }
  bool learns_without_labels() const override { return true; }
  Losses loss(const Batch& batch) override;
  /// @return the teacher's logits, float [N, classes]
  at::Tensor predict(const at::Tensor& images) override;
  void after_load(bool resuming) override { teacher_.after_load(resuming); }
  bool needs_equal_batches() const override { return true; }
  TargetNetwork& teacher() { return teacher_; }

 private:
  /// The current weight of the consistency loss.
  double consistency_weight() const;

  double consistency_weight_;
  double ramp_up_;
  const Progress* progress_;
  std::shared_ptr<ImageClassifier> student_;
  TargetNetwork teacher_;
};

}  // namespace polyak
