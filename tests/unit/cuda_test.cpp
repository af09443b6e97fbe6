// The CUDA kernel on a GPU. Nothing here skips itself: without a GPU every test fails, and ctest is
// told of them only where there was one at configure time.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>

#include <chrono>
#include <future>
#include <optional>

#include "polyak/core/error.h"
#include "polyak/kernels/lerp_cuda.h"
#include "support/mixed_spans.h"

namespace polyak::kernels {
namespace {

using testing::kAllTypes;
using testing::MixedSpans;

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

cudaStream_t current_stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

/// An averaging on the GPU and the same on the CPU's plainest path.
struct Twins {
  MixedSpans cpu;
  MixedSpans gpu;
  std::vector<Span> cpu_spans = cpu.spans();
  CudaTable table;

  explicit Twins(const MixedSpans& start, int device = 0)
      : cpu(start.to(at::kCPU)),
        gpu(start.to(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)))),
        table(gpu.spans(), device) {}

  void lerp_on_cpu(double weight) {
    paths().back().lerp(cpu_spans.data(), cpu_spans.size(), weight);
  }
};

void update(Twins& twins, double weight) {
  twins.lerp_on_cpu(weight);
  twins.table.set_weight(weight, current_stream());
  twins.table.lerp(current_stream());
}

std::vector<int64_t> some_thousands() {
  std::vector<int64_t> sizes;
  for (int64_t size = 0; size < 40; ++size) sizes.push_back(size);
  for (const int64_t size :
       {100, 127, 1000, 1023, 1024, 1025, 2050, 4095, 4096, 4097, 4100, 9001}) {
    sizes.push_back(size);
  }
  return sizes;
}

TEST(Cuda, GivesTheBitsOfTheReferenceForEveryTypeSizeAlignmentAndWeight) {
  at::manual_seed(0);
  const MixedSpans start = MixedSpans::of_every_kind(some_thousands());
  for (const double weight : testing::kAllWeights) {
    Twins twins(start);
    update(twins, weight);
    EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1) << weight;
  }
}

TEST(Cuda, StaysWithTheReferenceOverManyUpdates) {
  at::manual_seed(1);
  Twins twins(MixedSpans::of_every_kind({1, 130, 5000}));
  for (int k = 0; k < 200; ++k) {
    twins.cpu.renew_sources(twins.gpu);
    update(twins, 1.0 / (k + 1));
  }
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, AveragesTenThousandTinyTensors) {
  at::manual_seed(2);
  MixedSpans start;
  for (int i = 0; i < 10000; ++i) {
    start.add(100, kAllTypes[1], kAllTypes[1 + i % 3], /*compensated=*/i % 5 == 0);
  }
  Twins twins(start);
  update(twins, 0.1);
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, AveragesTensorsLargerThanAllBlocksAtOnce) {
  at::manual_seed(3);
  MixedSpans start;
  start.add(20'000'003, kAllTypes[1], kAllTypes[1]);
  start.add(10'000'001, kAllTypes[1], kAllTypes[3], /*compensated=*/true, {1, 1, 1});
  start.add(3'000'000, kAllTypes[0], kAllTypes[2], /*compensated=*/false, {0, 1, 0});
  Twins twins(start);
  update(twins, 0.25);
  update(twins, 0.75);
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, HasTheNanAndInfinityOfTheReference) {
  const at::Tensor source =
      at::tensor({NAN, INFINITY, -INFINITY, INFINITY, 1.0F}).to(at::kFloat).repeat({100});
  const at::Tensor average = at::tensor({1.0F, 2.0F, INFINITY, INFINITY, NAN}).repeat({100});
  const at::Tensor there = average.cuda(), value = source.cuda();
  const Span on_cpu{average.data_ptr(), source.data_ptr(), 500, DType::float32, DType::float32};
  const Span on_gpu{there.data_ptr(), value.data_ptr(), 500, DType::float32, DType::float32};
  CudaTable table({on_gpu}, 0);
  for (const double weight : {0.25, 1.0}) {
    paths().back().lerp(&on_cpu, 1, weight);
    table.set_weight(weight, current_stream());
    table.lerp(current_stream());
    EXPECT_TRUE(at::allclose(there.cpu(), average, 0, 0, /*equal_nan=*/true)) << weight;
  }
}

TEST(Cuda, ATableOfNothingDoesNothing) {
  for (const std::vector<Span>& spans :
       {std::vector<Span>{},
        std::vector<Span>{{nullptr, nullptr, 0, DType::float32, DType::float32}}}) {
    CudaTable table(spans, 0);
    table.set_weight(0.5, current_stream());
    table.lerp(current_stream());
    require(cudaStreamSynchronize(current_stream()));
  }
}

