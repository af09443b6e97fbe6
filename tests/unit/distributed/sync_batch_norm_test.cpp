// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/sync_batch_norm.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <cstdlib>

#include "polyak/core/error.h"
#include "polyak/distributed/process_group.h"
#include "support/expect_success.h"
#include "support/processes.h"

namespace polyak {
namespace {

using testing::expect_success;
using testing::Register;
using testing::require;
using testing::run_processes;
using Processes = std::shared_ptr<ProcessGroup>;

constexpr int64_t kChannels = 5;

/// How a layer is made, and how far from a single process its numbers may be.
struct Form {
  torch::nn::BatchNormOptions options;
  at::ScalarType dtype;
  double most;
};

bool is_near(const at::Tensor& one, const at::Tensor& other, double most) {
  return one.defined() == other.defined() &&
         (!one.defined() || at::allclose(one, other, most, most));
}

/// Two passes of one layer over parts of a batch, against LibTorch's layer over the whole. Process
/// 1 has no samples, the others unequally many.
void compare(const Processes& processes, const Form& form) {
  const int64_t rank = processes->rank(), size = processes->size();
  const auto samples_of = [](int64_t place) { return place == 1 ? 0 : 2 + place; };
  torch::nn::BatchNorm2d whole(form.options);
  SyncBatchNorm2d part(form.options);
  whole->to(form.dtype);
  part->to(form.dtype);
  sync_batch_norm(*torch::nn::Sequential(part), duplicate(*processes));
  for (int64_t pass = 0; pass < 2; ++pass) {
    torch::manual_seed(17 + pass);
    std::vector<at::Tensor> inputs, weights;
    for (int64_t place = 0; place < size; ++place) {
      // Large means and small variances, in which differences of sums would lose digits.
      inputs.push_back(100 + torch::randn({samples_of(place), kChannels, 3, 2}, form.dtype));
      weights.push_back(torch::randn_like(inputs.back()));
    }
    const at::Tensor all = at::cat(inputs).requires_grad_();
    const at::Tensor mine = inputs[static_cast<size_t>(rank)].clone().requires_grad_();
    const at::Tensor expected = whole(all);
    const at::Tensor out = part(mine);
    int64_t first = 0;
    for (int64_t place = 0; place < rank; ++place) first += samples_of(place);
    const auto own = [&](const at::Tensor& tensor) {
      return tensor.slice(0, first, first + samples_of(rank));
    };
    require(is_near(out, own(expected), form.most), "the output is that over all samples");
    (expected * at::cat(weights)).sum().backward();
    out.mul_(weights[static_cast<size_t>(rank)]);  // in place, as networks do
    out.sum().backward();
    require(is_near(mine.grad(), own(all.grad()), form.most), "the gradient of the input");
  }
  for (const auto& item : part->named_parameters()) {
    const at::Tensor sum = item.value().grad().clone();
    processes->all_reduce(sum, "summing");
    require(is_near(sum, whole->named_parameters()[item.key()].grad(), 10 * form.most),
            "the gradients of weight and bias add up");
  }
  for (const auto& item : part->named_buffers()) {
    require(is_near(item.value(), whole->named_buffers()[item.key()], form.most),
            "the running statistics");
  }
  part->eval();
  whole->eval();
  const at::Tensor own = torch::randn({1 + rank, kChannels, 3, 2}, form.dtype);
  require(at::equal(part(own), whole(own)) || is_near(part(own), whole(own), form.most),
          "an evaluation is that of one process");
}

const Register kSynced("synced_batch_norm", [](const Processes& processes) {
  const torch::nn::BatchNormOptions plain(kChannels);
  compare(processes, {plain, torch::kDouble, 1e-11});
  compare(processes, {plain, torch::kFloat, 2e-4});
  compare(processes,
          {torch::nn::BatchNormOptions(plain).affine(false).eps(1e-3), torch::kDouble, 1e-11});
  compare(processes,
          {torch::nn::BatchNormOptions(plain).momentum(c10::nullopt), torch::kDouble, 1e-11});
  compare(processes,
          {torch::nn::BatchNormOptions(plain).track_running_stats(false), torch::kDouble, 1e-11});
});

TEST(SyncBatchNorm, IsBatchNormOverTheSamplesOfAllProcesses) {
  expect_success(run_processes(3, "synced_batch_norm"));
}

const Register kOneValue("one_value", [](const Processes& processes) {
  SyncBatchNorm1d layer(2);
  layer->sync_over(processes);
  const int64_t mine = processes->rank() == 0 ? 1 : 0;
  try {
    layer(torch::randn({mine, 2}));
  } catch (const Error& error) {
    require(std::string(error.what()).find("more than 1 value") != std::string::npos, "the reason");
    return;
  }
  require(false, "one value for each channel is refused");
});

TEST(SyncBatchNorm, NeedsTwoValuesOfAllProcesses) {
  expect_success(run_processes(2, "one_value"));
}

TEST(SyncBatchNorm, IsLibTorchsWithoutProcessesAndItsCopyToo) {
  torch::manual_seed(3);
  SyncBatchNorm2d layer(torch::nn::BatchNormOptions(kChannels).eps(1e-3).momentum(0.3));
  torch::nn::BatchNorm2d theirs(torch::nn::BatchNormOptions(kChannels).eps(1e-3).momentum(0.3));
  const at::Tensor input = torch::randn({4, kChannels, 2, 2});
  EXPECT_TRUE(at::equal(layer(input), theirs(input)));
  const auto copy = std::dynamic_pointer_cast<SyncBatchNorm2dImpl>(layer->clone());
  ASSERT_TRUE(copy);
  EXPECT_TRUE(at::equal(copy->running_var, theirs->running_var));
  layer->running_mean.fill_(9);
  EXPECT_TRUE(at::equal(copy->forward(input), theirs(input)));
  EXPECT_EQ(copy->options.momentum(), 0.3);
  copy->eval();
  EXPECT_FALSE(std::dynamic_pointer_cast<SyncBatchNorm2dImpl>(copy->clone())->is_training());
}

}  // namespace
}  // namespace polyak
