// SPDX-License-Identifier: Apache-2.0
// Averages chosen after training: EDM2's profiles, and combinations of snapshots.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "polyak/averaging/averages.h"
#include "polyak/rules/post_hoc.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// The steps' weights of a power-function average by its definition, not by updates: the integral
/// of (gamma + 1) s^gamma / t^(gamma + 1) over each step.
std::vector<double> profile_of(int64_t t, double gamma, int64_t steps) {
  std::vector<double> weights(static_cast<size_t>(steps), 0.0);
  for (int64_t s = 1; s <= t; ++s) {
    const double end = std::pow(static_cast<double>(s) / static_cast<double>(t), gamma + 1);
    const double begin = std::pow(static_cast<double>(s - 1) / static_cast<double>(t), gamma + 1);
    weights[static_cast<size_t>(s - 1)] = end - begin;
  }
  return weights;
}

/// What updates with these weights make of a series: 200 of them, at every interval-th.
double updated(const PowerFunctionEMAOptions& options, const std::vector<double>& series) {
  double average = series[0];
  for (int64_t k = 1; k < static_cast<int64_t>(series.size()); ++k) {
    if (k % options.interval() != 0) continue;
    average += options.weight(Clock(k)) * (series[static_cast<size_t>(k)] - average);
  }
  return average;
}

TEST(PowerFunctionEMA, HasItsProfileUnderEveryInterval) {
  std::mt19937_64 random(7);
  std::normal_distribution<double> noise;
  std::vector<double> series(200);
  for (double& value : series) value = noise(random);
  for (const int64_t interval : {1, 3, 7}) {
    for (const double gamma : {0.0, 1.5, 6.94, 16.97}) {
      const auto options = PowerFunctionEMAOptions().gamma(gamma).interval(interval);
      // An update at call k stands for the steps since the update before it.
      int64_t last = 0;
      for (int64_t k = 0; k < 200; k += interval) last = k;
      const auto t = static_cast<double>(last + 1);
      double expected = 0;
      for (int64_t k = 0; k <= last; k += interval) {
        const double end = std::pow(static_cast<double>(k + 1) / t, gamma + 1);
        const double begin =
            k == 0 ? 0 : std::pow(static_cast<double>(k + 1 - interval) / t, gamma + 1);
        expected += (end - begin) * series[static_cast<size_t>(k)];
      }
      EXPECT_NEAR(updated(options, series), expected, 1e-12)
          << "interval " << interval << ", gamma " << gamma;
    }
  }
}

TEST(PowerFunctionEMA, GivesThePapersWeights) {
  for (const int64_t interval : {1, 3, 7}) {
    const auto options = PowerFunctionEMAOptions().sigma_rel(0.05).interval(interval);
    for (int64_t k = interval; k < 200; ++k) {
      const auto t = static_cast<double>(k + 1);
      const double beta = std::pow((t - static_cast<double>(interval)) / t, options.exponent() + 1);
      EXPECT_NEAR(options.weight(Clock(k)), 1 - beta, 1e-12);
    }
    EXPECT_EQ(options.weight(Clock(0)), 1.0);
  }
}

TEST(PowerFunctionEMA, SolvesThePapersEquationForGamma) {
  // From EDM2: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94.
  EXPECT_NEAR(power_function_gamma(0.05), 16.97, 0.005);
  EXPECT_NEAR(power_function_gamma(0.10), 6.94, 0.005);
  EXPECT_EQ(power_function_gamma(kMaxSigmaRel), 0.0);
  for (double sigma = 0.001; sigma < kMaxSigmaRel; sigma *= 1.1) {
    const double gamma = power_function_gamma(sigma);
    EXPECT_NEAR(std::sqrt(gamma + 1) / (gamma + 2) / std::sqrt(gamma + 3) / sigma, 1, 1e-12);
    EXPECT_NEAR(power_function_sigma_rel(gamma) / sigma, 1, 1e-12);
  }
}

TEST(PowerFunctionEMA, HasItsWidthAsThePartOfTheRun) {
  const std::vector<double> weights = profile_of(100000, power_function_gamma(0.1), 100000);
  double mean = 0;
  double square = 0;
  for (size_t s = 0; s < weights.size(); ++s) {
    const double at = (static_cast<double>(s) + 0.5) / 100000;
    mean += weights[s] * at;
    square += weights[s] * at * at;
  }
  EXPECT_NEAR(std::sqrt(square - mean * mean), 0.1, 1e-6);
}

