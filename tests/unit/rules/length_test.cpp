// SPDX-License-Identifier: Apache-2.0
// Names of one number, and lengths in other units than updates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "polyak/averaging/averages.h"
#include "polyak/config/load.h"
#include "polyak/rules/length.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(Length, IsReadAsConfigsWriteIt) {
  for (const char* text : {"2000", "2ep", "0.5ep", "5%", "12.5%", "100000samples", "0"}) {
    EXPECT_EQ(length_text(parse_length(text)), text);
  }
  for (const char* text :
       {"", "ep", "2 ep", "2epochs", "nan", "inf", "0x10", "5%%", "2e", "five"}) {
    EXPECT_THAT([&] { parse_length(text); }, ThrowsMessage<ConfigError>(HasSubstr("not a length")))
        << text;
  }
  EXPECT_THROW(parse_length("-1"), ConfigError);
  EXPECT_THROW(parse_length("101%"), ConfigError);
  EXPECT_THROW(parse_length("1e300"), ConfigError);
}

TEST(Length, BecomesUpdatesWhereTheRunIsKnown) {
  const RunLengths run{1000, 62.5, 64};
  EXPECT_EQ(updates_in(parse_length("2ep"), run), 125);
  EXPECT_EQ(updates_in(parse_length("5%"), run), 50);
  EXPECT_EQ(updates_in(parse_length("6400samples"), run), 100);
  EXPECT_EQ(updates_in(parse_length("5%"), {}), std::nullopt);
  Length half_epoch = parse_length("0.001ep");
  EXPECT_TRUE(resolve_length(half_epoch, run, 1));
  EXPECT_EQ(half_epoch.value, 1) << "at least one update";
}

TEST(Momentum, HasThreeNames) {
  EXPECT_DOUBLE_EQ(ExponentialMovingAverageOptions().decay(0.999).momentum(), 1 - 0.999);
  EXPECT_NEAR(ExponentialMovingAverageOptions().half_life(2000).momentum(),
              1 - std::pow(0.5, 1.0 / 2000), 1e-16);
  ExponentialMovingAverageOptions options;
  options.half_life(parse_length("5%"));
  EXPECT_THROW(options.check_lengths(), ConfigError);
  options.resolve({1000, 0, 0});
  EXPECT_NEAR(options.momentum(), 1 - std::pow(0.5, 1.0 / 50), 1e-15);
  EXPECT_FALSE(options.half_life()) << "a checkpoint has one number: the momentum";
}

TEST(Momentum, RefusesTwoNamesAtOnceAndSaysWhereBothAre) {
  const auto read = [](const std::string& text) {
    const Node config = parse_config(text, "c.yaml");
    ExponentialMovingAverageOptions options;
    read_options(config, options, "ExponentialMovingAverage");
  };
  EXPECT_THAT([&] { read("momentum: 0.1\ndecay: 0.9\n"); },
              ThrowsMessage<ConfigError>(
                  "c.yaml:2:1: decay: says the same as 'momentum' at c.yaml:1:1; set one of them"));
  EXPECT_THAT([&] { read("half_life: 5%\ndecay: 0.9\n"); },
              ThrowsMessage<ConfigError>(HasSubstr("c.yaml:1:1: half_life: says the same")));
  read("momentum: 0.1\ndecay: null\n");
  const ExponentialMovingAverageOptions options =
      ExponentialMovingAverageOptions().momentum(0.1).half_life(10);
  EXPECT_THROW(check_options(options, "EMA"), ConfigError);
}

TEST(Options, ComeBackFromTheirOwnNode) {
  auto options = CosineEMAOptions()
                     .decay(0.99)
                     .max_iters(parse_length("2ep"))
                     .write_back(WriteBackOptions().every(parse_length("1ep")).weight(0.5));
  options.resolve({1000, 100, 64});
  EXPECT_EQ(options.write_back()->every(), 100);
  CosineEMAOptions read;
  read_options(options_to_node(options), read, "CosineEMA");
  EXPECT_EQ(options_to_node(read), options_to_node(options));
  EXPECT_EQ(read.write_back()->weight(), 0.5);
}

}  // namespace
}  // namespace polyak
