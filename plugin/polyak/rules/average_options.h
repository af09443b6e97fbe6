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

/// The device of a text: cpu, cuda or cuda:N. @throws OptionError for another text
POLYAK_API c10::Device parse_device(const std::string& text);
POLYAK_API std::string device_name(const c10::Device& device);
/// @throws OptionError unless this LibTorch and this machine have the device
POLYAK_API void check_device(const c10::Device& device);

/// The keys that every average takes. `Self` is the Options struct itself, so that setters of both
/// chain in any order.
template <class Self>
struct AverageOptions : Options {
  /// Averages at every interval-th call of update_parameters; the calls between only count.
  Self& interval(int64_t value) { return interval_ = value, self(); }
  int64_t interval() const { return interval_; }
  /// Averages floating buffers too, instead of copying every buffer at each call.
  Self& update_buffers(bool value) { return update_buffers_ = value, self(); }
  bool update_buffers() const { return update_buffers_; }
  /// Where the average is kept; empty: where the model's tensors are.
  Self& device(std::optional<c10::Device> value) { return device_ = value, self(); }
  Self& device(const std::string& value) { return device_ = parse_device(value), self(); }
  const std::optional<c10::Device>& device() const { return device_; }

  Self& precision(Precision value) { return precision_ = value, self(); }
  [[deprecated("use polyak::Precision; the string goes in 0.3")]] Self& precision(
      const std::string& value) {
    return precision_ = parse_precision(value), self();
  }
  Precision precision() const { return precision_; }
  /// Looks at the model before each update, and leaves the average as it was where a NaN or an
  /// infinity is in it.
  Self& skip_nonfinite(bool value) { return skip_nonfinite_ = value, self(); }
  bool skip_nonfinite() const { return skip_nonfinite_; }

  void visit(OptionVisitor& visitor) override {
    visitor.key("interval", &interval_,
                "Average at every interval-th update; the others only count.", steps_from(1));
    visitor.key("update_buffers", &update_buffers_,
                "Average floating buffers like parameters; off: copy all buffers at each update.");
    visitor.text<device_name, parse_device>(
        "device", &device_, {},
        "Where the average is kept, such as cpu or cuda:0; null: where the model is.");
    visitor.text<precision_name, parse_precision>(
        "precision", &precision_, {"default", "compensated", "float64"},
        "What the average is kept in; compensated: float32 and 16 more bits.");
    visitor.key("skip_nonfinite", &skip_nonfinite_,
                "Leave the average as it was when the model holds a NaN or an infinity.");
  }
  void validate() const override {
    if (device_) check_device(*device_);
  }

  /// The weight that the rule works with for long, after a fast start and before an end at 0: what
  /// the warning of an average that cannot move is judged by.
  double lasting_weight() const { return static_cast<const Self&>(*this).weight(Clock(1)); }
  /// Hears the updates that the run will make, at least 1, before the average is built.
  void set_run_length(int64_t /*updates*/) {}
  /// @throws ConfigError when an option is missing that an average of a model needs
  void check_complete() const {}

 protected:
  /// This object as what it is, for setters that chain.
  Self& self() { return static_cast<Self&>(*this); }

 private:
  int64_t interval_ = 1;
  bool update_buffers_ = false;
  std::optional<c10::Device> device_;
  Precision precision_ = Precision::standard;
  bool skip_nonfinite_ = false;
};

/// The keys of averages that have a momentum: the weight of the NEW value, not the decay.
template <class Self>
struct MomentumOptions : AverageOptions<Self> {
  /// @param momentum the rule's default
  explicit MomentumOptions(double momentum) : momentum_(momentum) {}

  /// In (0, 1). Above 0.5 the average follows the last few steps only, and construction warns.
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
