// SPDX-License-Identifier: Apache-2.0
// cuda_bench [ROUNDS]: what an update costs on this GPU, as JSON for table.py: update_parameters
// against a device copy that moves the same bytes, and against what LibTorch offers; and three
// averages in one pass against three passes. Each way is checked first.
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
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/shapes.h"
#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/averages.h"
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
    run();  // averages that come and go get new tables
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

/// Gives the averages known values, updates once, and compares with the formula.
void check(const Way& way, const std::vector<at::Tensor>& averages,
           const std::vector<at::Tensor>& sources) {
  for (const at::Tensor& average : averages) average.fill_(0.25);
  way.run();
  for (size_t i = 0; i < averages.size(); ++i) {
    const at::Tensor expected =
        at::full_like(averages[i], 0.25).lerp_(sources[i].to(at::kFloat), kWeight);
    // mul_.add_ rounds twice, at values up to 6.
    if (!at::allclose(averages[i], expected, 1e-6, 1e-6)) {
      throw std::runtime_error(way.name + " gives something else than an update");
    }
  }
}

Json measure(const std::string& name, const Shapes& shapes, at::ScalarType type, int rounds) {
  const auto on_gpu = at::TensorOptions(at::kCUDA);
  std::vector<polyak::NamedTensor> named;
  std::vector<at::Tensor> sources;
  for (const auto& shape : shapes) {
    sources.push_back(at::randn(shape, on_gpu.dtype(type)));
    named.push_back({std::to_string(named.size()), sources.back(), /*buffer=*/false});
  }
  const polyak::ModelRef model(named);
  std::vector<std::unique_ptr<polyak::ExponentialMovingAverage>> owned;
  std::vector<polyak::AveragedModel*> emas;
  for (int i = 0; i < 3; ++i) {
    owned.push_back(std::make_unique<polyak::ExponentialMovingAverage>(
        model, polyak::ExponentialMovingAverageOptions().momentum(kWeight)));
    emas.push_back(owned.back().get());
    emas.back()->update_parameters(model);  // copies
  }
  std::vector<at::Tensor> averages;
  for (const auto& item : emas.front()->named_averages()) {
    averages.push_back(item.value().detach());
  }
  kernels::CudaRow row;
  int64_t values = 0, bytes = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    row.averaged.push_back({averages[i].data_ptr(), sources[i].data_ptr(), sources[i].numel(),
                            kernels::DType::float32, kernel_type(type)});
    values += row.averaged.back().size;
    bytes += traffic_of(row.averaged.back());
  }
  const at::Tensor from = at::ones({bytes / 2}, on_gpu.dtype(at::kByte)), to = at::empty_like(from);
  kernels::CudaTable table({row}, from.get_device());
  const bool half = type != at::kFloat;
  const auto as_floats = [&] {
    std::vector<at::Tensor> floats;
    floats.reserve(sources.size());
    for (const at::Tensor& source : sources) floats.push_back(source.to(at::kFloat));
    return floats;
  };

  constexpr size_t kOurs = 0, kCopy = 1, kOneByOne = 2;
  std::vector<Way> ways;
  ways.push_back({"ours", [&] { emas.front()->update_parameters(model); }});
  ways.push_back({"copy", [&] {
                    require(cudaMemcpyAsync(to.data_ptr(), from.data_ptr(), from.nbytes(),
                                            cudaMemcpyDeviceToDevice, stream()));
                  }});
  ways.push_back({"ours, 3 one by one", [&] {
                    for (polyak::AveragedModel* ema : emas) ema->update_parameters(model);
                  }});
  ways.push_back({"ours, 3 in one pass", [&] { polyak::update_together(emas, model); }});
  ways.push_back({"ours, the launches alone", [&] {
                    const kernels::CudaTurn turn{kWeight, true, false};
                    table.set_turns(0, &turn, 1, stream());
                    table.update(stream());
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
    if (way.name != "copy") check(way, averages, sources);  // and loads its kernels
    way.time();
    way.calls = std::clamp(int(5e-3 / way.seconds.back()), 1, 500);
    way.time();
    way.seconds.clear();
  }
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < ways.size(); ++i) ways[(i + size_t(round)) % ways.size()].time();
  }

  Json result{{"name", name},
              {"source", c10::toString(type)},
              {"tensors", shapes.size()},
              {"values", values},
              {"bytes", bytes}};
  for (const Way& way : ways) {
    Json of_way{{"name", way.name}, {"us", median(way.seconds) * 1e6}};
    if (way.name.rfind("ours, 3", 0) == 0) {
      of_way["time_over_one_by_one"] = ratio(way, ways[kOneByOne]);
    } else {
      of_way["speed_over_copy"] = ratio(ways[kCopy], way);
      of_way["time_over_ours"] = ratio(way, ways[kOurs]);
    }
    result["ways"].push_back(of_way);
  }
  return result;
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::max(1, std::atoi(arguments[1])) : 21;
  try {
    cudaDeviceProp device{};
    require(cudaGetDeviceProperties(&device, 0));
    Json report{{"context",
                 {{"gpu", device.name},
                  {"libtorch", TORCH_VERSION},
                  {"cuda", CUDART_VERSION},
                  {"rounds", rounds}}}};
    const std::vector<std::pair<std::string, Shapes>> models{{"resnet50", shapes_of("resnet50")},
                                                             {"vit_b_16", shapes_of("vit_b_16")},
                                                             {"transformer_1b", transformer()},
                                                             {"10000x100", shapes_of("10000x100")}};
    for (const auto& [name, shapes] : models) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
        try {
          report["benchmarks"].push_back(measure(name, shapes, type, rounds));
        } catch (const c10::OutOfMemoryError&) {
          report["benchmarks"].push_back(
              {{"name", name}, {"source", c10::toString(type)}, {"left_out", "out of memory"}});
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
