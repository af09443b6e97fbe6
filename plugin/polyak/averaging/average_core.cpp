// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_core.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <utility>
#include <vector>

#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/replica_check.h"
#include "polyak/core/error.h"

namespace polyak {

AverageCore::AverageCore(torch::nn::Module& self, const Options& options, Factory factory,
                         std::shared_ptr<TensorRule> tensor_rule)
    : options(options),
      tensor_rule(std::move(tensor_rule)),
      counter(self.register_buffer("steps", at::zeros({}, at::kLong))),
      tensors({options.update_buffers, options.precision, options.device, options.scope}),
      engine(options.skip_nonfinite),
      self_(self),
      factory_(std::move(factory)) {}

AverageCore& AverageCore::ready() {
  engine.wait();
  gather();
  return current();
}

AverageCore& AverageCore::current() {
  engine.wait();
  if (tensors.is_sharded()) return *this;
  if (counter.was_loaded()) sync_from_module();
  follow_model();
  if (tensor_rule) tensor_rule->follow(tensors.slots(), tensors.revision());
  return *this;
}

AverageCore& AverageCore::ready_for(const char* what) {
  ready();
  if (is_swapped()) fail<Error>("{}: release the guard of swap() first", what);
  return *this;
}

/// Keeps this process's part of the averages.
void AverageCore::shard() {
  const torch::NoGradGuard no_grad;
  const std::vector<size_t> cut = tensors.shard(processes->rank(), processes->size());
  if (tensor_rule) tensor_rule->shard(cut, tensors.slots(), tensors.revision());
}

/// Only what all processes find alike may gather: other names, sizes or dtypes, but not where a
/// tensor has its memory.
void AverageCore::follow_in_parts(const ModelRef& model) {
  if (counter.differs() || tensors.has_to_settle()) return gather();
  const bool is_current = binding.is_current(model);
  if (is_current && engine.fits(tensors)) return;
  if (!tensors.follow_in_parts(model.tensors())) return gather();
  if (!is_current) binding.bind(model);
  if (tensor_rule) tensor_rule->accept_sources(tensors.slots(), tensors.revision());
  engine.make_plan(tensors);
}

/// Makes the averages whole.
void AverageCore::gather() {
  if (!tensors.is_sharded()) return;
  const torch::NoGradGuard no_grad;
  if (tensor_rule) tensor_rule->gather(*processes, tensors.layout(), tensors.slots());
  tensors.gather(*processes);
  if (tensor_rule) tensor_rule->accept(tensors.revision());
  engine.drop_stale_plan(tensors);
}

void AverageCore::verify(const std::string& rule_name, const Node& rule_options) {
  engine.wait();
  std::vector<Fingerprint> mine{{"number of updates", static_cast<uint64_t>(counter.value())},
                                {"number of skipped updates", static_cast<uint64_t>(skipped)},
                                {"rule", digest_of(rule_name + rule_options.dump())}};
  for (const Slot& slot : tensors.slots()) {
    if (!slot.buffer || same_buffers) mine.push_back({slot.name, digest_of(slot.source)});
  }
  for (const Slot& slot : tensors.slots()) {
    if ((slot.buffer && !same_buffers) || slot.shared || slot.part) continue;
    mine.push_back({fmt::format("average of {}", slot.name), digest_of(slot.average)});
  }
  const std::string difference = find_difference(*processes, mine);
  if (difference.empty()) return;
  fail<ProcessGroupError>(
      "{}: verify: after update {}, {}; all that follows from it would be wrong: resume from a "
      "checkpoint that is older than the difference",
      rule_name, counter.value(), difference);
}

void AverageCore::sync_from_module() {
  const torch::NoGradGuard no_grad;
  const int64_t before = counter.value();
  tensors.sync_from_module();
  counter.adopt();
  count_changed(before);
  take_values();
}

void AverageCore::count_changed(int64_t before) {
  if (counter.value() == before) return;
  restarted_at = 0;
  filled = counter.value() == 0 ? 0 : -1;
}

void AverageCore::take_values(const std::set<std::string>* names) {
  if (!tensor_rule) return;
  const torch::NoGradGuard no_grad;
  tensor_rule->follow(tensors.slots(), tensors.revision());
  tensor_rule->start(tensors.slots(), names);
}

void AverageCore::start_from_model() {
  tensors.copy_from_model();
  take_values();
  filled = 0;
}

AverageCore::Position AverageCore::position(int64_t k) const {
  const int64_t since = k - origin();
  if (since < 0) return {-1, false, false};
  if (options.start == AverageStart::initial) {
    return {since + 1, false, (since + 1) % options.interval == 0};
  }
  return {since, since == 0, since > 0 && since % options.interval == 0};
}

Clock AverageCore::clock(int64_t k) const {
  Clock clock(k);
  clock.optimizer_steps -= restarted_at;
  clock.updates = std::max<int64_t>(position(k).since_start, 0);
  clock.batch_size = batch_size;
  clock.samples = batch_size * clock.optimizer_steps;
  if (k == counter.value()) clock.filled = filled;
  return clock;
}

void AverageCore::check_capture() const {
  if (!engine.plan()->is_captured_now()) return;
  if (tensor_rule || options.write_back) {
    fail<Error>("update_parameters: a CUDA graph cannot capture {}",
                tensor_rule ? "this average, which keeps more than a weighted mean" : "write_back");
  }
  if (shards() || (options.verify > 0 && size_of(processes.get()) > 1)) {
    fail<Error>("update_parameters: a CUDA graph cannot capture {}",
                options.shard ? "an average that processes share" : "verify");
  }
  engine.check_capture(has_started(), options.interval);
}

void AverageCore::write_back(int64_t k) {
  if (!options.write_back) return;
  if (!options.write_back->is_due(k + 1, position(k).since_start)) return;
  engine.wait();
  gather();
  for (const Slot& slot : tensors.slots()) {
    if (!is_averaged(slot) || slot.shared) continue;
    if (options.write_back->weight() == 1) {
      slot.source.copy_(slot.average);
      continue;
    }
    // In the average's precision: a half precision model is rounded once.
    const at::Tensor moved = slot.source.detach().to(slot.average.scalar_type(), false, true);
    lerp_by_aten(moved, slot.average, options.write_back->weight());
    slot.source.copy_(moved);
  }
  wrote_back = true;
  if (!options.write_back->restart()) return;
  // The average has the weights of this update: the next one averages.
  restarted_at = options.start == AverageStart::initial ? k + 1 : k;
  start_from_model();
}

void AverageCore::follow_model() {
  // During a swap, the model's tensors, or our own, do not hold their own values.
  if (is_swapped() || !counter.is_in_place()) return;
  const torch::NoGradGuard no_grad;
  tensors.follow_model();
  engine.drop_stale_plan(tensors);
}

void AverageCore::bind(const ModelRef& model) {
  const torch::NoGradGuard no_grad;
  const std::vector<NamedTensor> found = model.tensors();
  for (const NamedTensor& item : found) {
    if (item.tensor.layout() != at::kStrided || item.tensor.is_meta()) {
      fail<Error>("{}: is a {} tensor, which cannot be averaged; make it dense before averaging",
                  item.name, item.tensor.is_meta() ? "meta" : "sparse");
    }
  }
  const bool same_model = binding.is_of(model, tensors.slots(), found);
  if (!tensors.empty() && tensors.rebind(found, model.class_name(), same_model)) {
    binding.bind(model);
    follow_model();
  } else {
    ModelCopy made = copy_model(model, found, factory_, options.device);
    if (same_model) use_skeleton_if_outdated(made, found);
    tensors.rebuild(found, model.class_name(), made.module);
    copy.module ? self_.replace_module("module", made.module)
                : self_.register_module("module", made.module);
    copy = std::move(made);
    binding.bind(model);
  }
  engine.drop_stale_plan(tensors);
  if (std::string text = tensors.take_changes().text(); !text.empty()) {
    // A program that exchanges layers at every update logs 1, 2, ..., 8, 16, 32, ...
    constexpr int64_t kAll = 8;
    if (++changed_ <= kAll || (changed_ & (changed_ - 1)) == 0) changes_ = std::move(text);
  }
}

void AverageCore::rebind(const ModelRef& model) {
  engine.wait();
  if (tensors.is_sharded() && binding.is_current(model) && tensors.is_bound_to(model.tensors())) {
    return;
  }
  if (tensors.is_sharded() && !is_swapped() && tensors.follow_in_parts(model.tensors())) {
    binding.bind(model);
    if (tensor_rule) tensor_rule->accept_sources(tensors.slots(), tensors.revision());
    return;
  }
  ready_for("rebind").bind(model);
}

std::string AverageCore::take_changes() {
  return std::exchange(changes_, {});
}

void AverageCore::prepare(const ModelRef& model) {
  engine.wait();
  if (tensors.is_sharded()) {
    follow_in_parts(model);
    if (tensors.is_sharded()) return counter.adopt_place();  // the plan fits
  }
  if (counter.differs()) sync_from_module();
  counter.adopt_place();
  if (is_swapped()) {
    fail<Error>(
        "update_parameters: the averaged weights are in the model; release the guard of "
        "swap() first");
  }
  if (!binding.is_current(model)) bind(model);
  if (tensors.watches_gradients()) tensors.settle_frozen();
  if ((shards() && !tensors.is_sharded()) || !engine.fits(tensors)) {
    if (tensors.is_reshaped()) bind(model);  // resized in place
    tensors.check_kinds();
    follow_model();
    tensors.settle_precision();
    if (tensor_rule) tensor_rule->follow(tensors.slots(), tensors.revision());
    if (shards()) shard();
    engine.make_plan(tensors);
  }
  if (tensor_rule) tensor_rule->follow(tensors.slots(), tensors.revision());
}

void AverageCore::refresh_module() {
  if (!counter.is_in_place()) return;  // an average of the enclosing model is swapped in
  const torch::NoGradGuard no_grad;
  tensors.refresh_module();
}

void AverageCore::move(const Move& moved) {
  const torch::NoGradGuard no_grad;
  tensors.move(moved);
  engine.drop_stale_plan(tensors);
}

std::shared_ptr<SwapState> AverageCore::swap_into_model(SwapMode mode) {
  auto state = std::make_shared<SwapState>(mode);
  tensors.put_into_model(*state);
  swap = state;
  return state;
}

std::string AverageCore::count_skipped() {
  ++skipped;
  // 1, 2, 4, 8, ...: a run that diverged logs it a few times only.
  if ((skipped & (skipped - 1)) != 0) return {};
  const std::string* bad = tensors.find_nonfinite();
  return fmt::format(
      "{} holds a NaN or an infinity; the average is unchanged ({} update(s) skipped so "
      "far, {} made)",
      bad ? *bad : "the model", skipped, counter.value());
}

}  // namespace polyak
