// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/post_hoc.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "polyak/core/error.h"
#include "polyak/rules/power_function_ema.h"

namespace polyak {
namespace {

constexpr size_t kMaxSnapshots = 4000;  // whose factors take 256 MB

void check(const PowerProfile& profile) {
  if (profile.t > 0 && std::isfinite(profile.t) && profile.gamma >= 0 &&
      std::isfinite(profile.gamma)) {
    return;
  }
  fail<ConfigError>(
      "a profile of {} steps with the exponent {} is none; steps must be above 0, the exponent at "
      "least 0",
      profile.t, profile.gamma);
}

long double dot(const PowerProfile& a, const PowerProfile& b) {
  const long double ga = a.gamma;
  const long double gb = b.gamma;
  // The longer average at the end of the shorter one.
  const bool a_ends_first = a.t < b.t;
  const long double ratio =
      a_ends_first ? static_cast<long double>(a.t) / b.t : static_cast<long double>(b.t) / a.t;
  const long double there = std::pow(ratio, a_ends_first ? gb : ga);
  return (ga + 1) * (gb + 1) / (ga + gb + 1) * there / std::max(a.t, b.t);
}

}  // namespace

double profile_dot(const PowerProfile& a, const PowerProfile& b) {
  check(a);
  check(b);
  return static_cast<double>(dot(a, b));
}

PostHocSolver::Real PostHocSolver::gram(size_t i, size_t j) const {
  return i == j ? 1 : dot(snapshots_[i], snapshots_[j]) * scale_[i] * scale_[j];
}

/// Cholesky's factorisation with pivots, of profiles of norm 1: it ends where no snapshot adds
/// anything to those before it.
PostHocSolver::PostHocSolver(std::vector<PowerProfile> snapshots)
    : snapshots_(std::move(snapshots)) {
  const size_t count = snapshots_.size();
  if (count == 0) fail<ConfigError>("there are no snapshots to combine");
  if (count > kMaxSnapshots) {
    fail<ConfigError>("{} snapshots are too many to combine; use at most {}", count, kMaxSnapshots);
  }
  scale_.reserve(count);
  for (const PowerProfile& profile : snapshots_) {
    check(profile);
    scale_.push_back(1 / std::sqrt(dot(profile, profile)));
  }
  order_.resize(count);
  std::iota(order_.begin(), order_.end(), size_t{0});
  factor_.assign(count * count, 0);
  std::vector<Real> left(count, 1);  // of each diagonal element, by row
  const Real least = 16 * static_cast<Real>(count) * std::numeric_limits<Real>::epsilon();
  for (rank_ = 0; rank_ < count; ++rank_) {
    const size_t k = rank_;
    const auto best = std::max_element(left.begin() + static_cast<std::ptrdiff_t>(k), left.end());
    if (!(*best > least)) break;
    const auto pivot = static_cast<size_t>(best - left.begin());
    if (pivot != k) {
      std::swap(order_[k], order_[pivot]);
      std::swap(left[k], left[pivot]);
      for (size_t j = 0; j < k; ++j) std::swap(factor(k, j), factor(pivot, j));
    }
    const Real root = std::sqrt(left[k]);
    factor(k, k) = root;
    for (size_t i = k + 1; i < count; ++i) {
      Real value = gram(order_[i], order_[k]);
      for (size_t j = 0; j < k; ++j) value -= factor(i, j) * factor(k, j);
      factor(i, k) = value / root;
      left[i] -= factor(i, k) * factor(i, k);
    }
  }
}

Synthesis PostHocSolver::solve(const PowerProfile& target) const {
  check(target);
  const size_t count = snapshots_.size();
  const Real norm = std::sqrt(dot(target, target));
  std::vector<Real> wanted(count);
  for (size_t i = 0; i < count; ++i) wanted[i] = dot(snapshots_[i], target) * scale_[i] / norm;

  std::vector<Real> x(rank_);
  for (size_t i = 0; i < rank_; ++i) {
    x[i] = wanted[order_[i]];
    for (size_t j = 0; j < i; ++j) x[i] -= factor(i, j) * x[j];
    x[i] /= factor(i, i);
  }
  for (size_t i = rank_; i-- > 0;) {
    for (size_t j = i + 1; j < rank_; ++j) x[i] -= factor(j, i) * x[j];
    x[i] /= factor(i, i);
  }
  // Back to profiles whose integral is 1, and a sum of 1, so that equal weights stay as they are.
  std::vector<Real> coefficients(count, 0);
  Real sum = 0;
  for (size_t i = 0; i < rank_; ++i) {
    coefficients[order_[i]] = x[i] * scale_[order_[i]] * norm;
    sum += coefficients[order_[i]];
  }
  Synthesis found;
  found.coefficients.resize(count);
  if (!(sum > 0)) {  // the target is over before the first snapshot begins to count
    found.coefficients.assign(count, 0);
    found.residual = 1;
    return found;
  }
  Real squares = 0;
  for (size_t i = 0; i < count; ++i) {
    coefficients[i] /= sum;
    found.coefficients[i] = static_cast<double>(coefficients[i]);
    found.sum_of_magnitudes += std::abs(found.coefficients[i]);
    squares += coefficients[i] * coefficients[i];
  }
  found.norm = static_cast<double>(std::sqrt(squares));
  // |target|^2 - 2 <target, c> + |c|^2, where |c| is the norm of the factor's transpose times c.
  std::vector<Real> product(rank_, 0);
  Real distance = 1;
  for (size_t i = 0; i < rank_; ++i) {
    const Real own = coefficients[order_[i]] / (scale_[order_[i]] * norm);
    distance -= 2 * own * wanted[order_[i]];
    for (size_t j = 0; j <= i; ++j) product[j] += factor(i, j) * own;
  }
  for (const Real value : product) distance += value * value;
  found.residual = static_cast<double>(std::sqrt(std::max<Real>(distance, 0)));
  return found;
}

std::vector<std::pair<double, double>> PostHocSolver::widths(double t, double bound) const {
  constexpr int kSteps = 600;  // of 1 % each
  constexpr double kFactor = 0.99;
  std::vector<std::pair<double, double>> found;
  double width = kMaxSigmaRel;
  bool inside = false;
  for (int i = 0; i < kSteps; ++i, width *= kFactor) {
    const bool fits = solve({t, power_function_gamma(width)}).residual <= bound;
    if (fits && !inside) found.emplace_back(width, width);
    if (fits) found.back().first = width;
    inside = fits;
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace polyak
