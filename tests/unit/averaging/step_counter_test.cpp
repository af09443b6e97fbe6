// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/step_counter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace polyak::test {
namespace {

TEST(StepCounter, CountsInTheBufferThatOthersRead) {
  const at::Tensor buffer = at::zeros({}, at::kLong);
  StepCounter counter(buffer);
  counter.set(7);
  EXPECT_EQ(buffer.item<int64_t>(), 7);
  EXPECT_EQ(counter.value(), 7);
  EXPECT_FALSE(counter.was_loaded());
}

TEST(StepCounter, TellsThatAStateDictWasCopiedInUntilItIsAdopted) {
  const at::Tensor buffer = at::zeros({}, at::kLong);
  StepCounter counter(buffer);
  counter.set(3);
  buffer.fill_(5);
  EXPECT_TRUE(counter.was_loaded());
  counter.adopt();
  EXPECT_FALSE(counter.was_loaded());
  EXPECT_EQ(counter.value(), 5);
  counter.load(at::full({}, 9, at::kLong));
  EXPECT_TRUE(counter.was_loaded());
}

TEST(StepCounter, ABufferWithAnotherStorageIsSwappedOutAndNotLoaded) {
  const at::Tensor buffer = at::zeros({}, at::kLong);
  StepCounter counter(buffer);
  counter.set(3);
  const at::Tensor own = buffer.variable_data();
  buffer.set_data(at::full({}, 100, at::kLong));
  EXPECT_FALSE(counter.is_in_place());
  EXPECT_TRUE(counter.differs());
  EXPECT_FALSE(counter.was_loaded());
  buffer.set_data(own);
  EXPECT_TRUE(counter.is_in_place());
  EXPECT_EQ(counter.value(), 3);
  EXPECT_FALSE(counter.differs());
}

TEST(StepCounter, AnUpdateAdoptsABufferWhereItIs) {
  const at::Tensor buffer = at::zeros({}, at::kLong);
  StepCounter counter(buffer);
  buffer.set_data(at::zeros({}, at::kLong));
  counter.adopt_place();
  EXPECT_TRUE(counter.is_in_place());
  counter.set(1);
  EXPECT_EQ(buffer.item<int64_t>(), 1);
}

}  // namespace
}  // namespace polyak::test
