// SPDX-License-Identifier: Apache-2.0
// What of it needs a GPU stands in device_tables_test.cpp and cuda_average_test.cpp.
#include "polyak/averaging/update_engine.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include "polyak/averaging/model_copy.h"
#include "polyak/core/error.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Engine {
  Engine() {
    const std::vector<NamedTensor> found = ModelRef(net).tensors();
    tensors.rebuild(found, "Linear", copy_model(net, found, {}, std::nullopt).module);
  }
  torch::NoGradGuard no_grad;
  torch::nn::Linear net{2, 2};
  AveragedTensors tensors{{false, Precision::standard, std::nullopt}};
  UpdateEngine engine{false};
};

TEST(UpdateEngine, HasAPlanForTheTensorsThatItWasMadeForAlone) {
  Engine made;
  EXPECT_FALSE(made.engine.fits(made.tensors));
  made.engine.make_plan(made.tensors);
  EXPECT_TRUE(made.engine.fits(made.tensors));
  made.net->weight.set_data(made.net->weight.clone());
  EXPECT_FALSE(made.engine.fits(made.tensors)) << "the model's storage is another";
  made.engine.make_plan(made.tensors);
  EXPECT_TRUE(made.engine.fits(made.tensors));
  made.tensors.settle_precision();
  EXPECT_FALSE(made.engine.fits(made.tensors)) << "the slots may hold other tensors";
}

TEST(UpdateEngine, LetsGoOfAPlanForOtherTensorsAndOfThoseTensors) {
  Engine made;
  made.engine.make_plan(made.tensors);
  const std::weak_ptr<const Slots> before = made.tensors.shared_slots();
  made.engine.drop_stale_plan(made.tensors);
  EXPECT_TRUE(made.engine.plan()) << "it is for these";
  const std::vector<NamedTensor> found = ModelRef(made.net).tensors();
  made.tensors.rebuild(found, "Linear", copy_model(made.net, found, {}, std::nullopt).module);
  EXPECT_FALSE(before.expired());
  made.engine.drop_stale_plan(made.tensors);
  EXPECT_FALSE(made.engine.plan());
  EXPECT_TRUE(before.expired());
}

TEST(UpdateEngine, WithoutWorkBesideItWaitsForNothing) {
  Engine made;
  made.engine.wait();
  made.engine.fence();
  made.engine.make_plan(made.tensors);
  made.engine.fence();
}

TEST(UpdateEngine, RefusesAReplayOfWhatWasNeverCaptured) {
  Engine made;
  made.engine.make_plan(made.tensors);
  made.engine.check_capture(false, 1);  // nothing captures now
  EXPECT_THAT([&] { made.engine.check_replay(made.tensors); },
              ThrowsMessage<Error>(HasSubstr("no CUDA graph has captured")));
}

}  // namespace
}  // namespace polyak::test
