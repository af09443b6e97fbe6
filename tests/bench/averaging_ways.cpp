// SPDX-License-Identifier: Apache-2.0
#include "bench/averaging_ways.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <stdexcept>

#include "bench/limit.h"
#include "bench/race.h"
#include "polyak/averaging/averages.h"
#include "polyak/kernels/lerp.h"

namespace polyak::bench {
namespace {

// As plan.cpp has them.
constexpr int64_t kChunkElements = 32768;
constexpr int64_t kChunkOverhead = 512;
constexpr int64_t kBytesAThread = 256 << 10;

kernels::DType kernel_type(const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  return type == at::kHalf       ? kernels::DType::float16
         : type == at::kBFloat16 ? kernels::DType::bfloat16
                                 : kernels::DType::float32;
}

void set_start_values(const at::Tensor& average, const at::Tensor& source) {
  average.copy_(source).mul_(0.5).add_(0.25);
}

}  // namespace

std::shared_ptr<Parameters> make_model(const std::string& shapes, at::ScalarType dtype) {
  return std::make_shared<Parameters>(shapes_of(shapes, flags().tiny ? 64 : 1), dtype);
}

std::unique_ptr<AveragedModel> make_average(const std::shared_ptr<Parameters>& model,
                                            const std::string& precision) {
  auto average = std::make_unique<ExponentialMovingAverage>(
      model,
      ExponentialMovingAverageOptions().momentum(kWeight).precision(parse_precision(precision)));
  average->update_parameters(model);
  return average;
}

std::vector<at::Tensor> averages_of(const AveragedModel& average) {
  std::vector<at::Tensor> averages;
  for (const auto& item : average.named_averages()) averages.push_back(item.value().detach());
  return averages;
}

void check(const Way& way) {
  constexpr double kTolerance = 4e-6;  // some ulps at values up to 6; an update moves them by 1e-3
  const size_t size = way.averages.size();
  for (size_t i = 0; i < size; ++i) set_start_values(way.averages[i], way.sources[i]);
  way.run();
  for (size_t i = 0; i < size; ++i) {
    at::Tensor expected = at::empty_like(way.averages[i]);
    set_start_values(expected, way.sources[i]);
    expected.mul_(1 - kWeight).add_(way.sources[i], kWeight);
    const double off = expected.sub_(way.averages[i]).abs_().max().item<double>();
    if (off <= kTolerance) continue;
    throw std::runtime_error(
        fmt::format("{} gives another average: tensor {} is off by {}", way.name, i, off));
  }
}

Way plain_loop_way(const at::Tensor& average, const at::Tensor& source) {
  const auto run = [average, source] {
    const auto weight = static_cast<float>(kWeight);
    auto* to = average.data_ptr<float>();
    const void* from = source.data_ptr();
    at::parallel_for(0, source.numel(), kChunkElements, [&](int64_t begin, int64_t end) {
      const int64_t size = end - begin;
      const auto* halves = static_cast<const uint16_t*>(from) + begin;
      if (source.scalar_type() == at::kFloat) {
        plain_loop(to + begin, static_cast<const float*>(from) + begin, size, weight);
      } else if (source.scalar_type() == at::kBFloat16) {
        plain_loop_bfloat16(to + begin, halves, size, weight);
      } else {
        plain_loop_float16(to + begin, halves, size, weight);
      }
    });
  };
  return {"limit:plain_loop", run, {average}, {source}};
}

Way kernel_way(const std::string& name, const std::vector<at::Tensor>& averages,
               const std::vector<at::Tensor>& sources) {
  std::vector<kernels::Span> spans;
  for (size_t i = 0; i < averages.size(); ++i) {
    spans.push_back({averages[i].data_ptr(), sources[i].data_ptr(), sources[i].numel(),
                     kernel_type(averages[i]), kernel_type(sources[i])});
  }
  std::vector<kernels::Span> chunks = kernels::split_into_chunks(spans, kChunkElements);
  int64_t bytes = 0;
  for (const kernels::Span& chunk : chunks) bytes += kernels::traffic_of(chunk) + kChunkOverhead;
  const int64_t grain = int64_t(chunks.size()) * kBytesAThread / bytes + 1;
  const auto run = [chunks = std::move(chunks), grain] {
    at::parallel_for(0, int64_t(chunks.size()), grain, [&](int64_t begin, int64_t end) {
      kernels::lerp(chunks.data() + begin, size_t(end - begin), kWeight);
    });
  };
  return {name, run, averages, sources};
}

std::vector<Way> aten_ways(const std::vector<at::Tensor>& averages,
                           const std::vector<at::Tensor>& sources) {
  std::vector<Way> ways;
  const auto add = [&](const char* name, std::function<void()> run) {
    ways.push_back({name, std::move(run), averages, sources});
  };
  const auto add_each = [&](const char* name, auto update) {
    add(name, [averages, sources, update] {
      for (size_t i = 0; i < sources.size(); ++i) update(averages[i], sources[i]);
    });
  };
  // lerp refuses a half precision source, and a product of one is rounded. Of float32 this is the
  // tensor itself.
  const auto as_float = [](const at::Tensor& source) { return source.to(at::kFloat); };

  add_each("aten:mul_add", [](const at::Tensor& average, const at::Tensor& source) {
    average.mul_(1 - kWeight).add_(source, kWeight);
  });
  add_each("aten:lerp", [as_float](const at::Tensor& average, const at::Tensor& source) {
    average.lerp_(as_float(source), kWeight);
  });
  add_each("aten:out_of_place", [as_float](const at::Tensor& average, const at::Tensor& source) {
    average.copy_(average * (1 - kWeight) + as_float(source) * kWeight);
  });
  add("aten:foreach_mul_add", [averages, sources] {
    at::_foreach_mul_(averages, 1 - kWeight);
    at::_foreach_add_(averages, sources, kWeight);
  });
#if TORCH_VERSION_MAJOR >= 2
  add("aten:foreach_lerp", [averages, sources, as_float] {
    if (sources.front().scalar_type() == at::kFloat) {
      return at::_foreach_lerp_(averages, sources, kWeight);
    }
    std::vector<at::Tensor> floats;
    floats.reserve(sources.size());
    for (const at::Tensor& source : sources) floats.push_back(as_float(source));
    at::_foreach_lerp_(averages, floats, kWeight);
  });
#endif
  return ways;
}

}  // namespace polyak::bench