TEST(PowerFunctionEMA, NeedsExactlyOneOfItsTwoNames) {
  const auto check = [](const PowerFunctionEMAOptions& options) {
    check_options(options, PowerFunctionEMAOptions::kName);
  };
  EXPECT_NO_THROW(check(PowerFunctionEMAOptions().gamma(3)));
  EXPECT_NO_THROW(check(PowerFunctionEMAOptions().sigma_rel(kMaxSigmaRel)));
  EXPECT_THAT([&] { check({}); }, ThrowsMessage<ConfigError>(HasSubstr("sigma_rel: is required")));
  EXPECT_THAT([&] { check(PowerFunctionEMAOptions().sigma_rel(0.1).gamma(3)); },
              ThrowsMessage<ConfigError>(HasSubstr("remove one")));
  for (const double wrong : {0.0, -0.1, 0.3, std::nan("")}) {
    EXPECT_THAT([&] { check(PowerFunctionEMAOptions().sigma_rel(wrong)); },
                ThrowsMessage<ConfigError>(HasSubstr("sigma_rel")));
  }
  EXPECT_THAT([&] { check(PowerFunctionEMAOptions().gamma(-0.5)); },
              ThrowsMessage<ConfigError>(HasSubstr("gamma")));
}

// ---- the solver

/// Snapshots of two averages at regular steps.
std::vector<PowerProfile> snapshots_every(int64_t every, int64_t steps) {
  std::vector<PowerProfile> snapshots;
  for (int64_t t = every; t <= steps; t += every) {
    for (const double sigma : {0.05, 0.10}) {
      snapshots.push_back({static_cast<double>(t), power_function_gamma(sigma)});
    }
  }
  return snapshots;
}

