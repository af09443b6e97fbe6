// SPDX-License-Identifier: Apache-2.0
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

/// An average on the GPU, and the same by the CPU's reference variant.
struct Twins {
  MixedSpans cpu;
  MixedSpans gpu;
  std::vector<Span> cpu_spans = cpu.spans();
  CudaTable table;

  explicit Twins(const MixedSpans& start, int device = 0)
      : cpu(start.to(at::kCPU)),
        gpu(start.to(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)))),
        table({CudaRow{gpu.spans(), {}, {}}}, device) {}

  void set_weight(double weight, cudaStream_t stream) {
    const CudaTurn turn{weight, true, false};
    table.set_turns(0, &turn, 1, stream);
  }

  void lerp_on_cpu(double weight) {
    kernel_variants().back().lerp(cpu_spans.data(), cpu_spans.size(), weight);
  }
};

void update(Twins& twins, double weight) {
  twins.lerp_on_cpu(weight);
  twins.set_weight(weight, current_stream());
  twins.table.update(current_stream());
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
  CudaTable table({CudaRow{{on_gpu}, {}, {}}}, 0);
  for (const double weight : {0.25, 1.0}) {
    kernel_variants().back().lerp(&on_cpu, 1, weight);
    const CudaTurn turn{weight, true, false};
    table.set_turns(0, &turn, 1, current_stream());
    table.update(current_stream());
    EXPECT_TRUE(at::allclose(there.cpu(), average, 0, 0, /*equal_nan=*/true)) << weight;
  }
}

TEST(Cuda, ATableOfNothingDoesNothing) {
  for (const std::vector<Span>& spans :
       {std::vector<Span>{},
        std::vector<Span>{{nullptr, nullptr, 0, DType::float32, DType::float32}}}) {
    CudaTable table({CudaRow{spans, {}, {}}}, 0);
    const CudaTurn turn{0.5, true, true};
    table.set_turns(0, &turn, 1, current_stream());
    table.update(current_stream());
    require(cudaStreamSynchronize(current_stream()));
  }
}

TEST(Cuda, ATableWithoutRowsDoesNothing) {
  CudaTable table({}, 0);
  table.set_turns(0, nullptr, 0, current_stream());
  table.update(current_stream());
  require(cudaStreamSynchronize(current_stream()));
  const CudaTurn turn{};
  EXPECT_THAT([&] { table.set_turns(0, &turn, 1, current_stream()); },
              ::testing::ThrowsMessage<Error>(::testing::HasSubstr("fewer rows")));
}

TEST(Cuda, ATurnThatWasNeverSetDoesNothing) {
  at::manual_seed(4);
  Twins twins(MixedSpans::of_every_kind({100}));
  twins.table.update(current_stream());
  twins.lerp_on_cpu(0.0);
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, SeveralAveragesOfOneSourceAndTheirCopiesTakeOneLaunch) {
  at::manual_seed(10);
  constexpr size_t kRows = 40;  // more than one launch takes turns
  const MixedSpans sources = MixedSpans::of_every_kind({1, 300, 5000});
  const MixedSpans sources_there = sources.to(at::kCUDA);
  const at::Tensor buffer = at::randn({5003}), buffer_there = buffer.cuda();
  std::vector<MixedSpans> expected, got;
  std::vector<at::Tensor> copies;
  std::vector<CudaRow> rows;
  std::vector<CudaTurn> turns;
  for (size_t row = 0; row < kRows; ++row) {
    MixedSpans start = MixedSpans::of_every_kind({1, 300, 5000});
    start.take_sources_of(sources);
    got.push_back(start.to(at::kCUDA));
    got.back().take_sources_of(sources_there);
    copies.push_back(at::zeros({5003}, at::kCUDA));
    rows.push_back(
        {got.back().spans(), {}, {{copies.back().data_ptr(), buffer_there.data_ptr(), 5003 * 4}}});
    turns.push_back({1.0 / double(row + 1), row % 3 != 0, row % 2 != 0});
    if (turns.back().averages) {
      const std::vector<Span> spans = start.spans();
      kernel_variants().back().lerp(spans.data(), spans.size(), turns.back().weight);
    }
    expected.push_back(start);
  }
  CudaTable table(rows, 0);
  table.set_turns(0, turns.data(), kRows, current_stream());
  table.update(current_stream());
  for (size_t row = 0; row < kRows; ++row) {
    EXPECT_EQ(got[row].first_difference(expected[row]), -1) << row;
    const at::Tensor copied = turns[row].copies ? buffer : at::zeros({5003});
    EXPECT_TRUE(at::equal(copies[row].cpu(), copied)) << row;
  }
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
  const Graph graph(stream.stream(), [&] { twins.table.update(stream.stream()); });
  EXPECT_EQ(graph.nodes(), 1u);
  for (const double weight : {0.3, 1e-3, 0.9}) {
    twins.cpu.renew_sources(twins.gpu);
    twins.lerp_on_cpu(weight);
    twins.set_weight(weight, stream.stream());
    graph.replay(stream.stream());
  }
  EXPECT_EQ(twins.gpu.first_difference(twins.cpu), -1);
}

TEST(Cuda, ATableIsMadeAndFreedWhileAStreamCaptures) {
  at::manual_seed(6);
  const MixedSpans start = MixedSpans::of_every_kind({500});
  MixedSpans expected = start.to(at::kCPU);
  const MixedSpans there = start.to(at::kCUDA);
  const std::vector<CudaRow> rows{CudaRow{there.spans(), {}, {}}};
  const auto stream = c10::cuda::getStreamFromPool();
  std::optional<CudaTable> table;
  const Graph graph(stream.stream(), [&] {
    { const CudaTable freed(rows, 0); }
    table.emplace(rows, 0);
    table->update(stream.stream());
  });
  const CudaTurn turn{0.4, true, false};
  table->set_turns(0, &turn, 1, stream.stream());
  graph.replay(stream.stream());
  require(cudaStreamSynchronize(stream.stream()));
  const std::vector<Span> reference = expected.spans();
  kernel_variants().back().lerp(reference.data(), reference.size(), 0.4);
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
  twins.set_weight(weight, stream.stream());
  twins.table.update(stream.stream());
  weight = 0.75;
  twins.set_weight(weight, stream.stream());
  twins.table.update(stream.stream());
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
    const CudaTurn turn{0.6, true, false};
    moved.set_turns(0, &turn, 1, current_stream());
    moved.update(current_stream());
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
      twins.set_weight(0.2, nullptr);
      twins.table.update(nullptr);
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
