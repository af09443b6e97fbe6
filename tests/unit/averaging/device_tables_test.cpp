// SPDX-License-Identifier: Apache-2.0
// What averages make of our kernel's tables, launches and graphs, on a GPU that is the CPU in
// disguise (support/pretend_gpu.h); cuda_average_test.cpp is the same on a real one.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include <map>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/averages.h"
#include "polyak/kernels/lerp.h"
#include "support/pretend_gpu.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Net : torch::nn::Module {
  Net() {
    register_parameter("large", at::zeros({70, 101}));
    register_parameter("small", at::zeros({7}));
    register_parameter("bfloat16", at::zeros({1000}, at::kBFloat16));
    register_buffer("mean", at::zeros({64}));
    register_buffer("count", at::zeros({}, at::kLong));
    step(0);
  }
  void step(int64_t seed) {
    torch::NoGradGuard no_grad;
    at::manual_seed(seed);
    for (const NamedTensor& item : ModelRef(*this).tensors()) {
      item.tensor.add_((at::randn(item.tensor.sizes()) * 10).to(item.tensor.scalar_type()));
    }
  }
};

ExponentialMovingAverageOptions options() {
  return ExponentialMovingAverageOptions().momentum(0.3);
}

/// An average and what it should hold, computed by the reference on the CPU.
class Checked {
 public:
  Checked(Net& net, const ExponentialMovingAverageOptions& options)
      : average(net, options), options_(options) {
    for (const auto& item : average.named_averages()) {
      expected_[item.key()] = item.value().clone();
    }
  }

  void expect_update(const Net& net) {
    torch::NoGradGuard no_grad;
    const int64_t k = steps_++;
    const bool averages = k > 0 && k % options_.interval() == 0;
    for (const auto& item : net.named_parameters()) take(item.key(), item.value(), averages, k);
    for (const auto& item : net.named_buffers()) {
      const bool averaged = options_.update_buffers() && item.value().is_floating_point();
      if (!options_.update_buffers() || (averages && !averaged)) {
        expected_[item.key()].copy_(item.value());
      } else {
        take(item.key(), item.value(), averages, k);
      }
    }
  }

  void check() const {
    EXPECT_EQ(average.steps(), steps_);
    for (const auto& item : average.named_averages()) {
      EXPECT_TRUE(at::equal(item.value(), expected_.at(item.key()))) << item.key();
    }
  }

  ExponentialMovingAverage average;

 private:
  void take(const std::string& name, const at::Tensor& source, bool averages, int64_t k) {
    if (k == 0) expected_[name].copy_(source);
    if (!averages) return;
    using kernels::DType;
    const kernels::Span span{
        expected_[name].data_ptr(), source.data_ptr(), source.numel(), DType::float32,
        source.scalar_type() == at::kBFloat16 ? DType::bfloat16 : DType::float32};
    kernels::kernel_variants().back().lerp(&span, 1, average.weight(k));
  }

  ExponentialMovingAverageOptions options_;
  int64_t steps_ = 0;
  std::map<std::string, at::Tensor> expected_;
};

TEST(DeviceTables, SeveralAveragesTakeOneLaunchAndEachDoesItsOwn) {
  Net net;
  Checked each_step(net, options()), third(net, options().momentum(0.01).interval(3)),
      buffers(net, options().interval(2).update_buffers(true)),
      copies(net, options().momentum(0.5)), careful(net, options().skip_nonfinite(true));
  const std::vector<Checked*> all{&each_step, &third, &buffers, &copies, &careful};
  std::vector<AveragedModel*> averages;
  averages.reserve(all.size());
  for (Checked* one : all) averages.push_back(&one->average);
  for (int i = 0; i < 10; ++i) {
    net.step(i);
    if (i == 6) {  // one alone, between two of all
      third.average.update_parameters(net);
      third.expect_update(net);
    }
    const size_t before = PretendGpu::launches();
    update_together(averages, net);
    EXPECT_EQ(PretendGpu::launches() - before, 1u);
    for (Checked* one : all) {
      one->expect_update(net);
      one->check();
    }
  }
}

TEST(DeviceTables, ASkippedUpdateTouchesNothingOfItsOwnAverageAlone) {
  Net net;
  Checked careful(net, options().skip_nonfinite(true)), other(net, options());
  for (int i = 0; i < 5; ++i) {
    net.step(i);
    update_together({&other.average, &careful.average}, net);
    careful.expect_update(net);
    other.expect_update(net);
  }
  net.step(5);
  {
    torch::NoGradGuard no_grad;
    net.named_parameters()["small"].fill_(INFINITY);
  }
  const size_t before = PretendGpu::launches();
  update_together({&other.average, &careful.average}, net);
  other.expect_update(net);
  careful.check();
  other.check();
  EXPECT_EQ(careful.average.skipped(), 1);
  EXPECT_EQ(PretendGpu::launches() - before, 1u);
}

