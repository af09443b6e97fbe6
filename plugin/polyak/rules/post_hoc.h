// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "polyak/core/export.h"

// Averages that are chosen after training: linear combinations of snapshots of power-function
// averages that come as close as possible to a power-function average of another width. Source:
// Karras et al. 2024 (EDM2), arXiv:2312.02696, section 3.2 and appendix C.3.
namespace polyak {

/// How much each step of a run counts in a power-function average: (gamma + 1) s^gamma /
/// t^(gamma + 1) at step s, up to step t.
struct PowerProfile {
  double t = 1;      // the steps that the average has seen, above 0
  double gamma = 0;  // its exponent, at least 0
};

/// The inner product of two profiles, the integral of their product.
POLYAK_API double profile_dot(const PowerProfile& a, const PowerProfile& b);

/// A combination of snapshots.
struct Synthesis {
  std::vector<double> coefficients;  // of the snapshots in their order; their sum is 1
  /// The distance of the combination's profile from the target's, as a part of the target's norm
  /// (both in L2). 0 is a perfect fit.
  double residual = 0;
  /// The sum of |coefficients|, at least 1: the factor by which rounding errors that all snapshots
  /// share may grow.
  double sum_of_magnitudes = 0;
  /// The square root of the sum of squares: the same for independent errors.
  double norm = 0;
};

/// Solves the least-squares problem for snapshots of a run, any number of times.
class POLYAK_API PostHocSolver {
 public:
  /// @param snapshots the profiles of the snapshots, at least one and at most 4000
  /// @throws ConfigError for none or too many, and for a profile that is none
  explicit PostHocSolver(std::vector<PowerProfile> snapshots);

  /// The combination closest to `target`. A snapshot that the others already give gets 0.
  /// @throws ConfigError for a profile that is none
  Synthesis solve(const PowerProfile& target) const;

  /// The widths sigma_rel whose residual at step t is at most `bound`, as intervals in ascending
  /// order. The ends are exact to about 1 %.
  std::vector<std::pair<double, double>> widths(double t, double bound) const;

  /// Those that the solver was built with.
  const std::vector<PowerProfile>& snapshots() const { return snapshots_; }

 private:
  using Real = long double;  // the condition number grows with the snapshots' density
  Real& factor(size_t row, size_t column) { return factor_[row * snapshots_.size() + column]; }
  Real factor(size_t row, size_t column) const { return factor_[row * snapshots_.size() + column]; }
  Real gram(size_t i, size_t j) const;

  std::vector<PowerProfile> snapshots_;
  std::vector<Real> scale_;    // 1 / norm of each profile
  std::vector<size_t> order_;  // of the pivots
  size_t rank_ = 0;
  std::vector<Real> factor_;  // lower triangle in the order of the pivots
};

}  // namespace polyak
