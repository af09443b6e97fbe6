// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averaged_model.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/serialize/archive.h>

#include <optional>

#include "polyak/averaging/average_core.h"
#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/joint_update.h"
#include "polyak/averaging/module_archive.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

/// Logs a warning, unless the text is empty.
void warn(const AveragedModel& average, const std::string& text) {
  if (!text.empty()) log_warning("{}: {}", average.rule_name(), text);
}

}  // namespace

// ---- updating

AveragedModel::AveragedModel(const ModelRef& model, Settings settings, ModuleFactory factory)
    : torch::nn::Module("AveragedModel"),
      core_(std::make_unique<AverageCore>(
          *this,
          AverageCore::Options{settings.interval, settings.update_buffers, settings.skip_nonfinite,
                               settings.precision, settings.device},
          std::move(factory))) {
  core_->bind(model);
}

AveragedModel::~AveragedModel() = default;

void AveragedModel::warn_if_decay(double momentum, const char* rule_name) {
  if (momentum > 0.5) {
    log_warning(
        "{}: momentum {} is the weight of the NEW value and usually small; for a decay of {} write "
        "{:.6g}",
        rule_name, momentum, momentum, 1 - momentum);
  }
}

int64_t AveragedModel::steps() const {
  return core_->counter.value();
}

int64_t AveragedModel::skipped() const {
  return core_->skipped;
}

double AveragedModel::weight(int64_t k) const {
  if (k < 0) fail<Error>("{}: weight(k) counts updates from 0, got {}", rule_name(), k);
  return k == 0 ? 1.0 : rule(k);
}

void AveragedModel::avg_func(const at::Tensor& averaged, const at::Tensor& source,
                             int64_t k) const {
  const torch::NoGradGuard no_grad;
  const double weight = rule(k);
  warn(*this, core_->stall.check_half(averaged, weight));
  lerp_by_aten(averaged, source, weight);
}

void AveragedModel::update_parameters(const ModelRef& model) {
  AveragedModel* self = this;
  update_together(self, model);
}

void update_together(c10::ArrayRef<AveragedModel*> averages, const ModelRef& model) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < averages.size(); ++i) {
    if (!averages[i]) fail<Error>("update_together: average {} is a null pointer", i);
    for (size_t j = 0; j < i; ++j) {
      if (averages[i] == averages[j]) {
        fail<Error>("update_together: average {} is given twice, as {} and {}",
                    averages[i]->rule_name(), j, i);
      }
    }
    AverageCore& core = *averages[i]->core_;
    core.prepare(model);
    core.engine.check_capture(core.counter.value(), core.options.interval);
  }

  // Everything that can throw for a single average comes before the first change.
  struct Turn {
    AveragedModel* average;
    AverageCore* core;
    Plan* plan;
    double weight;
    bool averages;
    bool skipped;
  };
  c10::SmallVector<Turn, 8> turns;
  std::optional<bool> finite[2];  // checked once for all averages of the same tensors
  for (AveragedModel* average : averages) {
    AverageCore& core = *average->core_;
    Plan* const plan = core.engine.plan();
    bool skipped = false;
    if (core.options.skip_nonfinite) {
      std::optional<bool>& known = finite[core.options.update_buffers ? 1 : 0];
      if (!known) known = plan->model_is_finite();
      skipped = !*known;
      if (skipped) warn(*average, core.count_skipped());
    }
    const int64_t k = core.counter.value();
    const bool averages_now = !skipped && k > 0 && k % core.options.interval == 0;
    const double weight = averages_now ? average->weight(k) : 0.0;
    turns.push_back({average, &core, plan, weight, averages_now, skipped});
  }
  JointUpdate joint;
  for (const Turn& turn : turns) {
    const JointUpdate::Share share{turn.plan, turn.weight,
                                   turn.averages || turn.plan->is_captured_now(),
                                   !turn.skipped && turn.core->counter.value() > 0};
    turn.plan->offload() ? JointUpdate(share).place_on_gpus() : joint.add(share);
  }
  joint.place_on_gpus();

  for (const Turn& turn : turns) {
    if (turn.skipped) continue;
    AverageCore& core = *turn.core;
    const int64_t k = core.counter.value();
    if (k == 0) {
      core.tensors.copy_from_model();
    } else if (turn.plan->offload()) {
      core.engine.update_in_background(turn.weight, turn.averages);
    }
    if (turn.averages && core.stall.is_due()) {
      warn(*turn.average, core.stall.check(core.tensors.slots(), core.options.update_buffers,
                                           turn.average->lasting_weight()));
    }
    if ((k & (k - 1)) == 0) {
      warn(*turn.average,
           core.binding.orphans(core.tensors.slots(), k, /*look_at_gradients=*/true));
    }
  }
  joint.run();
  for (const Turn& turn : turns) {
    if (turn.skipped) continue;
    if (turn.plan->is_captured_now()) {
      turn.core->engine.keep_for_replays();
    } else {
      turn.core->counter.set(turn.core->counter.value() + 1);
    }
  }
}

