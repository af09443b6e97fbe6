// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averaged_model.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/serialize/archive.h>

#include <optional>
#include <set>

#include "polyak/averaging/average_core.h"
#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/joint_update.h"
#include "polyak/averaging/module_archive.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

/// Logs a line, unless the text is empty.
void note(const AveragedModel& average, const std::string& text) {
  if (!text.empty()) log_info("{}: {}", average.rule_name(), text);
}

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
                               settings.precision, settings.device, std::move(settings.scope),
                               settings.start, settings.begins_after,
                               std::move(settings.write_back), settings.needs_batch_size,
                               settings.shard, settings.verify},
          std::move(factory), std::move(settings.tensor_rule))) {
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

void AveragedModel::set_batch_size(int64_t samples) {
  core_->batch_size = samples;
}

void AveragedModel::set_process_group(std::shared_ptr<ProcessGroup> processes, bool same_buffers) {
  core_->ready();
  core_->processes = std::move(processes);
  core_->same_buffers = same_buffers || size_of(core_->processes.get()) == 1;
  // All processes must skip the same updates.
  core_->engine.check_buffers(core_->same_buffers);
}

bool AveragedModel::is_sharded() const {
  return core_->tensors.is_sharded();
}

int64_t AveragedModel::begins_after() const {
  return core_->options.begins_after;
}

bool AveragedModel::has_started() const {
  return core_->has_started();
}

bool AveragedModel::wrote_back() const {
  return core_->wrote_back;
}

bool AveragedModel::wants_optimizer_reset() const {
  return wrote_back() && core_->options.write_back->optimizer_state() == OptimizerStateAfter::reset;
}

std::string AveragedModel::find_nonfinite() const {
  const AverageCore& core = core_->current();
  if (!core.has_started() || core.is_swapped()) return {};
  const torch::NoGradGuard no_grad;
  const std::string* bad = core.tensors.find_nonfinite_average();
  return bad ? *bad : std::string();
}

double AveragedModel::weight(int64_t k) const {
  if (k < 0) fail<Error>("{}: weight(k) counts updates from 0, got {}", rule_name(), k);
  const AverageCore::Position position = core_->position(k);
  if (position.starts) return 1;
  if (position.since_start < 0) return core_->options.start == AverageStart::initial ? 0 : 1;
  return rule(core_->clock(k));
}

void AveragedModel::avg_func(const at::Tensor& averaged, const at::Tensor& source,
                             int64_t k) const {
  const torch::NoGradGuard no_grad;
  Clock clock(k);
  clock.batch_size = core_->batch_size;
  const double weight = rule(clock);
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
    core.wrote_back = false;  // also if this update is skipped
    note(*averages[i], core.take_changes());
    core.check_capture();
    if (core.options.needs_batch_size && core.batch_size <= 0) {
      fail<Error>(
          "{}: base_batch_size needs the samples of an optimizer step, which are unknown; call "
          "set_batch_size() before the first update",
          averages[i]->rule_name());
    }
  }

  // Everything that can throw for a single average comes before the first change.
  struct Turn {
    AveragedModel* average;
    AverageCore* core;
    Plan* plan;
    AverageCore::Position position;
    double weight;
    bool averages;  // by the plan
    bool skipped;
    std::optional<bool> finite;
  };
  c10::SmallVector<Turn, 8> turns;
  for (AveragedModel* average : averages) {
    AverageCore& core = *average->core_;
    Plan* const plan = core.engine.plan();
    bool skipped = false;
    std::optional<bool> finite;
    if (core.options.skip_nonfinite) {
      for (const Turn& turn : turns) {  // checked once for all averages of the same tensors
        if (turn.finite && turn.core->options.covers_as(core.options)) finite = turn.finite;
      }
      if (!finite) finite = plan->model_is_finite();
      skipped = !*finite;
      if (skipped) warn(*average, core.count_skipped());
    }
    const int64_t k = core.counter.value();
    const AverageCore::Position position = core.position(k);
    const bool averages_now = !skipped && position.averages;
    const double weight = averages_now ? average->rule(core.clock(k)) : 0.0;
    turns.push_back({average, &core, plan, position, weight, averages_now && !core.tensor_rule,
                     skipped, finite});
  }
  JointUpdate joint;
  for (const Turn& turn : turns) {
    const JointUpdate::Share share{turn.plan, turn.weight,
                                   turn.averages || turn.plan->is_captured_now(),
                                   !turn.skipped && turn.position.since_start > 0};
    turn.plan->offload() ? JointUpdate(share).place_on_gpus() : joint.add(share);
  }
  joint.place_on_gpus();

  for (const Turn& turn : turns) {
    if (turn.skipped) continue;
    AverageCore& core = *turn.core;
    const int64_t k = core.counter.value();
    if (turn.position.starts) {
      core.start_from_model();
    } else if (turn.plan->offload() && turn.position.since_start > 0) {
      core.engine.update_in_background(turn.weight, turn.averages);
    }
    if (turn.averages && core.stall.is_due()) {
      warn(*turn.average, core.stall.check(core.tensors.slots(), turn.average->lasting_weight()));
    }
    if ((k & (k - 1)) == 0) {
      warn(*turn.average,
           core.binding.orphans(core.tensors.slots(), k, /*look_at_gradients=*/true));
    }
  }
  joint.run();
  for (const Turn& turn : turns) {
    if (turn.skipped) continue;
    AverageCore& core = *turn.core;
    if (turn.plan->is_captured_now()) {
      core.engine.keep_for_replays();
      continue;
    }
    const int64_t k = core.counter.value();
    if (turn.position.starts || turn.position.averages) {
      const Clock clock = core.clock(k);
      if (core.tensor_rule && turn.position.averages) {
        core.engine.wait();
        core.tensor_rule->update(core.tensors.slots(), clock, turn.weight);
      }
      core.filled = std::max(turn.average->filled_after(clock), 0.0);
    }
    core.counter.set(k + 1);
  }
  for (const Turn& turn : turns) {
    if (turn.core->is_verify_due()) {
      turn.core->verify(turn.average->rule_name(), turn.average->rule_options());
    }
  }
  // Last, since each changes the model that the others average.
  for (const Turn& turn : turns) {
    if (!turn.skipped && !turn.plan->is_captured_now()) {
      turn.core->write_back(turn.core->counter.value() - 1);
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
  const bool averages = core.position(k).averages;
  const Clock clock = core.clock(k);
  core.engine.set_replay(averages ? rule(clock) : 0.0, averages);
  if (averages) core.filled = std::max(filled_after(clock), 0.0);
  core.counter.set(k + 1);
}

// ---- swap and state

SwapGuard AveragedModel::swap(const ModelRef& model, SwapMode mode) {
  AverageCore& core = core_->ready();
  if (core.is_swapped() || !core.has_started()) return {};
  const torch::NoGradGuard no_grad;
  core.bind(model);
  note(*this, core.take_changes());
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

AverageCoverage AveragedModel::coverage() const {
  AverageCore& core = core_->current();
  AverageCoverage coverage = core.tensors.coverage();
  if (!core.tensor_rule) return coverage;
  const std::vector<int64_t> kept = core.tensor_rule->bytes();
  for (size_t i = 0; i < kept.size(); ++i) coverage.tensors[i].bytes += kept[i];
  return coverage;
}

std::vector<NamedTensor> AveragedModel::state() {
  refresh_module();
  return core_->tensors.module_tensors();
}

LoadReport AveragedModel::load_state(const std::vector<NamedTensor>& values, int64_t steps) {
  AverageCore& core = core_->ready();
  const torch::NoGradGuard no_grad;
  LoadReport report = core.tensors.load(values);
  const int64_t before = core.counter.value();
  core.counter.set(steps);
  core.count_changed(before);
  std::set<std::string> names;
  for (const NamedTensor& value : values) names.insert(value.name);
  core.take_values(&names);
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
  note(*this, core.take_changes());
  core.start_from_model();
  core.begun_at.reset();
  core.restarted_at = 0;
  core.counter.set(0);
}

void AveragedModel::copy_to(const ModelRef& model) {
  AverageCore& core = core_->ready_for("copy_to");
  const torch::NoGradGuard no_grad;
  core.bind(model);
  note(*this, core.take_changes());
  core.tensors.check_writable("copy_to: cannot write", "swap");
  core.tensors.copy_to_model();
}

void AveragedModel::rebind(const ModelRef& model) {
  core_->rebind(model);
  note(*this, core_->take_changes());
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
  core.tensors.unshare();  // an archive is not loaded into the model
  load_module(of_module, *core.copy.module);
  const int64_t before = core.counter.value();
  core.counter.load(steps);
  core.sync_from_module();
  core.count_changed(before);
}

}  // namespace polyak
