// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/config/key_places.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/rules/average_scope.h"
#include "polyak/rules/clock.h"
#include "polyak/rules/length.h"
#include "polyak/rules/precision.h"
#include "polyak/rules/write_back.h"

namespace polyak {

/// Parses a device: cpu, cuda or cuda:N. @throws OptionError for other texts
POLYAK_API c10::Device parse_device(const std::string& text);
POLYAK_API std::string device_name(const c10::Device& device);
/// @throws OptionError unless this LibTorch and this machine have the device
POLYAK_API void check_device(const c10::Device& device);

/// Which weights an average starts with.
enum class AverageStart {
  first_update,  // those of the first update, which copies them
  initial,       // those that the model has when the average is built; the first update averages
};
/// The name in configs: "first_update" or "initial".
POLYAK_API std::string average_start_name(AverageStart start);
/// @throws OptionError for another name
POLYAK_API AverageStart parse_average_start(const std::string& name);

/// The keys of every average. `Self` is the derived Options struct, so that setters of both can be
/// chained in any order.
template <class Self>
struct AverageOptions : Options {
  /// Averages at every interval-th call of update_parameters; the calls between only count.
  Self& interval(int64_t value) { return interval_ = value, self(); }
  int64_t interval() const { return interval_; }
  /// Averages floating buffers too, instead of copying every buffer at each call.
  Self& update_buffers(bool value) { return update_buffers_ = value, self(); }
  bool update_buffers() const { return update_buffers_; }
  /// The device of the average; empty: the devices of the model's tensors.
  Self& device(std::optional<c10::Device> value) { return device_ = value, self(); }
  Self& device(const std::string& value) { return device_ = parse_device(value), self(); }
  const std::optional<c10::Device>& device() const { return device_; }

  Self& precision(Precision value) { return precision_ = value, self(); }
  [[deprecated("use polyak::Precision; the string will be removed in 0.3")]] Self& precision(
      const std::string& value) {
    return precision_ = parse_precision(value), self();
  }
  Precision precision() const { return precision_; }
  /// Checks the model before each update, and skips the update if it holds a NaN or an infinity.
  Self& skip_nonfinite(bool value) { return skip_nonfinite_ = value, self(); }
  bool skip_nonfinite() const { return skip_nonfinite_; }

  /// With `first_update`, calls 0, interval, 2 * interval, ... of update_parameters average, and
  /// the first of these copies. With `initial`, calls interval - 1, 2 * interval - 1, ... do: after
  /// interval, 2 * interval, ... optimizer steps.
  Self& start(AverageStart value) { return start_ = value, self(); }
  AverageStart start() const { return start_; }
  /// Averages with 1 - (1 - m)^interval, so that a longer interval keeps the horizon in steps.
  Self& per_interval(bool value) { return per_interval_ = value, self(); }
  bool per_interval() const { return per_interval_; }
  /// Averages with 1 - (1 - m)^(B / value), B the samples of an optimizer step, so that another
  /// batch size keeps the horizon in samples (Marian; Busbridge et al. 2023, arXiv:2307.13813).
  /// At least 1; empty: off.
  Self& base_batch_size(std::optional<int64_t> value) { return base_batch_size_ = value, self(); }
  std::optional<int64_t> base_batch_size() const { return base_batch_size_; }
  /// Writes the average back into the model from time to time (Lookahead, Switch-EMA, PMA).
  Self& write_back(std::optional<WriteBackOptions> value) {
    return write_back_ = std::move(value), self();
  }
  const std::optional<WriteBackOptions>& write_back() const { return write_back_; }

  /// With several processes (AveragedModel::set_process_group), each keeps and updates its part of
  /// the averaged parameters, without communication. What needs the whole average gathers it, in
  /// all processes: swap, saves, copy_to, named_averages, module. Buffers are not cut.
  Self& shard(bool value) { return shard_ = value, self(); }
  bool shard() const { return shard_; }
  /// With several processes, compares the parameters, and averages that are not cut, at every
  /// value-th update; a difference throws. It reads them once more. 0: never.
  Self& verify(int64_t value) { return verify_ = value, self(); }
  int64_t verify() const { return verify_; }

