// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/rules/clock.h"
#include "polyak/rules/precision.h"

namespace polyak {

/// Parses a device: cpu, cuda or cuda:N. @throws OptionError for other texts
POLYAK_API c10::Device parse_device(const std::string& text);
POLYAK_API std::string device_name(const c10::Device& device);
/// @throws OptionError unless this LibTorch and this machine have the device
POLYAK_API void check_device(const c10::Device& device);

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
  }
  void validate() const override {
    if (device_) check_device(*device_);
  }

  /// The weight that the rule uses for most of a run, after a fast start and before an end at 0.
  /// The warning about an average that cannot move depends on it.
  double lasting_weight() const { return static_cast<const Self&>(*this).weight(Clock(1)); }
  /// Receives the number of updates that the run will make, at least 1, before the average is
  /// built.
  void set_run_length(int64_t /*updates*/) {}
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
};

/// The keys of averages with a momentum: the weight of the NEW value, not the decay.
template <class Self>
struct MomentumOptions : AverageOptions<Self> {
  /// @param momentum the rule's default
  explicit MomentumOptions(double momentum) : momentum_(momentum) {}

  /// In (0, 1). Above 0.5 the average follows only the last few steps, and the constructor warns.
  Self& momentum(double value) { return momentum_ = value, this->self(); }
  double momentum() const { return momentum_; }

  void visit(OptionVisitor& visitor) override {
    visitor.key("momentum", &momentum_,
                "Weight of the new value at each update (1 - decay); usually a small number.",
                open_interval(0, 1));
    AverageOptions<Self>::visit(visitor);
  }

 private:
  double momentum_;
};

}  // namespace polyak
