// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/rules/length.h"

namespace polyak {

/// What happens to the optimizer's state when the average is written into the model.
enum class OptimizerStateAfter { keep, reset };
/// The name in configs: "keep" or "reset".
POLYAK_API std::string optimizer_state_after_name(OptimizerStateAfter value);
/// @throws OptionError for another name
POLYAK_API OptimizerStateAfter parse_optimizer_state_after(const std::string& name);

/// When an average is written back into the model: model += weight * (average - model).
/// Sources: Lookahead (Zhang et al. 2019, arXiv:1907.08610), Switch-EMA (Li et al. 2024,
/// arXiv:2402.09240), PMA (Deng et al. 2024).
struct POLYAK_API WriteBackOptions : Options {
  /// Every so many updates; required.
  WriteBackOptions& every(Length value) { return every_ = value, *this; }
  int64_t every() const { return every_ ? static_cast<int64_t>(every_->value) : 0; }
  /// Not before this update, counted from 1, and not after that one; empty: until the end.
  WriteBackOptions& begin(Length value) { return begin_ = value, *this; }
  WriteBackOptions& end(std::optional<Length> value) { return end_ = value, *this; }
  /// In (0, 1]; 1 copies the average.
  WriteBackOptions& weight(double value) { return weight_ = value, *this; }
  double weight() const { return weight_; }
  /// Starts the average anew from the model afterwards.
  WriteBackOptions& restart(bool value) { return restart_ = value, *this; }
  bool restart() const { return restart_; }
  /// Only EMAHook can reset the state, since it knows the optimizer.
  WriteBackOptions& optimizer_state(OptimizerStateAfter v) { return optimizer_state_ = v, *this; }
  OptimizerStateAfter optimizer_state() const { return optimizer_state_; }

  /// Whether the average is written back after an update.
  /// @param updates of the average's model so far, with this one
  /// @param since_start the same since the average started
  bool is_due(int64_t updates, int64_t since_start) const;

  void visit(OptionVisitor& visitor) override;
  void validate() const override;
  /// Replaces lengths in other units by updates where that is possible.
  void resolve(const RunLengths& run);
  /// @throws ConfigError for a length that is relative to something unknown
  void check_lengths() const;

 private:
  std::optional<Length> every_;
  Length begin_;
  std::optional<Length> end_;
  double weight_ = 1;
  bool restart_ = false;
  OptimizerStateAfter optimizer_state_ = OptimizerStateAfter::keep;
};

}  // namespace polyak
