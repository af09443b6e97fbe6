// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/mean_teacher.h"

#include <ATen/ops/mse_loss.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>

#include "polyak/core/error.h"

namespace polyak {

void MeanTeacherOptions::visit(OptionVisitor& visitor) {
  classifier.visit(visitor);
  visitor.key("consistency_weight", &consistency_weight,
              "Weight of the consistency loss after the ramp-up.", at_least(0));
  visitor.key("ramp_up", &ramp_up, "Fraction of the run over which that weight rises.",
              closed_interval(0, 1));
  TargetOptions::visit(visitor);
}

MeanTeacher::MeanTeacher(const MeanTeacherOptions& options, const Context& context)
    : consistency_weight_(options.consistency_weight),
      ramp_up_(options.ramp_up),
      progress_(context.progress),
      student_(std::make_shared<ImageClassifier>(options.classifier, context)),
      teacher_("teacher", student_, options, context.progress) {
  register_module("student", student_);
  teacher_.register_in(*this);
}

void MeanTeacher::reset() {
  student_ = std::dynamic_pointer_cast<ImageClassifier>(student_->clone());
  register_module("student", student_);
  teacher_.clone_into(*this, student_);
}

double MeanTeacher::consistency_weight() const {
  if (!progress_ || ramp_up_ == 0) return consistency_weight_;
  const double length = ramp_up_ * static_cast<double>(progress_->max_iters);
  const double done = std::min(static_cast<double>(progress_->iter) / std::max(length, 1.0), 1.0);
  return consistency_weight_ * std::exp(-5 * (1 - done) * (1 - done));
}

Algorithm::Losses MeanTeacher::loss(const Batch& batch) {
  const at::Tensor logits = student_->predict(batch.views[0]);
  at::Tensor wanted;
  {
    const torch::NoGradGuard no_grad;
    teacher_.update();
    wanted = at::softmax(teacher_.net<ImageClassifier>()->predict(batch.views[1]), 1);
  }
  Losses losses;
  losses["loss_consistency"] = consistency_weight() * at::mse_loss(at::softmax(logits, 1), wanted);
  const at::Tensor labelled = at::nonzero(batch.labels >= 0).flatten();
  if (labelled.numel() > 0) {
    losses["loss_labels"] =
        student_->loss_of(logits.index_select(0, labelled), batch.labels.index_select(0, labelled));
  }
  return losses;
}

at::Tensor MeanTeacher::predict(const at::Tensor& images) {
  return teacher_.net<ImageClassifier>()->predict(images);
}

}  // namespace polyak