TEST(PostHocSolver, TakesTheInnerProductsOfProfiles) {
  // By sums over many steps.
  constexpr int64_t kSteps = 200000;
  const auto summed = [](int64_t ta, double ga, int64_t tb, double gb) {
    const std::vector<double> a = profile_of(ta, ga, kSteps);
    const std::vector<double> b = profile_of(tb, gb, kSteps);
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for (const auto& [ta, ga, tb, gb] :
       std::vector<std::tuple<int64_t, double, int64_t, double>>{{kSteps, 6.94, kSteps, 16.97},
                                                                 {150000, 6.94, kSteps, 16.97},
                                                                 {kSteps, 6.94, 150000, 16.97},
                                                                 {kSteps, 0, 100000, 3}}) {
    const double expected = summed(ta, ga, tb, gb);
    const PowerProfile a{static_cast<double>(ta), ga};
    const PowerProfile b{static_cast<double>(tb), gb};
    EXPECT_NEAR(profile_dot(a, b) / expected, 1, 1e-6);
    EXPECT_EQ(profile_dot(a, b), profile_dot(b, a));
  }
}

TEST(PostHocSolver, FindsASnapshotItself) {
  const PostHocSolver solver(snapshots_every(20, 2000));
  const Synthesis found = solver.solve({2000, power_function_gamma(0.10)});
  for (size_t i = 0; i + 1 < found.coefficients.size(); ++i) {
    EXPECT_NEAR(found.coefficients[i], 0, 1e-8);
  }
  EXPECT_NEAR(found.coefficients.back(), 1, 1e-8);
  EXPECT_LT(found.residual, 1e-7);
  EXPECT_NEAR(found.sum_of_magnitudes, 1, 1e-6);
}

TEST(PostHocSolver, IsNotConfusedByASnapshotThatIsGivenTwice) {
  std::vector<PowerProfile> twice = snapshots_every(100, 2000);
  const Synthesis once = PostHocSolver(twice).solve({2000, power_function_gamma(0.15)});
  twice.push_back(twice[7]);
  twice.push_back(twice[7]);
  const Synthesis found = PostHocSolver(twice).solve({2000, power_function_gamma(0.15)});
  EXPECT_NEAR(found.residual, once.residual, 1e-9);
  EXPECT_NEAR(found.sum_of_magnitudes, once.sum_of_magnitudes, 1e-4);
}

TEST(PostHocSolver, StatesTheResidualOfTheProfileThatItGives) {
  constexpr int64_t kSteps = 20000;
  const std::vector<PowerProfile> snapshots = snapshots_every(400, kSteps);
  const PostHocSolver solver(snapshots);
  for (const double sigma : {0.02, 0.03, 0.2, 0.28}) {
    const double gamma = power_function_gamma(sigma);
    const Synthesis found = solver.solve({kSteps, gamma});
    std::vector<double> difference = profile_of(kSteps, gamma, kSteps);
    double norm = 0;
    for (const double value : difference) norm += value * value;
    double sum = 0;
    for (size_t i = 0; i < snapshots.size(); ++i) {
      sum += found.coefficients[i];
      const std::vector<double> own =
          profile_of(static_cast<int64_t>(snapshots[i].t), snapshots[i].gamma, kSteps);
      for (size_t s = 0; s < own.size(); ++s) difference[s] -= found.coefficients[i] * own[s];
    }
    double left = 0;
    for (const double value : difference) left += value * value;
    EXPECT_NEAR(std::sqrt(left / norm) / found.residual, 1, 0.02) << sigma;
    EXPECT_NEAR(sum, 1, 1e-9);
  }
}

TEST(PostHocSolver, KnowsTheWidthsThatSnapshotsCanGive) {
  const PostHocSolver fine(snapshots_every(20, 2000));
  const auto widths = fine.widths(2000, 0.01);
  ASSERT_EQ(widths.size(), 1U);
  EXPECT_LT(widths[0].first, 0.02);
  EXPECT_GT(widths[0].second, 0.25);
  for (const double inside : {widths[0].first, widths[0].second}) {
    EXPECT_LE(fine.solve({2000, power_function_gamma(inside)}).residual, 0.01);
  }
  EXPECT_GT(fine.solve({2000, power_function_gamma(widths[0].first * 0.98)}).residual, 0.01);
  const auto coarse = PostHocSolver(snapshots_every(200, 2000)).widths(2000, 0.01);
  EXPECT_GT(coarse[0].first, widths[0].first);
}

TEST(PostHocSolver, RefusesWhatIsNoProfile) {
  EXPECT_THAT([] { PostHocSolver({}); }, ThrowsMessage<ConfigError>(HasSubstr("no snapshots")));
  EXPECT_THAT([] { PostHocSolver({{0, 1}}); }, ThrowsMessage<ConfigError>(HasSubstr("above 0")));
  EXPECT_THAT(
      [] {
        PostHocSolver({{1, std::nan("")}});
      },
      ThrowsMessage<ConfigError>(HasSubstr("exponent")));
  EXPECT_THAT(
      [] {
        PostHocSolver(std::vector<PowerProfile>(4001, {1, 1}));
      },
      ThrowsMessage<ConfigError>(HasSubstr("too many")));
}

/// The promise of post-hoc averages: within 1 % of the average of that width kept in training, in
/// units of how far that is from the raw weights.
TEST(PostHocSolver, GivesWhatTrainingWouldHaveAveraged) {
  constexpr int64_t kSteps = 2000;
  constexpr int64_t kEvery = kSteps / 100;
  constexpr size_t kWeights = 500;
  const std::vector<double> kept{0.05, 0.10};
  const std::vector<double> wanted{0.03, 0.04, 0.07, 0.12, 0.15, 0.20};
  std::vector<PowerFunctionEMAOptions> rules;
  for (const double sigma : kept) rules.push_back(PowerFunctionEMAOptions().sigma_rel(sigma));
  for (const double sigma : wanted) rules.push_back(PowerFunctionEMAOptions().sigma_rel(sigma));

  // A random walk: weights at a constant learning rate.
  std::mt19937_64 random(3);
  std::normal_distribution<double> noise;
  std::vector<double> raw(kWeights, 0);
  std::vector<std::vector<float>> averages(rules.size());  // float32, as in training
  std::vector<std::vector<float>> saved;
  std::vector<PowerProfile> profiles;
  for (int64_t k = 0; k < kSteps; ++k) {
    for (double& value : raw) value += noise(random);
    for (size_t a = 0; a < rules.size(); ++a) {
      averages[a].resize(kWeights);
      const double weight = k == 0 ? 1 : rules[a].weight(Clock(k));
      for (size_t i = 0; i < kWeights; ++i) {
        averages[a][i] += static_cast<float>(weight * (raw[i] - averages[a][i]));
      }
    }
    if ((k + 1) % kEvery != 0) continue;
    for (size_t a = 0; a < kept.size(); ++a) {
      saved.push_back(averages[a]);
      profiles.push_back({static_cast<double>(k + 1), rules[a].exponent()});
    }
  }
  const PostHocSolver solver(profiles);
  for (size_t w = 0; w < wanted.size(); ++w) {
    const Synthesis found = solver.solve({kSteps, power_function_gamma(wanted[w])});
    double error = 0;
    double distance = 0;
    for (size_t i = 0; i < kWeights; ++i) {
      double value = 0;
      for (size_t s = 0; s < saved.size(); ++s) value += found.coefficients[s] * saved[s][i];
      const double direct = averages[kept.size() + w][i];
      error += (value - direct) * (value - direct);
      distance += (direct - raw[i]) * (direct - raw[i]);
    }
    EXPECT_LT(std::sqrt(error / distance), 1e-3) << "sigma_rel " << wanted[w];
  }
}

}  // namespace
}  // namespace polyak