void AveragedModel::defer_fence(bool defer) {
  core_->engine.defer_fence(defer);
}

void AveragedModel::fence() {
  core_->engine.fence();
}

void AveragedModel::prepare_replay() {
  AverageCore& core = core_->ready();
  core.engine.check_replay(core.tensors);
  const int64_t k = steps();
  const bool averages = k % core.options.interval == 0;
  core.engine.set_replay(averages ? weight(k) : 0.0, averages);
  core.counter.set(k + 1);
}

// ---- swap and state

SwapGuard AveragedModel::swap(const ModelRef& model, SwapMode mode) {
  AverageCore& core = core_->ready();
  if (core.is_swapped() || steps() == 0) return {};
  const torch::NoGradGuard no_grad;
  core.bind(model);
  if (model.is_list()) mode = SwapMode::copy;
  warn(*this, core.binding.orphans(core.tensors.slots(), steps(), /*look_at_gradients=*/false));
  if (mode == SwapMode::copy) {
    core.tensors.check_writable("swap: SwapMode::copy cannot write", "exchange");
  }
  core.refresh_module();
  return SwapGuard(core.swap_into_model(mode));
}

bool AveragedModel::is_swapped() const {
  return core_->is_swapped();
}

std::vector<NamedTensor> AveragedModel::swapped_out() const {
  const auto state = core_->swap.lock();
  return state ? core_->tensors.raw(*state) : std::vector<NamedTensor>();
}

torch::OrderedDict<std::string, at::Tensor> AveragedModel::named_averages() const {
  return core_->ready().tensors.averages();
}

std::vector<NamedTensor> AveragedModel::state() {
  refresh_module();
  return core_->tensors.module_tensors();
}

LoadReport AveragedModel::load_state(const std::vector<NamedTensor>& values, int64_t steps) {
  AverageCore& core = core_->ready();
  const torch::NoGradGuard no_grad;
  LoadReport report = core.tensors.load(values);
  core.counter.set(steps);
  core.refresh_module();
  return report;
}

std::vector<NamedTensor> AveragedModel::compensation() const {
  return core_->ready().tensors.residuals();
}

void AveragedModel::load_compensation(const std::vector<NamedTensor>& values) {
  core_->ready().tensors.load_residuals(values);
}

void AveragedModel::reset(const ModelRef& model) {
  AverageCore& core = core_->ready_for("reset");
  const torch::NoGradGuard no_grad;
  core.bind(model);
  core.tensors.copy_from_model();
  core.counter.set(0);
}

void AveragedModel::copy_to(const ModelRef& model) {
  AverageCore& core = core_->ready_for("copy_to");
  const torch::NoGradGuard no_grad;
  core.bind(model);
  core.tensors.check_writable("copy_to: cannot write", "swap");
  core.tensors.copy_to_model();
}

void AveragedModel::rebind(const ModelRef& model) {
  core_->ready_for("rebind").bind(model);
}

// ---- torch::nn::Module

std::shared_ptr<torch::nn::Module> AveragedModel::module() {
  AverageCore& core = core_->ready();
  if (!core.copy.why_not_to_run.empty()) {
    fail<Error>(
        "{} has no averaged copy to run: it cannot be cloned ({}). Derive it from "
        "torch::nn::Cloneable and register everything in reset(), or pass a factory that makes an "
        "empty one; averaging, swap() and saving work without",
        core.binding.model_class(), core.copy.why_not_to_run);
  }
  core.refresh_module();
  return core.copy.module;
}

void AveragedModel::throw_wrong_module() const {
  fail<Error>("module<Net>(): the averaged module is a {}, not the requested class",
              core_->copy.module->name());
}

void AveragedModel::refresh_module() const {
  core_->ready().refresh_module();
}

void AveragedModel::to(torch::Device device, torch::Dtype dtype, bool non_blocking) {
  core_->ready().move([&](const at::Tensor& tensor) {
    return tensor.to(device, is_averageable(tensor) ? dtype : tensor.scalar_type(), non_blocking);
  });
}

void AveragedModel::to(torch::Dtype dtype, bool non_blocking) {
  core_->ready().move([&](const at::Tensor& tensor) {
    return is_averageable(tensor) ? tensor.to(dtype, non_blocking) : tensor;
  });
}

void AveragedModel::to(torch::Device device, bool non_blocking) {
  core_->ready().move([&](const at::Tensor& tensor) { return tensor.to(device, non_blocking); });
}

void AveragedModel::save(torch::serialize::OutputArchive& archive) const {
  refresh_module();
  torch::nn::Module::save(archive);
}

void AveragedModel::load(torch::serialize::InputArchive& archive) {
  AverageCore& core = core_->ready();
  const torch::NoGradGuard no_grad;
  at::Tensor steps;
  archive.read("steps", steps, /*is_buffer=*/true);
  torch::serialize::InputArchive of_module;
  archive.read("module", of_module);
  load_module(of_module, *core.copy.module);
  core.counter.load(steps);
  core.sync_from_module();
}

}  // namespace polyak
