// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/plan.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <torch/utils.h>

#include <algorithm>
#include <limits>
#include <mutex>

#include "polyak/averaging/joint_update.h"

namespace polyak::test {
namespace {

using Share = JointUpdate::Share;

TEST(ChunkTable, ThreadsGetTheSameBytesWhetherTensorsAreHugeOrTiny) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const kernels::Span huge{nullptr, nullptr, 4000000, kernels::DType::float32,
                           kernels::DType::float32};
  const kernels::Span tiny{nullptr, nullptr, 100, kernels::DType::float32, kernels::DType::float32};
  std::vector<kernels::Span> spans(20000, tiny);
  spans.push_back(huge);
  const ChunkTable table(spans);
  std::mutex mutex;
  std::vector<int64_t> bytes;
  std::vector<int> visits(table.size());
  table.share_out([&](size_t first, size_t last) {
    int64_t sum = 0;
    for (size_t i = first; i < last; ++i) sum += kernels::traffic_of(table.data()[i]) + 512;
    std::lock_guard<std::mutex> lock(mutex);
    for (size_t i = first; i < last; ++i) ++visits[i];
    bytes.push_back(sum);
  });
  at::set_num_threads(before);
  ASSERT_EQ(bytes.size(), 2u);
  EXPECT_THAT(visits, testing::Each(1));
  const auto [least, most] = std::minmax_element(bytes.begin(), bytes.end());
  EXPECT_LT(static_cast<double>(*most - *least), 0.02 * static_cast<double>(*most));
}

Slot slot_of(const std::string& name, const at::Tensor& source,
             TensorMode mode = TensorMode::average) {
  const at::Tensor average = at::zeros_like(source);
  return {name,
          source,
          average,
          average,
          {},
          mode == TensorMode::copy,
          {},
          source.scalar_type(),
          source.device(),
          mode};
}

/// One tensor of each sort: a kernel's, LibTorch's, a copied buffer, an integer.
std::shared_ptr<Slots> every_sort(TensorMode buffers = TensorMode::copy) {
  return std::make_shared<Slots>(Slots{slot_of("dense", at::full({1000}, 4.0F)),
                                       slot_of("complex", at::full({3}, 4, at::kComplexFloat)),
                                       slot_of("mean", at::full({5}, 4.0F), buffers),
                                       slot_of("count", at::full({}, 4, at::kLong), buffers)});
}

double first_of(const Slots& slots, size_t i) {
  return at::real(slots[i].average.to(at::kComplexDouble)).flatten()[0].item<double>();
}

TEST(Plan, KeepsTheSlotsThatItDescribes) {
  std::shared_ptr<Slots> slots = every_sort();
  const at::Tensor averages[] = {slots->at(0).average, slots->at(1).average};
  Plan plan(slots, false);
  slots.reset();
  EXPECT_TRUE(plan.is_current());
  JointUpdate({&plan, 0.25, true, true}).run();
  for (const at::Tensor& average : averages) {
    EXPECT_EQ(at::real(average.to(at::kComplexDouble))[0].item<double>(), 1);
  }
}

TEST(Plan, SeesStorageThatWasReplacedOnEitherSide) {
  const std::shared_ptr<Slots> slots = every_sort();
  for (const bool of_source : {true, false}) {
    const Plan plan(slots, false);
    EXPECT_TRUE(plan.is_current());
    const at::Tensor& tensor = of_source ? slots->at(0).source : slots->at(0).average;
    tensor.set_data(tensor.clone());
    EXPECT_FALSE(plan.is_current());
  }
}

TEST(Plan, LooksForNumbersThatAreNotFiniteWhereItAverages) {
  for (const size_t where : {0, 1, 2}) {
    const std::shared_ptr<Slots> slots = every_sort();
    const Plan plan(slots, /*check_finite=*/true);
    EXPECT_TRUE(plan.model_is_finite());
    slots->at(where).source.fill_(std::numeric_limits<double>::infinity());
    EXPECT_EQ(plan.model_is_finite(), where == 2) << "a buffer is copied";
  }
}

TEST(JointUpdate, DoesWhatEachShareSays) {
  struct Case {
    bool averages, copies;
    double dense, complex, mean;
  };
  for (const Case& one : {Case{true, true, 2, 2, 4}, Case{true, false, 2, 2, 0},
                          Case{false, true, 0, 0, 4}, Case{false, false, 0, 0, 0}}) {
    const std::shared_ptr<Slots> slots = every_sort();
    Plan plan(slots, false);
    JointUpdate({&plan, 0.5, one.averages, one.copies}).run();
    EXPECT_EQ(first_of(*slots, 0), one.dense);
    EXPECT_EQ(first_of(*slots, 1), one.complex);
    EXPECT_EQ(first_of(*slots, 2), one.mean);
    EXPECT_EQ(first_of(*slots, 3), one.mean) << "an integer buffer is a buffer";
  }
}

TEST(JointUpdate, IntegersGoWithAveragesOfBuffers) {
  const std::shared_ptr<Slots> slots = every_sort(TensorMode::average);
  Plan plan(slots, false);
  JointUpdate({&plan, 0.5, /*averages=*/false, /*copies=*/true}).run();
  EXPECT_EQ(first_of(*slots, 3), 0);
  JointUpdate({&plan, 0.5, /*averages=*/true, /*copies=*/true}).run();
  EXPECT_EQ(first_of(*slots, 2), 2);
  EXPECT_EQ(first_of(*slots, 3), 4);
}

TEST(JointUpdate, OfSeveralAveragesGivesTheBitsOfEachAlone) {
  at::manual_seed(0);
  constexpr double kWeights[] = {0.1, 0.9, 0.3};
  const at::Tensor source = at::randn({100000});
  std::vector<std::shared_ptr<Slots>> apart, together;
  std::vector<std::unique_ptr<Plan>> plans;
  JointUpdate joint;
  for (const double weight : kWeights) {
    for (auto* all : {&apart, &together}) {
      all->push_back(std::make_shared<Slots>(Slots{slot_of("only", source)}));
      plans.push_back(std::make_unique<Plan>(all->back(), false));
      const Share share{plans.back().get(), weight, true, true};
      all == &apart ? JointUpdate(share).run() : joint.add(share);
    }
  }
  joint.run();
  for (size_t i = 0; i < apart.size(); ++i) {
    EXPECT_TRUE(at::equal(apart[i]->at(0).average, together[i]->at(0).average));
    EXPECT_NE(first_of(*apart[i], 0), 0);
  }
}

}  // namespace
}  // namespace polyak::test