TEST(Cuda, AWeightThatWasNeverSetIsZero) {
  at::manual_seed(4);
  Twins twins(MixedSpans::of_every_kind({100}));
  twins.table.lerp(current_stream());
  twins.lerp_on_cpu(0.0);
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

/// A captured graph, instantiated.
class Graph {
 public:
  template <class Work>
  Graph(cudaStream_t stream, const Work& work) {
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    work();
    require(cudaStreamEndCapture(stream, &graph_));
    require(cudaGraphInstantiateWithFlags(&executable_, graph_, 0));
  }
  ~Graph() {
    cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void replay(cudaStream_t stream) const { require(cudaGraphLaunch(executable_, stream)); }
  size_t nodes() const {
    size_t count = 0;
    require(cudaGraphGetNodes(graph_, nullptr, &count));
    return count;
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

TEST(Cuda, AGraphOfOneLaunchReplaysWithANewWeight) {
  at::manual_seed(5);
  Twins twins(MixedSpans::of_every_kind({1, 77, 4096, 30001}));
  const auto stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  const Graph graph(stream.stream(), [&] { twins.table.lerp(stream.stream()); });
  EXPECT_EQ(graph.nodes(), 1u);
  for (const double weight : {0.3, 1e-3, 0.9}) {
    twins.cpu.renew_sources(twins.gpu);
    twins.lerp_on_cpu(weight);
    twins.table.set_weight(weight, stream.stream());
    graph.replay(stream.stream());
  }
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, ATableIsMadeAndFreedWhileAStreamCaptures) {
  at::manual_seed(6);
  const MixedSpans start = MixedSpans::of_every_kind({500});
  MixedSpans expected = start.to(at::kCPU);
  const MixedSpans there = start.to(at::kCUDA);
  const std::vector<Span> spans = there.spans();
  const auto stream = c10::cuda::getStreamFromPool();
  std::optional<CudaTable> table;
  const Graph graph(stream.stream(), [&] {
    { const CudaTable freed(spans, 0); }
    table.emplace(spans, 0);
    table->lerp(stream.stream());
  });
  table->set_weight(0.4, stream.stream());
  graph.replay(stream.stream());
  require(cudaStreamSynchronize(stream.stream()));
  const std::vector<Span> reference = expected.spans();
  paths().back().lerp(reference.data(), reference.size(), 0.4);
  EXPECT_EQ(there.first_difference(expected), -1);
}

TEST(Cuda, WorksInTheStreamItIsGivenAndNeverWaits) {
  at::manual_seed(7);
  const MixedSpans start = MixedSpans::of_every_kind({1000});
  Twins twins(start);
  const auto stream = c10::cuda::getStreamFromPool();
  require(cudaDeviceSynchronize());

  // Nothing that is put into the stream can begin before the gate opens, at last after a while.
  struct Gate {
    std::promise<void> open;
    std::future<void> opened = open.get_future();
    std::future_status status = std::future_status::deferred;
  } gate;
  require(cudaLaunchHostFunc(
      stream.stream(),
      [](void* data) {
        auto& held = *static_cast<Gate*>(data);
        held.status = held.opened.wait_for(std::chrono::seconds(20));
      },
      &gate));
  // Its argument is read at the call: the variable may change before the stream comes to it.
  double weight = 0.125;
  twins.table.set_weight(weight, stream.stream());
  twins.table.lerp(stream.stream());
  weight = 0.75;
  twins.table.set_weight(weight, stream.stream());
  twins.table.lerp(stream.stream());
  EXPECT_EQ(cudaStreamQuery(stream.stream()), cudaErrorNotReady);
  EXPECT_EQ(twins.gpu.first_difference(start), -1);
  gate.open.set_value();
  require(cudaStreamSynchronize(stream.stream()));

  EXPECT_EQ(gate.status, std::future_status::ready);
  twins.lerp_on_cpu(0.125);
  twins.lerp_on_cpu(0.75);
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, ATableMovesAndMayGoWhileItsWorkRuns) {
  at::manual_seed(8);
  Twins twins(MixedSpans::of_every_kind({3000}));
  twins.lerp_on_cpu(0.6);
  {
    CudaTable moved = std::move(twins.table);
    EXPECT_EQ(moved.device(), 0);
    moved.set_weight(0.6, current_stream());
    moved.lerp(current_stream());
  }
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, EveryDeviceWorksAndTheCallersStaysCurrent) {
  int count = 0;
  require(cudaGetDeviceCount(&count));
  ASSERT_GE(count, 1);
  for (int device = 0; device < count; ++device) {
    for (int current = 0; current < count; ++current) {
      at::manual_seed(9);
      require(cudaSetDevice(current));
      Twins twins(MixedSpans::of_every_kind({50, 5000}), device);
      twins.lerp_on_cpu(0.2);
      twins.table.set_weight(0.2, nullptr);
      twins.table.lerp(nullptr);
      int after = -1;
      require(cudaGetDevice(&after));
      EXPECT_EQ(after, current);
      EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
    }
  }
  require(cudaSetDevice(0));
}

TEST(Cuda, AnErrorNamesTheDeviceAndWhatFailed) {
  EXPECT_THAT([] { CudaTable({}, 99); },
              ::testing::ThrowsMessage<Error>(
                  ::testing::AllOf(::testing::StartsWith("CUDA device 99: cannot use the device: "),
                                   ::testing::HasSubstr("invalid device"))));
  // And nothing of it is left behind.
  Twins twins(MixedSpans::of_every_kind({10}));
  update(twins, 0.5);
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

}  // namespace
}  // namespace polyak::kernels