  /// Regular expressions of the parameters that are averaged; empty: all.
  Self& include(std::vector<std::string> patterns) {
    return scope_.include = std::move(patterns), self();
  }
  /// Those of parameters that are not averaged: module() shares the model's memory, and a swap
  /// leaves them alone. On another device or in another dtype they are copied at every update.
  Self& exclude(std::vector<std::string> patterns) {
    return scope_.exclude = std::move(patterns), self();
  }
  /// Those of parameters that keep the value of the first update.
  Self& keep(std::vector<std::string> patterns) {
    return scope_.keep = std::move(patterns), self();
  }
  /// What happens to buffers whose name matches; the first rule that matches counts, and
  /// update_buffers() decides on the others.
  Self& buffers(const std::vector<BufferRule>& rules) {
    return scope_.buffers = AverageScope::buffers_of(rules), self();
  }
  /// Treats parameters that do not require a gradient as excluded, until one requires it: its
  /// average then starts as a copy. One that is frozen later keeps its average.
  Self& share_frozen(bool value) { return scope_.share_frozen = value, self(); }
  /// All five.
  const AverageScope& scope() const { return scope_; }

  void visit(OptionVisitor& visitor) override {
    visitor.key("interval", &interval_,
                "Average at every interval-th update; the others only count.", steps_from(1));
    visitor.key("update_buffers", &update_buffers_,
                "Average floating buffers like parameters; off: copy all buffers at each update.");
    visitor.text<device_name, parse_device>(
        "device", &device_, {},
        "Device of the average, such as cpu or cuda:0; null: the device of the model.");
    visitor.text<precision_name, parse_precision>(
        "precision", &precision_, {"default", "compensated", "float64"},
        "Precision in which the average is stored; compensated: float32 plus 16 bits.");
    visitor.key("skip_nonfinite", &skip_nonfinite_,
                "Skip an update if the model holds a NaN or an infinity.");
    visitor.text<average_start_name, parse_average_start>(
        "start", &start_, {"first_update", "initial"},
        "Weights that the average starts with: those of its first update, or the initial ones.");
    if constexpr (Self::kScales) {
      visitor.key("per_interval", &per_interval_,
                  "Average with 1 - (1 - m)^interval: a longer interval keeps the horizon.");
      visitor.key("base_batch_size", &base_batch_size_,
                  "Average with 1 - (1 - m)^(B / this) for B samples a step; null: with m.",
                  count_from(1));
    }
    visitor.nested("write_back", &write_back_,
                   "Write the average into the model: a mapping of every, begin, end, weight, "
                   "restart, optimizer_state.");
    visitor.key("shard", &shard_,
                "With several processes, each keeps and updates its part of the average.");
    visitor.key("verify", &verify_,
                "Updates between comparisons of what all processes must have alike; 0: none.",
                count_from(0));
    scope_.visit(visitor);
  }
  void validate() const override {
    scope_.check();
    if (device_) check_device(*device_);
    if (write_back_) check_options(*write_back_, "write_back");
  }

  /// The weight that the rule uses for most of a run, after a fast start and before an end at 0.
  /// The warning about an average that cannot move depends on it.
  double lasting_weight() const { return static_cast<const Self&>(*this).weight(Clock(1)); }
  /// Whether the weight is a momentum, so that per_interval and base_batch_size make sense.
  static constexpr bool kScales = true;
  /// A momentum after per_interval and base_batch_size.
  double scaled(double momentum, const Clock& clock) const {
    double exponent = per_interval_ ? static_cast<double>(interval_) : 1;
    if (base_batch_size_) {
      exponent *= static_cast<double>(clock.batch_size) / static_cast<double>(*base_batch_size_);
    }
    return exponent == 1 ? momentum : -std::expm1(exponent * std::log1p(-momentum));
  }
  /// The rule's weight after per_interval and base_batch_size.
  double scaled_weight(const Clock& clock) const {
    if constexpr (!Self::kScales) return static_cast<const Self&>(*this).weight(clock);
    return scaled(static_cast<const Self&>(*this).weight(clock), clock);
  }
  /// Clock::filled after an averaging update; negative for rules that do not average from zero.
  double filled_after(const Clock& /*clock*/) const { return -1; }
  /// Updates before the average starts: those calls of update_parameters only count.
  int64_t begins_after() const { return 0; }
  /// Receives the number of updates that the run will make, at least 1, before the average is
  /// built.
  void set_run_length(int64_t /*updates*/) {}
  /// Replaces lengths in epochs, samples or parts of the run by updates, where that is possible.
  void resolve(const RunLengths& run) {
    if (write_back_) write_back_->resolve(run);
  }
  /// @throws ConfigError if a length is still relative to something unknown
  void check_lengths() const {
    if (write_back_) write_back_->check_lengths();
  }
  /// @throws ConfigError if an option is missing that an average of a model needs
  void check_complete() const {}

