// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/precision.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Slot slot_of(const at::Tensor& value) {
  const at::Tensor mine = value.clone();
  return {"name", value, mine, mine, {}, false, {}, value.scalar_type(), value.device()};
}

Slot settled(const at::Tensor& value, Precision precision, TensorMode mode = TensorMode::average) {
  Slot slot = slot_of(value);
  slot.mode = mode;
  settle_precision(slot, precision);
  return slot;
}

TEST(AveragePrecision, OfAnAverageIsTheModelsButForHalfAndWhereMoreIsAskedFor) {
  const at::Tensor single = at::ones({3}), half = single.to(at::kHalf);
  EXPECT_FALSE(settled(single, Precision::standard).is_apart());
  EXPECT_EQ(settled(half, Precision::standard).average.scalar_type(), at::kFloat);
  EXPECT_EQ(settled(half, Precision::float64).average.scalar_type(), at::kDouble);
  EXPECT_EQ(settled(single, Precision::float64).average.scalar_type(), at::kDouble);
  const Slot compensated = settled(half, Precision::compensated);
  EXPECT_EQ(compensated.average.scalar_type(), at::kFloat);
  EXPECT_EQ(compensated.residual.scalar_type(), at::kShort);
  EXPECT_FALSE(settled(single.to(at::kDouble), Precision::compensated).residual.defined());
}

TEST(AveragePrecision, WhatIsCopiedIsKeptAsTheModelHasIt) {
  for (const Precision precision :
       {Precision::standard, Precision::compensated, Precision::float64}) {
    EXPECT_FALSE(settled(at::ones({3}, at::kHalf), precision, TensorMode::copy).is_apart());
    EXPECT_FALSE(settled(at::ones({3}, at::kLong), precision).is_apart());
    EXPECT_FALSE(settled(at::ones({3}, at::kComplexFloat), precision).residual.defined());
  }
}

TEST(AveragePrecision, ACastOfTheModulesTensorKeepsAllOfTheAveragesValue) {
  Slot slot = settled(at::ones({2}), Precision::compensated);
  slot.residual.fill_(1 << 14);  // a quarter of the last place
  const at::Tensor exact = exact_value(slot);
  EXPECT_EQ(exact[0].item<double>(), 1 + 0x1p-25);
  set_module_tensor(slot, slot.module_tensor.to(at::kDouble));
  settle_precision(slot, Precision::compensated);
  EXPECT_FALSE(slot.is_apart());
  EXPECT_TRUE(at::equal(slot.average, exact));
  set_module_tensor(slot, slot.module_tensor.to(at::kFloat));
  settle_precision(slot, Precision::compensated);
  EXPECT_TRUE(at::equal(exact_value(slot), exact));
}

TEST(AveragePrecision, AnotherTensorOfTheModuleIsSharedWithItsAliases) {
  Slot slot = slot_of(at::ones({2}));
  const at::Tensor alias = slot.module_tensor.variable_data();
  slot.aliases.push_back(alias);
  set_module_tensor(slot, at::zeros({2}, at::kDouble));
  EXPECT_EQ(alias.data_ptr(), slot.module_tensor.data_ptr());
  EXPECT_EQ(slot.average[0].item<float>(), 1) << "keeps its value";
}

TEST(StallCheck, NamesTheDtypeAndARemedyOnce) {
  const Slots slots{settled(at::ones({2}), Precision::standard)};
  StallCheck check;
  EXPECT_TRUE(check.is_due());
  EXPECT_THAT(check.check(slots, 1e-7),
              AllOf(HasSubstr("1e-07"), HasSubstr("Float"), HasSubstr("precision: compensated")));
  EXPECT_FALSE(check.is_due());
  EXPECT_THAT(check.check(slots, 1e-7), IsEmpty());
}

TEST(StallCheck, SaysNothingWhereUpdatesArriveOrEnd) {
  const Slots standard{settled(at::ones({2}), Precision::standard)};
  const Slots compensated{settled(at::ones({2}), Precision::compensated)};
  EXPECT_THAT(StallCheck().check(standard, 1e-4), IsEmpty());
  EXPECT_THAT(StallCheck().check(standard, 0), IsEmpty());
  EXPECT_THAT(StallCheck().check(compensated, 1e-7), IsEmpty());
  Slots buffer = standard;
  buffer[0].mode = TensorMode::copy;
  EXPECT_THAT(StallCheck().check(buffer, 1e-7), IsEmpty());
  buffer[0].mode = TensorMode::average;
  EXPECT_FALSE(StallCheck().check(buffer, 1e-7).empty());
}

TEST(StallCheck, LooksAtOneTensorInHalfPrecisionAlone) {
  StallCheck check;
  EXPECT_THAT(check.check_half(at::ones({2}), 1e-7), IsEmpty());
  const at::Tensor half = at::ones({2}, at::kBFloat16);
  EXPECT_THAT(check.check_half(half, 1e-3), AllOf(HasSubstr("BFloat16"), HasSubstr("float32")));
  EXPECT_THAT(check.check_half(half, 1e-3), IsEmpty());
}

}  // namespace
}  // namespace polyak::test
