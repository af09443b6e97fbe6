// SPDX-License-Identifier: Apache-2.0
#include "polyak/distributed/process_group.h"

#include <gmock/gmock.h>
#include <torch/torch.h>
#include <unistd.h>

#include "polyak/core/error.h"
#include "polyak/distributed/gradient_reducer.h"
#include "support/expect_success.h"
#include "support/processes.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using testing::Ended;
using testing::expect_success;
using ::testing::HasSubstr;
using testing::Register;
using testing::require;
using testing::run_processes;
using Processes = std::shared_ptr<ProcessGroup>;

const Register kOperations("operations", [](const Processes& processes) {
  const auto rank = static_cast<double>(processes->rank());
  const auto size = static_cast<double>(processes->size());
  const at::Tensor sum = at::full({3}, rank + 1, at::kDouble);
  processes->all_reduce(sum, "summing");
  require(sum.eq(size * (size + 1) / 2).all().item<bool>(), "all_reduce sums");
  const at::Tensor of_one = at::full({2, 2}, rank);
  processes->broadcast(of_one, 1, "copying");
  require(of_one.eq(1).all().item<bool>(), "broadcast copies from its root");
  const auto all = processes->all_gather(at::full({1}, rank, at::kInt), "gathering");
  for (int64_t i = 0; i < processes->size(); ++i) {
    require(all[static_cast<size_t>(i)].item<int64_t>() == i,
            "all_gather is in the order of ranks");
  }
  require(processes->bytes() == 3 * 8 + 4 * 4 + 4, "bytes() counts what was handed over");
});

TEST(ProcessGroup, SumsCopiesAndGathersOverThreeProcesses) {
  expect_success(run_processes(3, "operations"));
}

struct Net : torch::nn::Module {
  Net() {
    torch::manual_seed(1);
    first = register_module("first", torch::nn::Linear(5, 7));
    unused = register_module("unused", torch::nn::Linear(2, 2));
    last = register_module("last", torch::nn::Linear(7, 1));
    to(torch::kDouble);
  }
  at::Tensor loss(const at::Tensor& inputs) {
    return last->forward(first->forward(inputs).tanh()).square().mean();
  }
  torch::nn::Linear first{nullptr}, unused{nullptr}, last{nullptr};
};

std::vector<NamedTensor> parameters_of(Net& net, bool with_unused) {
  std::vector<NamedTensor> all;
  for (const auto& item : net.named_parameters()) {
    if (with_unused || item.key().rfind("unused", 0) != 0) {
      all.push_back({item.key(), item.value(), false});
    }
  }
  return all;
}

at::Tensor inputs_of(int64_t rank, int64_t iteration) {
  torch::manual_seed(static_cast<uint64_t>(100 * rank + iteration));
  return torch::randn({4, 5}, torch::kDouble);
}

/// Three steps of two iterations, whose second one reduces; the last process has no samples in the
/// last one. The gradients must be those of all samples.
void check_gradients(const Processes& processes, bool overlap, bool with_unused) {
  Net net, alone;
  GradientReducer::Options options;
  options.overlap = overlap;
  options.find_unused_parameters = with_unused;
  const auto reducer = make_gradient_reducer(processes, parameters_of(net, with_unused), options);
  const auto size = processes->size();
  for (int64_t iteration = 0; iteration < 6; ++iteration) {
    const bool reduce = iteration % 2 == 1;
    const auto has_samples = [&](int64_t rank) { return iteration < 5 || rank < size - 1; };
    if (reduce) reducer->forward();
    const at::Tensor loss = has_samples(processes->rank())
                                ? net.loss(inputs_of(processes->rank(), iteration))
                                : at::Tensor();
    const int64_t before = processes->bytes();
    reducer->backward(loss, reduce);
    if (!reduce) require(processes->bytes() == before, "accumulating communicates nothing");
    for (int64_t rank = 0; rank < size; ++rank) {
      if (has_samples(rank)) {
        (alone.loss(inputs_of(rank, iteration)) / static_cast<double>(size)).backward();
      }
    }
    if (!reduce) continue;
    const torch::NoGradGuard no_grad;
    const auto mine = net.named_parameters(), expected = alone.named_parameters();
    for (const auto& item : mine) {
      if (item.key().rfind("unused", 0) == 0) continue;
      require(torch::allclose(item.value().grad(), expected[item.key()].grad(), 1e-12, 1e-14),
              "the gradients are the means over all processes");
      item.value().sub_(item.value().grad(), 0.1);
      expected[item.key()].sub_(expected[item.key()].grad(), 0.1);
    }
    net.zero_grad();
    alone.zero_grad();
  }
}