 protected:
  /// This object as its own type, for chained setters.
  Self& self() { return static_cast<Self&>(*this); }

 private:
  int64_t interval_ = 1;
  bool update_buffers_ = false;
  std::optional<c10::Device> device_;
  Precision precision_ = Precision::standard;
  bool skip_nonfinite_ = false;
  AverageStart start_ = AverageStart::first_update;
  bool per_interval_ = false;
  std::optional<int64_t> base_batch_size_;
  std::optional<WriteBackOptions> write_back_;
  bool shard_ = false;
  int64_t verify_ = 0;
  AverageScope scope_;
};

/// The keys of averages with a momentum: the weight of the NEW value. Three keys say the same
/// number, of which a config sets one at most:
///
///     momentum m     weight of the new value
///     decay          1 - m
///     half_life      updates after which half of the average is newer, those that only count
///                    included: m = 1 - 2^(-interval / half_life), or -1 with per_interval
template <class Self>
struct MomentumOptions : AverageOptions<Self> {
  /// @param momentum the rule's default
  explicit MomentumOptions(double momentum) : momentum_(momentum) {}

  /// In (0, 1). Above 0.5 the average follows only the last few steps, and the constructor warns.
  Self& momentum(double value) { return momentum_ = value, momentum_set_ = true, this->self(); }
  /// The momentum, whichever key gave it. NaN if half_life is not in updates yet.
  double momentum() const {
    if (decay_) return 1 - *decay_;
    if (!half_life_) return momentum_;
    if (half_life_->unit != Length::Unit::updates) return std::nan("");
    const double each = this->per_interval() ? 1 : static_cast<double>(this->interval());
    return -std::expm1(-M_LN2 * each / half_life_->value);
  }
  /// In (0, 1).
  Self& decay(double value) { return decay_ = value, this->self(); }
  /// Above 0. Other units than updates need a run, which resolve() receives.
  Self& half_life(Length value) { return half_life_ = value, this->self(); }
  const std::optional<Length>& half_life() const { return half_life_; }

  void visit(OptionVisitor& visitor) override {
    visitor.key("momentum", &momentum_,
                "Weight of the new value at each update (1 - decay); usually a small number.",
                open_interval(0, 1));
    visitor.key("decay", &decay_, "1 - momentum, in place of it.", open_interval(0, 1));
    visitor.number_or_text<length_text, parse_length>(
        "half_life", &half_life_,
        "Updates after which half of the average is newer, in place of momentum; also 2ep, 5%, "
        "100000samples.");
    AverageOptions<Self>::visit(visitor);
  }
  void validate() const override {
    AverageOptions<Self>::validate();
    if (momentum_set_ && decay_) places_.fail_for_two("decay", "momentum");
    if (momentum_set_ && half_life_) places_.fail_for_two("half_life", "momentum");
    if (decay_ && half_life_) places_.fail_for_two("half_life", "decay");
    if (half_life_ && half_life_->value <= 0) {
      fail_option("half_life", "must be above 0, got {}", length_text(*half_life_));
    }
  }
  void keep_places(const Node& block) override {
    AverageOptions<Self>::keep_places(block);
    places_.keep(block);
    const Node* const momentum = block.is_mapping() ? block.find("momentum") : nullptr;
    momentum_set_ = momentum && !momentum->is_null();
  }

  /// The other two keys become the momentum, so that a checkpoint has one number.
  void resolve(const RunLengths& run) {
    AverageOptions<Self>::resolve(run);
    if (half_life_ && !resolve_length(*half_life_, run, /*least=*/-1)) return;
    momentum_ = momentum();
    momentum_set_ = true;
    decay_.reset();
    half_life_.reset();
  }
  void check_lengths() const {
    AverageOptions<Self>::check_lengths();
    if (half_life_) check_resolved(*half_life_, Self::kName, "half_life");
  }

 private:
  double momentum_;
  bool momentum_set_ = false;
  std::optional<double> decay_;
  std::optional<Length> half_life_;
  KeyPlaces places_;
};

}  // namespace polyak
