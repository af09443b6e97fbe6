// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/average_scope.h"

#include <gmock/gmock.h>

#include <chrono>

#include "polyak/config/load.h"
#include "polyak/rules/exponential_moving_average.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

AverageScope scope_of(const std::string& yaml) {
  ExponentialMovingAverageOptions options;
  read_options(parse_config(yaml, "c.yaml"), options, "EMA");
  return options.scope();
}

TEST(AverageScope, KeepComesBeforeExcludeAndExcludeBeforeInclude) {
  const ScopeMatcher matcher(
      scope_of("include: ['^head', backbone]\nexclude: ['^backbone\\.stem']\nkeep: stem\\.bias$"),
      false);
  EXPECT_EQ(matcher.mode_of("head.weight", false), TensorMode::average);
  EXPECT_EQ(matcher.mode_of("backbone.layer.weight", false), TensorMode::average);
  EXPECT_EQ(matcher.mode_of("backbone.stem.weight", false), TensorMode::share);
  EXPECT_EQ(matcher.mode_of("backbone.stem.bias", false), TensorMode::keep);
  EXPECT_EQ(matcher.mode_of("neck.weight", false), TensorMode::share) << "not included";
  EXPECT_EQ(matcher.mode_of("neck.mean", true), TensorMode::copy) << "of buffers, buffers decides";
}

TEST(AverageScope, TheFirstRuleOfABufferCountsAndUpdateBuffersDecidesOnTheRest) {
  const AverageScope scope = scope_of(
      "buffers: [{match: '^a\\.mean', mode: keep}, {match: mean, mode: average},\n"
      "          {match: '^b', mode: copy}]");
  for (const bool update_buffers : {false, true}) {
    const ScopeMatcher matcher(scope, update_buffers);
    EXPECT_EQ(matcher.mode_of("a.mean", true), TensorMode::keep);
    EXPECT_EQ(matcher.mode_of("b.mean", true), TensorMode::average);
    EXPECT_EQ(matcher.mode_of("b.var", true), TensorMode::copy);
    EXPECT_EQ(matcher.mode_of("c.var", true),
              update_buffers ? TensorMode::average : TensorMode::copy);
    EXPECT_EQ(matcher.mode_of("b.var", false), TensorMode::average) << "a parameter";
  }
}

TEST(AverageScope, RulesOfBuffersInCppAreThoseOfAConfig) {
  ExponentialMovingAverageOptions options;
  options.buffers({{"mean", TensorMode::keep}, {"var", TensorMode::average}})
      .exclude({"head"})
      .momentum(0.1);
  ExponentialMovingAverageOptions read;
  read_options(options_to_node(options), read, "EMA");
  EXPECT_TRUE(read.scope() == options.scope());
  const std::vector<BufferRule> rules = read.scope().buffer_rules();
  ASSERT_EQ(rules.size(), 2u);
  EXPECT_EQ(rules[0].match, "mean");
  EXPECT_EQ(rules[1].mode, TensorMode::average);
  EXPECT_FALSE(read.scope() == AverageScope());
  EXPECT_TRUE(AverageScope().covers_all());
  EXPECT_FALSE(read.scope().covers_all());
}

