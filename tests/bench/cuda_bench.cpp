// cuda_bench [ROUNDS]: what an update costs on this GPU, as JSON: the kernel against a device copy
// that moves the same bytes, and against what LibTorch offers.
//
// In each round every way runs once (as a batch of calls, in an order that turns); a figure is the
// median over rounds, and a ratio the median of the rounds' ratios. Times are of the stream,
// between two events, so that the gaps of a way that cannot launch fast enough count. What fits the
// GPU's cache is served from there, for the copy as for the others.
#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/shapes.h"
#include "polyak/kernels/lerp_cuda.h"

namespace {

using Json = nlohmann::ordered_json;
using polyak::bench::Shapes;
using polyak::bench::shapes_of;
namespace kernels = polyak::kernels;

constexpr double kWeight = 0.004;

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

cudaStream_t stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

/// A language model of 1.24 B values in 146 tensors.
Shapes transformer() {
  constexpr int64_t d = 2048;
  Shapes shapes{{128256, d}, {d}};
  for (int layer = 0; layer < 16; ++layer) {
    shapes.insert(
        shapes.end(),
        {{d, d}, {512, d}, {512, d}, {d, d}, {4 * d, d}, {4 * d, d}, {d, 4 * d}, {d}, {d}});
  }
  return shapes;
}

struct Way {
  std::string name;
  std::function<void()> run;
  int calls = 1;  // in a batch
  std::vector<double> seconds = {};

  void time() {
    cudaEvent_t start, end;
    require(cudaEventCreate(&start));
    require(cudaEventCreate(&end));
    require(cudaEventRecord(start, stream()));
    for (int call = 0; call < calls; ++call) run();
    require(cudaEventRecord(end, stream()));
    require(cudaEventSynchronize(end));
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, start, end));
    seconds.push_back(double(milliseconds) * 1e-3 / calls);
    require(cudaEventDestroy(start));
    require(cudaEventDestroy(end));
  }
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The median of a / b of each round.
double ratio(const Way& a, const Way& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.seconds.size(); ++i) ratios.push_back(a.seconds[i] / b.seconds[i]);
  return median(ratios);
}

kernels::DType kernel_type(at::ScalarType type) {
  return type == at::kHalf       ? kernels::DType::float16
         : type == at::kBFloat16 ? kernels::DType::bfloat16
                                 : kernels::DType::float32;
}

Json measure(const std::string& name, const Shapes& shapes, at::ScalarType type, int rounds) {
  const auto on_gpu = at::TensorOptions(at::kCUDA);
  std::vector<at::Tensor> averages, sources;
  std::vector<kernels::Span> spans;
  int64_t values = 0, bytes = 0;
  for (const auto& shape : shapes) {
    averages.push_back(at::randn(shape, on_gpu));
    sources.push_back(at::randn(shape, on_gpu.dtype(type)));
    spans.push_back({averages.back().data_ptr(), sources.back().data_ptr(), averages.back().numel(),
                     kernels::DType::float32, kernel_type(type)});
    values += spans.back().size;
    bytes += traffic_of(spans.back());
  }
  const at::Tensor from = at::ones({bytes / 2}, on_gpu.dtype(at::kByte)), to = at::empty_like(from);
  kernels::CudaTable table(spans, from.get_device());
  const bool half = type != at::kFloat;
  const auto as_floats = [&] {
    std::vector<at::Tensor> floats;
    floats.reserve(sources.size());
    for (const at::Tensor& source : sources) floats.push_back(source.to(at::kFloat));
    return floats;
  };

  std::vector<Way> ways;
  ways.push_back({"ours", [&] {
                    table.set_weight(kWeight, stream());
                    table.lerp(stream());
                  }});
  ways.push_back({"copy", [&] {
                    require(cudaMemcpyAsync(to.data_ptr(), from.data_ptr(), from.nbytes(),
                                            cudaMemcpyDeviceToDevice, stream()));
                  }});
  ways.push_back({"mul_.add_", [&] {
                    for (size_t i = 0; i < averages.size(); ++i) {
                      averages[i].mul_(1 - kWeight).add_(sources[i], kWeight);
                    }
                  }});
  ways.push_back({"lerp_", [&] {
                    for (size_t i = 0; i < averages.size(); ++i) {
                      averages[i].lerp_(half ? sources[i].to(at::kFloat) : sources[i], kWeight);
                    }
                  }});
  ways.push_back({"_foreach_mul_, _foreach_add_", [&] {
                    at::_foreach_mul_(averages, 1 - kWeight);
                    at::_foreach_add_(averages, sources, kWeight);
                  }});
#if TORCH_VERSION_MAJOR >= 2
  ways.push_back({"_foreach_lerp_",
                  [&] { at::_foreach_lerp_(averages, half ? as_floats() : sources, kWeight); }});
#endif

  for (Way& way : ways) {
    way.time();  // loads its kernels
    way.time();
    way.calls = std::clamp(int(5e-3 / way.seconds.back()), 1, 500);
    way.time();
    way.seconds.clear();
  }
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < ways.size(); ++i) ways[(i + size_t(round)) % ways.size()].time();
  }

  Json result{{"shapes", name},
              {"source", c10::toString(type)},
              {"tensors", shapes.size()},
              {"values", values},
              {"bytes", bytes}};
  for (const Way& way : ways) {
    const double seconds = median(way.seconds);
    result["ways"].push_back({{"name", way.name},
                              {"us", seconds * 1e6},
                              {"gb_per_s", double(bytes) / seconds * 1e-9},  // of what ours moves
                              {"speed_over_copy", ratio(ways[1], way)},
                              {"time_over_ours", ratio(way, ways[0])}});
  }
  return result;
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::max(1, std::atoi(arguments[1])) : 21;
  try {
    cudaDeviceProp device{};
    require(cudaGetDeviceProperties(&device, 0));
    Json report{{"device", device.name},
                {"libtorch", TORCH_VERSION},
                {"cuda", CUDART_VERSION},
                {"rounds", rounds},
                {"weight", kWeight}};
    const std::vector<std::pair<std::string, Shapes>> models{{"resnet50", shapes_of("resnet50")},
                                                             {"vit_b_16", shapes_of("vit_b_16")},
                                                             {"transformer_1b", transformer()},
                                                             {"10000x100", shapes_of("10000x100")}};
    for (const auto& [name, shapes] : models) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
        try {
          report["cases"].push_back(measure(name, shapes, type, rounds));
        } catch (const c10::OutOfMemoryError&) {
          report["cases"].push_back(
              {{"shapes", name}, {"source", c10::toString(type)}, {"left_out", "out of memory"}});
        }
        c10::cuda::CUDACachingAllocator::emptyCache();
      }
    }
    std::puts(report.dump(2).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return 1;
  }
}
