// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"
#include "polyak/rules/post_hoc.h"
#include "polyak/runtime/post_hoc_snapshot.h"

namespace polyak {

/// The largest residual of a profile that is accepted. Up to here, the weights of a random walk are
/// within 1 % of an average kept in training, in units of its distance from the raw weights
/// (docs/offline_averages.md).
constexpr double kPostHocBound = 0.02;

/// Averages that are made from the snapshots of a PostHocEMAHook.
class POLYAK_API PostHocAverage {
 public:
  /// Reads what the snapshots in `folder`, or in its folder `post_hoc`, are.
  /// @param step the step at which the averages end; none: that of the newest snapshot
  /// @throws CheckpointError if there are none, if one is no snapshot, or if they are from several
  ///   runs
  explicit PostHocAverage(const std::string& folder, std::optional<int64_t> step = std::nullopt);

  /// The snapshots up to the step, in the order of the coefficients.
  const std::vector<PostHocSnapshot>& snapshots() const { return snapshots_; }
  int64_t step() const { return step_; }
  /// Their floating-point dtype, the least precise one.
  const std::string& dtype() const { return dtype_; }

  /// The combination for an exponent, whatever its residual.
  Synthesis solve(double gamma) const;
  /// @throws CheckpointError if the residual is above kPostHocBound, with the widths that these
  ///   snapshots give
  void check(const Synthesis& synthesis, double gamma) const;
  /// The error of the weights to expect from the snapshots' dtype, as a part of their size.
  double rounding(const Synthesis& synthesis) const;

  /// The state dict of a combination; floating-point tensors in `dtype`, or float32, and float64 of
  /// snapshots that have it. Holds one average and one snapshot.
  /// @throws CheckpointError
  Value run(const Synthesis& synthesis, const std::string& dtype = "") const;
  /// The `meta` of a checkpoint of it: `averaged` says how it was made.
  Value meta(const Synthesis& synthesis, double gamma) const;

 private:
  std::string folder_;
  std::vector<PostHocSnapshot> snapshots_;
  int64_t step_ = 0;
  std::string dtype_;
  std::shared_ptr<const PostHocSolver> solver_;
};

}  // namespace polyak
