// SPDX-License-Identifier: Apache-2.0
// Averages of models on a GPU: against the same on the CPU. As in cuda_test.cpp, nothing skips.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include "polyak/polyak.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

struct Net : torch::nn::Module {
  Net() {
    register_parameter("large", at::zeros({300, 401}));
    register_parameter("small", at::zeros({7}));
    register_parameter("bfloat16", at::zeros({1000}, at::kBFloat16));
    register_parameter("half", at::zeros({33}, at::kHalf));
    register_buffer("mean", at::zeros({64}));
    register_buffer("count", at::zeros({}, at::kLong));
  }
};

/// A model on the CPU and its double on the GPU, which take the same steps.
struct Twins {
  Twins() { gpu.to(at::kCUDA); }
  void step(int64_t seed) {
    torch::NoGradGuard no_grad;
    at::manual_seed(seed);
    const std::vector<NamedTensor> others = ModelRef(gpu).tensors();
    size_t i = 0;
    for (const NamedTensor& item : ModelRef(cpu).tensors()) {
      const at::Tensor change = at::randn(item.tensor.sizes()) * 10;
      item.tensor.add_(change.to(item.tensor.scalar_type()));
      others[i++].tensor.copy_(item.tensor);
    }
  }
  void poison() {
    torch::NoGradGuard no_grad;
    for (Net* net : {&cpu, &gpu}) net->named_parameters()["small"].fill_(NAN);
  }
  Net cpu, gpu;
};

void expect_same(const AveragedModel& cpu, const AveragedModel& other) {
  EXPECT_EQ(cpu.steps(), other.steps());
  const auto others = other.named_averages();
  for (const auto& item : cpu.named_averages()) {
    EXPECT_TRUE(at::allclose(item.value(), others[item.key()].cpu(), 0, 0, /*equal_nan=*/true))
        << item.key();
  }
}

CosineEMAOptions options(const std::string& precision = "default") {
  return CosineEMAOptions().momentum(0.3).max_iters(20).interval(2).precision(
      parse_precision(precision));
}

TEST(CudaAverage, GivesTheBitsOfTheCpu) {
  for (const std::string precision : {"default", "compensated", "float64"}) {
    Twins twins;
    CosineEMA cpu(twins.cpu, options(precision)), gpu(twins.gpu, options(precision));
    for (int i = 0; i < 10; ++i) {
      twins.step(i);
      cpu.update_parameters(twins.cpu);
      gpu.update_parameters(twins.gpu);
    }
    EXPECT_TRUE(gpu.named_averages()["large"].is_cuda());
    expect_same(cpu, gpu);
  }
}

/// Averages that differ in all that a launch for several must tell apart.
struct Several {
  explicit Several(Net& net)
      : each_step(net, options().interval(1)),
        compensated(net, options("compensated").interval(3)),
        buffers(net, options("float64").update_buffers(true)),
        careful(net, options().interval(1).skip_nonfinite(true)) {}

  std::vector<AveragedModel*> all() { return {&each_step, &compensated, &buffers, &careful}; }
  CosineEMA each_step, compensated, buffers, careful;
};

TEST(CudaAverage, SeveralInOneLaunchGiveTheBitsOfTheCpu) {
  Twins twins;
  Several cpu(twins.cpu), gpu(twins.gpu);
  for (int i = 0; i < 10; ++i) {
    twins.step(i);
    if (i == 5) twins.poison();
    if (i == 8) {  // one alone, between two of all
      cpu.compensated.update_parameters(twins.cpu);
      gpu.compensated.update_parameters(twins.gpu);
    }
    update_together(cpu.all(), twins.cpu);
    update_together(gpu.all(), twins.gpu);
    for (size_t k = 0; k < 4; ++k) expect_same(*cpu.all()[k], *gpu.all()[k]);
  }
  EXPECT_EQ(gpu.careful.skipped(), 5);
}

