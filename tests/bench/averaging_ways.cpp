#include "bench/averaging_ways.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <stdexcept>

#include "bench/limit.h"

#if TORCH_VERSION_MAJOR >= 2
#define POLYAK_HAS_FOREACH_LERP 1
#endif

namespace polyak::bench {
namespace {

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

/// What a half precision source must become where it is not taken, or its product is rounded.
at::Tensor as_float(const at::Tensor& source) {
  return source.to(at::kFloat);
}

}  // namespace

const std::vector<std::pair<at::ScalarType, std::string>>& dtypes() {
  static const std::vector<std::pair<at::ScalarType, std::string>> dtypes{
      {at::kFloat, "float32"}, {at::kBFloat16, "bfloat16"}, {at::kHalf, "float16"}};
  return dtypes;
}

kernels::Span span_of(const at::Tensor& average, const at::Tensor& source) {
  kernels::Span span{};
  span.average = average.data_ptr();
  span.source = source.data_ptr();
  span.size = source.numel();
  span.average_type = kernel_type(average.scalar_type());
  span.source_type = kernel_type(source.scalar_type());
  return span;
}

void set_start_values(const at::Tensor& average, const at::Tensor& source) {
  average.copy_(source).mul_(0.5).add_(0.25);
}

double distance_after_update(const at::Tensor& average, const at::Tensor& source) {
  at::Tensor expected = at::empty_like(average);
  set_start_values(expected, source);
  expected.mul_(1 - kWeight).add_(source, kWeight);
  return expected.sub_(average).abs_().max().item<double>();
}

std::function<void()> kernel_only(const std::vector<kernels::Span>& spans) {
  return [chunks = kernels::cut(spans, kChunkElements)] {
    at::parallel_for(0, int64_t(chunks.size()), 1, [&](int64_t begin, int64_t end) {
      kernels::lerp(chunks.data() + begin, size_t(end - begin), kWeight);
    });
  };
}

Flat::Flat(int64_t size, at::ScalarType dtype)
    : source(at::randn({size}, at::kFloat).to(dtype)), average(at::zeros({size}, at::kFloat)) {}

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

std::function<void()> Flat::kernel() const {
  return kernel_only({span_of(average, source)});
}

Subject::Subject(const Shapes& shapes, at::ScalarType dtype)
    : model(std::make_shared<Parameters>(shapes, dtype)),
      ema(std::make_shared<ExponentialMovingAverage>(
          model, ExponentialMovingAverageOptions().momentum(kWeight))),
      flat(model->numel(), dtype) {
  ema->update_parameters(model);  // the first update copies
  for (const at::Tensor& parameter : model->tensors()) sources.push_back(parameter.detach());
  for (const auto& item : ema->named_averages()) averages.push_back(item.value().detach());
}

std::vector<Subject::Way> Subject::ways() const {
  const bool half = sources.front().scalar_type() != at::kFloat;
  std::vector<Way> ways;
  const auto add = [&](const std::string& name, std::function<void()> run) {
    ways.push_back({name, std::move(run), name.rfind("limit:", 0) == 0});
  };
  const auto each = [this](auto update) {
    return [this, update] {
      for (size_t i = 0; i < sources.size(); ++i) update(averages[i], sources[i]);
    };
  };

  add("ours", [this] { ema->update_parameters(model); });
  add("aten:mul_add", each([](const at::Tensor& average, const at::Tensor& source) {
        average.mul_(1 - kWeight).add_(source, kWeight);
      }));
  add("aten:lerp", each([half](const at::Tensor& average, const at::Tensor& source) {
        average.lerp_(half ? as_float(source) : source, kWeight);
      }));
  add("aten:out_of_place", each([half](const at::Tensor& average, const at::Tensor& source) {
        const at::Tensor value = half ? as_float(source) : source;
        average.copy_(average * (1 - kWeight) + value * kWeight);
      }));
  add("aten:foreach_mul_add", [this] {
    at::_foreach_mul_(averages, 1 - kWeight);
    at::_foreach_add_(averages, sources, kWeight);
  });
#ifdef POLYAK_HAS_FOREACH_LERP
  add("aten:foreach_lerp", [this, half] {
    if (!half) return at::_foreach_lerp_(averages, sources, kWeight);
    std::vector<at::Tensor> floats;
    floats.reserve(sources.size());
    for (const at::Tensor& source : sources) floats.push_back(as_float(source));
    at::_foreach_lerp_(averages, floats, kWeight);
  });
#endif
  add("limit:plain_loop", [this] { flat.plain_loop(); });
  add("limit:kernel", flat.kernel());
  return ways;
}

std::string Subject::check(const std::vector<Way>& ways) const {
  for (const Way& way : ways) {
    const std::vector<at::Tensor> from = way.flat ? std::vector<at::Tensor>{flat.source} : sources;
    const std::vector<at::Tensor> to = way.flat ? std::vector<at::Tensor>{flat.average} : averages;
    for (size_t i = 0; i < to.size(); ++i) set_start_values(to[i], from[i]);
    way.run();
    for (size_t i = 0; i < to.size(); ++i) {
      const double off = distance_after_update(to[i], from[i]);
      if (!(off <= kTolerance)) {
        return way.name + " gives another average: tensor " + std::to_string(i) + " is off by " +
               std::to_string(off);
      }
    }
  }
  return "";
}

int64_t Subject::bytes() const {
  return model->numel() * int64_t(8 + sources.front().element_size());
}

}  // namespace polyak::bench