TEST(DeviceTables, ACapturedUpdateReplaysWithEachStepsWeights) {
  Net net;
  Checked first(net, options()), second(net, options().interval(3).update_buffers(true));
  EXPECT_THAT([&] { first.average.prepare_replay(); },
              ThrowsMessage<Error>(HasSubstr("no CUDA graph has captured")));
  const auto update = [&] {
    update_together({&first.average, &second.average}, net);
    first.expect_update(net);
    second.expect_update(net);
  };
  update();
  net.step(1);
  update();

  const size_t before = PretendGpu::launches();
  PretendGpu::begin_capture();
  update_together({&first.average, &second.average}, net);
  const auto graph = PretendGpu::end_capture();
  EXPECT_EQ(PretendGpu::launches() - before, 1u);
  first.check();
  second.check();
  const auto replay = [&] {
    first.average.prepare_replay();
    second.average.prepare_replay();
    PretendGpu::replay(graph);
    first.expect_update(net);
    second.expect_update(net);
    first.check();
    second.check();
  };
  for (int i = 2; i < 8; ++i) {
    net.step(i);
    replay();
  }
  // An update of one alone takes tables of its own, and the graph keeps those that it has.
  net.step(8);
  first.average.update_parameters(net);
  first.expect_update(net);
  first.check();
  net.step(9);
  replay();

  net.named_parameters()["small"].set_data(at::ones({7}));
  EXPECT_THAT([&] { first.average.prepare_replay(); },
              ThrowsMessage<Error>(HasSubstr("capture it again")));
}

TEST(DeviceTables, EveryGraphThatCapturedAnUpdateReplays) {
  Net net;
  Checked first(net, options()), second(net, options().momentum(0.1));
  const auto capture = [&](const std::vector<AveragedModel*>& averages) {
    PretendGpu::begin_capture();
    update_together(averages, net);
    return PretendGpu::end_capture();
  };
  update_together({&first.average, &second.average}, net);
  first.expect_update(net);
  second.expect_update(net);
  const auto alone = capture({&first.average});
  const auto both = capture({&first.average, &second.average});
  for (int i = 0; i < 6; ++i) {
    net.step(i);
    first.average.prepare_replay();
    first.expect_update(net);
    if (i % 2 == 0) {
      PretendGpu::replay(alone);
    } else {
      second.average.prepare_replay();
      second.expect_update(net);
      PretendGpu::replay(both);
    }
    first.check();
    second.check();
  }
}

TEST(DeviceTables, AReplayGoesOnFromWhatWasLoaded) {
  Net net;
  Checked checked(net, options());
  checked.average.update_parameters(net);
  PretendGpu::begin_capture();
  checked.average.update_parameters(net);
  const auto graph = PretendGpu::end_capture();
  {
    torch::NoGradGuard no_grad;
    for (const NamedTensor& item : ModelRef(checked.average).tensors()) item.tensor.fill_(3);
  }
  checked.average.prepare_replay();
  PretendGpu::replay(graph);
  EXPECT_EQ(checked.average.steps(), 4);
  const at::Tensor source = net.named_parameters()["bfloat16"].to(at::kFloat);
  EXPECT_TRUE(at::allclose(checked.average.named_averages()["bfloat16"], 3 + 0.3 * (source - 3)));
}

TEST(DeviceTables, AGpuWithoutRoomIsToldOfBeforeAnythingChanged) {
  Net net;
  Checked first(net, options()), second(net, options());
  first.average.update_parameters(net);
  first.expect_update(net);
  net.step(1);
  PretendGpu::refuse_tables(true);
  EXPECT_THROW(update_together({&first.average, &second.average}, net), Error);
  EXPECT_EQ(second.average.steps(), 0);
  first.check();
  PretendGpu::refuse_tables(false);
  update_together({&first.average, &second.average}, net);
  first.expect_update(net);
  second.expect_update(net);
  first.check();
  second.check();
}

TEST(DeviceTables, ATableOfAnAverageThatIsGoneIsNotUsed) {
  Net net;
  Checked stays(net, options());
  for (int round = 0; round < 3; ++round) {
    Checked goes(net, options().momentum(0.4));
    for (int i = 0; i < 3; ++i) {
      net.step(i);
      update_together({&stays.average, &goes.average}, net);
      stays.expect_update(net);
      goes.expect_update(net);
      stays.check();
      goes.check();
    }
  }
  stays.average.update_parameters(net);
  stays.expect_update(net);
  stays.check();
}

TEST(DeviceTables, AModelThatMovedGetsNewTables) {
  Net net;
  Checked checked(net, options());
  for (int i = 0; i < 6; ++i) {
    net.step(i);
    if (i == 3) {
      auto parameters = net.named_parameters();
      parameters["large"].set_data(parameters["large"].detach().clone());
    }
    checked.average.update_parameters(net);
    checked.expect_update(net);
    checked.check();
  }
}

}  // namespace
}  // namespace polyak::test