TEST(CudaAverage, OnTheCpuBesideAGpuGivesTheBitsOfTheCpuWhateverWritesTheWeightsNext) {
  for (const bool defer : {false, true}) {
    Twins twins;
    CosineEMA cpu(twins.cpu, options().interval(1));
    CosineEMA offloaded(twins.gpu, options().interval(1).device("cpu"));
    offloaded.defer_fence(defer);
    for (int i = 0; i < 10; ++i) {
      if (defer) offloaded.fence();
      twins.step(i);
      cpu.update_parameters(twins.cpu);
      offloaded.update_parameters(twins.gpu);
      if (defer) offloaded.fence();
      torch::NoGradGuard no_grad;
      for (const at::Tensor& parameter : twins.gpu.parameters()) parameter.fill_(1e9);
    }
    EXPECT_TRUE(offloaded.named_averages()["large"].is_cpu());
    expect_same(cpu, offloaded);
  }
}

TEST(CudaAverage, ACapturedUpdateOfTwoIsOneLaunchAndReplaysWithEachStepsWeights) {
  Twins twins;
  CosineEMA cpu(twins.cpu, options()), gpu(twins.gpu, options());
  const auto others = options("compensated").interval(3).update_buffers(true);
  CosineEMA other_cpu(twins.cpu, others), other_gpu(twins.gpu, others);
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  EXPECT_THAT([&] { gpu.prepare_replay(); }, ThrowsMessage<Error>(HasSubstr("captured")));
  twins.step(0);
  update_together({&cpu, &other_cpu}, twins.cpu);
  update_together({&gpu, &other_gpu}, twins.gpu);

  cudaGraph_t graph = nullptr;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  update_together({&gpu, &other_gpu}, twins.gpu);
  require(cudaStreamEndCapture(stream, &graph));
  EXPECT_EQ(gpu.steps(), 1);
  EXPECT_EQ(other_gpu.steps(), 1);
  size_t nodes = 0;
  require(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_EQ(nodes, 1u);
  cudaGraphExec_t ready = nullptr;
  require(cudaGraphInstantiate(&ready, graph, 0));
  for (int i = 1; i < 12; ++i) {
    twins.step(i);
    update_together({&cpu, &other_cpu}, twins.cpu);
    gpu.prepare_replay();
    other_gpu.prepare_replay();
    require(cudaGraphLaunch(ready, stream));
    if (i == 6) {  // evaluating in between, by values, leaves the graph whole
      auto swapped = gpu.swap(twins.gpu, SwapMode::copy);
    }
  }
  require(cudaStreamSynchronize(stream));
  expect_same(cpu, gpu);
  expect_same(other_cpu, other_gpu);

  twins.gpu.named_parameters()["small"].set_data(at::ones({7}, at::kCUDA));
  EXPECT_THAT([&] { gpu.prepare_replay(); }, ThrowsMessage<Error>(HasSubstr("anew")));
  require(cudaGraphExecDestroy(ready));
  require(cudaGraphDestroy(graph));
}

TEST(CudaAverage, ACaptureOfWhatAGraphCannotHoldIsRefused) {
  Twins twins;
  CosineEMA first(twins.gpu, options()), checking(twins.gpu, options().skip_nonfinite(true));
  CosineEMA offloaded(twins.gpu, options().device("cpu"));
  for (AveragedModel* average :
       {static_cast<AveragedModel*>(&checking), static_cast<AveragedModel*>(&offloaded)}) {
    average->update_parameters(twins.gpu);
    average->state();
  }
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  EXPECT_THAT([&] { first.update_parameters(twins.gpu); },
              ThrowsMessage<Error>(HasSubstr("first")));
  EXPECT_THAT([&] { checking.update_parameters(twins.gpu); },
              ThrowsMessage<Error>(HasSubstr("skip_nonfinite")));
  EXPECT_THAT([&] { offloaded.update_parameters(twins.gpu); },
              ThrowsMessage<Error>(HasSubstr("CUDA graph")));
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(stream, &graph));
  require(cudaGraphDestroy(graph));
  EXPECT_EQ(first.steps(), 0);
  EXPECT_EQ(offloaded.steps(), 1);
}

}  // namespace
}  // namespace polyak::test
