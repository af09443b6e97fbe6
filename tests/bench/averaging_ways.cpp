#include "bench/averaging_ways.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <stdexcept>

#include "bench/limit.h"
#include "polyak/averaging/exponential_moving_average.h"

namespace polyak::bench {
namespace {

// As plan.cpp has them.
constexpr int64_t kChunkElements = 32768;
constexpr int64_t kChunkOverhead = 512;
constexpr int64_t kBytesAThread = 256 << 10;

kernels::DType kernel_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return kernels::DType::float32;
    case at::kHalf:
      return kernels::DType::float16;
    case at::kBFloat16:
      return kernels::DType::bfloat16;
    default:
      throw std::invalid_argument("no benchmark has this dtype");
  }
}

void set_start_values(const at::Tensor& average, const at::Tensor& source) {
  average.copy_(source).mul_(0.5).add_(0.25);
}

/// What a half precision source must become where it is not taken, or its product is rounded.
at::Tensor as_float(const at::Tensor& source) {
  return source.to(at::kFloat);
}

}  // namespace

std::unique_ptr<AveragedModel> make_average(const std::shared_ptr<Parameters>& model,
                                            const std::string& precision) {
  auto average = std::make_unique<ExponentialMovingAverage>(
      model, ExponentialMovingAverageOptions().momentum(kWeight).precision(precision));
  average->update_parameters(model);
  return average;
}

std::vector<at::Tensor> averages_of(const AveragedModel& average) {
  std::vector<at::Tensor> averages;
  for (const auto& item : average.named_averages()) averages.push_back(item.value().detach());
  return averages;
}

std::string check_update(const std::string& name, const std::function<void()>& run,
                         const std::vector<at::Tensor>& averages,
                         const std::vector<at::Tensor>& sources) {
  constexpr double kTolerance = 4e-6;  // some ulps at values up to 6; an update moves them by 1e-3
  for (size_t i = 0; i < averages.size(); ++i) set_start_values(averages[i], sources[i]);
  run();
  for (size_t i = 0; i < averages.size(); ++i) {
    at::Tensor expected = at::empty_like(averages[i]);
    set_start_values(expected, sources[i]);
    expected.mul_(1 - kWeight).add_(sources[i], kWeight);
    const double off = expected.sub_(averages[i]).abs_().max().item<double>();
    if (!(off <= kTolerance)) {
      return name + " gives another average: tensor " + std::to_string(i) + " is off by " +
             std::to_string(off);
    }
  }
  return "";
}

std::function<void()> kernel_only(const std::vector<at::Tensor>& averages,
                                  const std::vector<at::Tensor>& sources) {
  std::vector<kernels::Span> spans;
  for (size_t i = 0; i < averages.size(); ++i) {
    spans.push_back({averages[i].data_ptr(), sources[i].data_ptr(), sources[i].numel(),
                     kernel_type(averages[i].scalar_type()),
                     kernel_type(sources[i].scalar_type())});
  }
  std::vector<kernels::Span> chunks = kernels::cut(spans, kChunkElements);
  int64_t bytes = 0;
  for (const kernels::Span& chunk : chunks) bytes += kernels::traffic_of(chunk) + kChunkOverhead;
  const int64_t grain = int64_t(chunks.size()) * kBytesAThread / bytes + 1;
  return [chunks = std::move(chunks), grain] {
    at::parallel_for(0, int64_t(chunks.size()), grain, [&](int64_t begin, int64_t end) {
      kernels::lerp(chunks.data() + begin, size_t(end - begin), kWeight);
    });
  };
}

void Flat::plain_loop() const {
  auto* to = average.data_ptr<float>();
  const void* from = source.data_ptr();
  const at::ScalarType type = source.scalar_type();
  const auto weight = static_cast<float>(kWeight);
  at::parallel_for(0, source.numel(), kChunkElements, [&](int64_t begin, int64_t end) {
    const int64_t size = end - begin;
    const auto* halves = static_cast<const uint16_t*>(from) + begin;
    if (type == at::kFloat) {
      bench::plain_loop(to + begin, static_cast<const float*>(from) + begin, size, weight);
    } else if (type == at::kBFloat16) {
      plain_loop_bfloat16(to + begin, halves, size, weight);
    } else {
      plain_loop_float16(to + begin, halves, size, weight);
    }
  });
}

Subject::Subject(const Shapes& shapes, at::ScalarType dtype)
    : model(std::make_shared<Parameters>(shapes, dtype)),
      ema(make_average(model)),
      averages(averages_of(*ema)),
      flat{at::zeros({model->numel()}), at::randn({model->numel()}).to(dtype)} {
  for (const at::Tensor& parameter : model->tensors()) sources.push_back(parameter.detach());
}

std::vector<Subject::Way> Subject::ways() const {
  const bool half = sources.front().scalar_type() != at::kFloat;
  const auto each = [this](auto update) {
    return [this, update] {
      for (size_t i = 0; i < sources.size(); ++i) update(averages[i], sources[i]);
    };
  };
  std::vector<Way> ways;
  ways.push_back({"ours", [this] { ema->update_parameters(model); }});
  ways.push_back({"aten:mul_add", each([](const at::Tensor& average, const at::Tensor& source) {
                    average.mul_(1 - kWeight).add_(source, kWeight);
                  })});
  ways.push_back({"aten:lerp", each([half](const at::Tensor& average, const at::Tensor& source) {
                    average.lerp_(half ? as_float(source) : source, kWeight);
                  })});
  ways.push_back(
      {"aten:out_of_place", each([half](const at::Tensor& average, const at::Tensor& source) {
         const at::Tensor value = half ? as_float(source) : source;
         average.copy_(average * (1 - kWeight) + value * kWeight);
       })});
  ways.push_back({"aten:foreach_mul_add", [this] {
                    at::_foreach_mul_(averages, 1 - kWeight);
                    at::_foreach_add_(averages, sources, kWeight);
                  }});
#if TORCH_VERSION_MAJOR >= 2
  ways.push_back({"aten:foreach_lerp", [this, half] {
                    if (!half) return at::_foreach_lerp_(averages, sources, kWeight);
                    std::vector<at::Tensor> floats;
                    floats.reserve(sources.size());
                    for (const at::Tensor& source : sources) floats.push_back(as_float(source));
                    at::_foreach_lerp_(averages, floats, kWeight);
                  }});
#endif
  ways.push_back({"limit:plain_loop", [this] { flat.plain_loop(); }, true});
  ways.push_back({"limit:kernel", kernel_only({flat.average}, {flat.source}), true});
  return ways;
}

std::string Subject::check(const std::vector<Way>& ways) const {
  for (const Way& way : ways) {
    const std::string wrong = way.flat
                                  ? check_update(way.name, way.run, {flat.average}, {flat.source})
                                  : check_update(way.name, way.run, averages, sources);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

int64_t Subject::bytes() const {
  return model->numel() * int64_t(8 + sources.front().element_size());
}

}  // namespace polyak::bench