const Register kOverlapping("overlapping", [](const Processes& processes) {
  check_gradients(processes, /*overlap=*/true, /*with_unused=*/false);
});
const Register kUnused("unused", [](const Processes& processes) {
  check_gradients(processes, /*overlap=*/true, /*with_unused=*/true);
});
const Register kBuckets("buckets", [](const Processes& processes) {
  check_gradients(processes, /*overlap=*/false, /*with_unused=*/true);
});

TEST(GradientReducer, MakesGradientsTheMeansOverAllProcesses) {
  expect_success(run_processes(2, "overlapping"));
  expect_success(run_processes(3, "unused"));
  expect_success(run_processes(2, "buckets"));
}

const Register kForgotten("forgotten", [](const Processes& processes) {
  Net net;
  const auto reducer = make_gradient_reducer(processes, parameters_of(net, true), {});
  for (int64_t i = 0; i < 2; ++i) {
    reducer->forward();
    reducer->backward(net.loss(inputs_of(0, i)), true);
  }
});

TEST(GradientReducer, NamesTheOptionForParametersWithoutGradient) {
  for (const Ended& ended : run_processes(2, "forgotten")) {
    EXPECT_EQ(ended.status, 1);
    EXPECT_THAT(ended.output, HasSubstr("set find_unused_parameters: true"));
  }
}

const Register kDying("dying", [](const Processes& processes) {
  processes->barrier("beginning");
  if (processes->rank() == processes->size() - 1) _exit(9);
  for (;;) processes->all_reduce(at::zeros({1000}), "averaging");
});

TEST(ProcessGroup, NamesTheOperationAndTheProcessThatEnded) {
  const std::vector<Ended> ended = run_processes(3, "dying");
  EXPECT_EQ(ended[2].status, 9);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(ended[i].status, 1);
    EXPECT_THAT(ended[i].output,
                AllOf(HasSubstr("rank " + std::to_string(i) + ": averaging failed"),
                      HasSubstr("rank 2 ended or does not answer")));
    EXPECT_LT(ended[i].seconds, 45);
  }
}

const Register kStuck("stuck", [](const Processes& processes) {
  processes->barrier("beginning");
  if (processes->rank() == 1) {
    sleep(17);
    return;
  }
  processes->all_reduce(at::zeros({1}), "averaging");
});

TEST(ProcessGroup, DoesNotWaitLongerThanTheTimeOut) {
  const std::vector<Ended> ended = run_processes(2, "stuck", {{"POLYAK_TEST_TIMEOUT_MS", "10000"}});
  EXPECT_EQ(ended[0].status, 1);
  EXPECT_THAT(ended[0].output, HasSubstr("rank 1 ended or does not answer"));
  EXPECT_LT(ended[0].seconds, 16);  // with the start of the program
}

TEST(ProcessGroup, NamesTheProcessesThatDidNotCome) {
  const std::vector<Ended> ended =
      run_processes(3, "operations", {{"POLYAK_TEST_TIMEOUT_MS", "10000"}}, {0, 2});
  for (const Ended& item : ended) {
    EXPECT_EQ(item.status, 1);
    EXPECT_THAT(item.output, HasSubstr("rank 1 of 3 did not come to 127.0.0.1:"));
  }
}

const Register kWaiting("waiting", [](const Processes& processes) {
  sleep(3);
  processes->barrier("ending");
});

TEST(ProcessGroup, SaysThatTwoProcessesHaveOneRank) {
  const std::vector<Ended> ended = run_processes(2, "waiting", {}, {0, 1, 1});
  EXPECT_EQ(ended[0].status, 0) << ended[0].output;
  EXPECT_EQ(ended[1].status + ended[2].status, 1);
  EXPECT_THAT(ended[1].output + ended[2].output, HasSubstr("two processes with rank 1 came to"));
}

TEST(ProcessGroup, SaysThatThePortIsTaken) {
  const testing::TakenPort port;
  const std::vector<Ended> ended =
      run_processes(2, "operations", {{"MASTER_PORT", std::to_string(port.number())}}, {0});
  EXPECT_EQ(ended[0].status, 1);
  EXPECT_THAT(ended[0].output, HasSubstr("rank 0 cannot listen on port"));
}

}  // namespace
}  // namespace polyak