TEST(AverageScope, WhatIsWrongIsPlacedAtItsElement) {
  const auto expect_error = [](const std::string& yaml, const std::string& start) {
    EXPECT_THAT([&] { scope_of(yaml); }, ThrowsMessage<ConfigError>(StartsWith(start))) << yaml;
  };
  expect_error("exclude:\n  - ok\n  - 'a[b'\n",
               "c.yaml:3:5: exclude[1]: 'a[b' is not a regular expression: a '[' has no ']'");
  expect_error("exclude: '*.weight'\n",
               "c.yaml:1:1: exclude[0]: '*.weight' is not a regular expression: there is nothing "
               "before '*'");
  expect_error("include: ['(a']\n",
               "c.yaml:1:11: include[0]: '(a' is not a regular expression: a "
               "'(' has no ')'");
  expect_error("keep: ['(a)\\1']\n",
               "c.yaml:1:8: keep[0]: '(a)\\1' is not a regular expression: "
               "references back");
  expect_error("keep: ['']\n", "c.yaml:1:8: keep[0]: is empty");
  expect_error("keep: ['" + std::string(1001, 'a') + "']\n", "c.yaml:1:8: keep[0]: has 1001 char");
  expect_error("exclude: {a: 1}\n", "c.yaml:1:1: exclude: ");
  expect_error("exclude: [3]\n", "c.yaml:1:11: exclude[0]: must be a string");
  expect_error("share_frozen: 1\n", "c.yaml:1:1: share_frozen: ");
  expect_error("buffers: 3\n", "c.yaml:1:1: buffers: must be a list of {match, mode}, not an int");
  expect_error("buffers:\n  - mean\n", "c.yaml:2:5: buffers[0]: must be a mapping");
  expect_error("buffers:\n  - {match: mean, mode: kep}\n",
               "c.yaml:2:19: buffers[0].mode: must be one of average, copy, keep, got 'kep'; did "
               "you mean 'keep'?");
  expect_error("buffers:\n  - {match: mean, mode: share}\n", "c.yaml:2:19: buffers[0].mode: must");
  expect_error("buffers:\n  - {mach: mean, mode: keep}\n",
               "c.yaml:2:6: buffers[0].mach: unknown key; did you mean 'match'?");
  expect_error("buffers:\n  - {match: 'x)', mode: keep}\n",
               "c.yaml:2:6: buffers[0].match: 'x)' is not a regular expression");
  expect_error("buffers:\n  - {match: mean}\n", "c.yaml:2:5: buffers[0].mode: is missing");
  expect_error("buffers:\n  - {match: mean, mode: [keep]}\n",
               "c.yaml:2:19: buffers[0].mode: must be a string, not a list");
  expect_error("buffers:\n  - {match: mean, 'a]b.c[': keep}\n", "c.yaml:2:");
}

TEST(AverageScope, APatternThatMatchesNothingIsToldWithTheNearestName) {
  const std::vector<std::string> parameters{"backbone.conv1.weight", "head.weight", "head.bias"};
  const std::vector<std::string> buffers{"backbone.bn.running_mean"};
  const auto expect_error = [&](const std::string& yaml, const auto& what) {
    const ScopeMatcher matcher(scope_of(yaml), false);
    EXPECT_THAT([&] { matcher.check_matched(parameters, buffers); },
                ThrowsMessage<OptionError>(what))
        << yaml;
  };
  expect_error("exclude: ['^head', '^backbon\\.conv']",
               AllOf(HasSubstr("exclude[1]: '^backbon\\.conv' matches none of the model's 3 param"),
                     HasSubstr("did you mean 'backbone.conv1'?"), HasSubstr("head.bias")));
  expect_error("include: hed", HasSubstr("did you mean 'head'?"));
  expect_error("keep: zzz", AllOf(HasSubstr("keep[0]"), Not(HasSubstr("did you mean"))));
  expect_error("keep: running_mean", HasSubstr("matches buffers only; the key 'buffers'"));
  expect_error("buffers: [{match: head, mode: keep}]", HasSubstr("matches parameters only"));
  expect_error("buffers: [{match: runing_mean, mode: keep}]",
               HasSubstr("did you mean 'running_mean'?"));
  ScopeMatcher(scope_of("exclude: head\nbuffers: [{match: mean, mode: keep}]"), false)
      .check_matched(parameters, buffers);
}

TEST(AverageScope, APatternCannotHang) {
  const ScopeMatcher matcher(scope_of("exclude: ['(a+)+$', '(a|a)*b', '(.*)*x']"), false);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(matcher.mode_of(std::string(200, 'a') + "!", false), TensorMode::average);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

}  // namespace
}  // namespace polyak::test
