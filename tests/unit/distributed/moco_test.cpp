// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <torch/torch.h>

#include "polyak/averaging/process_group.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/pair_heads.h"
#include "polyak/trainer/register_trainer.h"
#include "support/processes.h"

namespace polyak {
namespace {

constexpr int64_t kWidth = 8;
constexpr int64_t kSamples = 5;  // of each process

std::shared_ptr<PairHead> make_head(const Catalog& catalog,
                                    const std::shared_ptr<ProcessGroup>& processes) {
  torch::manual_seed(4);
  return catalog.of<PairHead>().build(
      parse_config("type: MoCoV3Head\ntemperature: 0.2\npredictor: {type: NonLinearNeck, "
                   "hid_channels: 16, out_channels: 8, num_layers: 2, with_last_bn: false}"),
      {&catalog, kWidth, processes});
}

const testing::Register kMoco("moco", [](const std::shared_ptr<ProcessGroup>& processes) {
  Catalog catalog;
  register_trainer(catalog);
  const auto head = make_head(catalog, processes), alone = make_head(catalog, nullptr);
  as_module(head)->eval();  // statistics of batches would differ
  as_module(alone)->eval();
  torch::manual_seed(9);
  const at::Tensor online = torch::randn({processes->size() * kSamples, kWidth});
  const at::Tensor target = torch::randn({processes->size() * kSamples, kWidth});
  const auto mine = [&](const at::Tensor& all) {
    return all.narrow(0, processes->rank() * kSamples, kSamples).clone().requires_grad_();
  };
  const at::Tensor own = mine(online), whole = online.clone().requires_grad_();
  const at::Tensor loss = head->loss(own, mine(target));
  const at::Tensor expected = alone->loss(whole, target);
  loss.backward();
  expected.backward();
  const at::Tensor mean = loss.detach().clone();
  processes->all_reduce(mean, "adding losses");
  const auto size = static_cast<double>(processes->size());
  testing::require(torch::allclose(mean / size, expected, 1e-6, 1e-7),
                   "the mean loss is that of all samples in one process");
  testing::require(torch::allclose(own.grad() / size, mine(whole.grad()).detach(), 1e-5, 1e-8),
                   "so are the gradients");
});

TEST(MoCoV3, ComparesWithTheKeysOfAllProcesses) {
  for (const int64_t size : {1, 3}) {
    for (const testing::Ended& ended : testing::run_processes(size, "moco")) {
      EXPECT_EQ(ended.status, 0) << ended.output;
    }
  }
}

}  // namespace
}  // namespace polyak
