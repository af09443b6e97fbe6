// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace polyak::test {
namespace {

Slot slot_of(const at::Tensor& source, at::ScalarType type) {
  const at::Tensor module_tensor = source.clone();
  const at::Tensor average = type == source.scalar_type() ? module_tensor : module_tensor.to(type);
  return {"name", source, module_tensor,        average,        {},
          false,  {},     source.scalar_type(), source.device()};
}

uintptr_t place(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data_ptr());
}

TEST(AverageMemory, AveragesLieSideBySideWithStoragesAndValuesOfTheirOwn) {
  const Slots slots{slot_of(at::full({3}, 1.0F), at::kFloat),
                    slot_of(at::full({100}, 2.0F), at::kFloat),
                    slot_of(at::full({5}, 3.0F), at::kDouble)};
  gather_averages(slots);
  EXPECT_EQ(place(slots[1].average) - place(slots[0].average), 64u);
  EXPECT_EQ(place(slots[2].average) - place(slots[1].average), 448u);
  for (size_t i = 0; i < slots.size(); ++i) {
    const at::Tensor& average = slots[i].average;
    EXPECT_EQ(average.storage().nbytes(), average.nbytes());
    EXPECT_TRUE(average.eq(static_cast<double>(i + 1)).all().item<bool>());
  }
  EXPECT_TRUE(slots[0].module_tensor.is_same(slots[0].average));
  EXPECT_EQ(slots[2].module_tensor.scalar_type(), at::kFloat) << "apart from its average";
}

TEST(AverageMemory, AliasesOfAnAverageStayTied) {
  Slot slot = slot_of(at::ones({10}), at::kFloat);
  const at::Tensor alias = slot.module_tensor.variable_data();
  slot.aliases.push_back(alias);
  gather_averages({slot});
  EXPECT_EQ(alias.data_ptr(), slot.average.data_ptr());
}

TEST(AverageMemory, LargeAveragesComeToNewPagesWithTheirSources) {
  constexpr int64_t kSize = 1 << 20;  // some huge pages
  const at::Tensor source = at::ones({kSize + 96}).narrow(0, 96, kSize);
  const Slots slots{slot_of(at::ones({7}), at::kFloat), slot_of(source, at::kFloat),
                    slot_of(source, at::kDouble)};
  gather_averages(slots);
  const auto elements_into_page = [](const at::Tensor& tensor) {
    return place(tensor) % 4096 / tensor.element_size() % 512;
  };
  EXPECT_EQ(elements_into_page(slots[1].average), elements_into_page(source));
  EXPECT_EQ(elements_into_page(slots[2].average), elements_into_page(source));
}

TEST(AverageMemory, WhatIsNotDenseStaysWhereItIs) {
  const Slots slots{slot_of(at::ones({4}), at::kFloat)};
  const at::Tensor strided = at::ones({8}).slice(0, 0, 8, 2);
  Slots with_strided = slots;
  with_strided.push_back(
      {"strided", strided, strided, strided, {}, false, {}, at::kFloat, c10::Device(at::kCPU)});
  const void* before = strided.data_ptr();
  gather_averages(with_strided);
  EXPECT_EQ(strided.data_ptr(), before);
}

}  // namespace
}  // namespace polyak::test
