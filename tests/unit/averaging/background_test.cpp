// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace polyak {
namespace {

void take_a_while() {
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(Background, WhatAJobWroteIsThereAfterWait) {
  Background background;
  std::vector<int> values(1000);
  for (int round = 1; round <= 50; ++round) {
    background.start([&] {
      if (round % 10 == 0) take_a_while();
      for (int& value : values) value = round;
    });
    background.wait();
    EXPECT_EQ(values.front() + values.back(), 2 * round);
  }
}

TEST(Background, WorksBesideItsCaller) {
  Background background;
  std::atomic<bool> go{false};
  background.start([&] {
    while (!go) std::this_thread::yield();
  });
  go = true;  // a job that ran inside start() would never come here
  background.wait();
}

TEST(Background, JobsRunOneAfterTheOtherInTheirOrder) {
  Background background;
  std::vector<int> order;
  for (int i = 0; i < 20; ++i) {
    background.start([&order, i] {
      if (i % 7 == 0) take_a_while();
      order.push_back(i);
    });
  }
  background.wait();
  ASSERT_EQ(order.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Background, AJobsExceptionComesToTheNextWaitOnce) {
  Background background;
  background.start([] { throw std::runtime_error("out of order"); });
  EXPECT_THROW(background.wait(), std::runtime_error);
  background.wait();
  bool ran = false;
  background.start([&] { ran = true; });
  background.wait();
  EXPECT_TRUE(ran);
}

TEST(Background, WaitingForNothingReturnsAndGoingAwayWaitsForTheJob) {
  bool ran = false;
  {
    Background background;
    background.wait();
    background.start([&] {
      take_a_while();
      ran = true;
    });
  }
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace polyak
