#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/shapes.h"
#include "polyak/averaging/exponential_moving_average.h"
#include "polyak/kernels/lerp.h"

namespace polyak::bench {

constexpr double kWeight = 0.001;
constexpr int64_t kChunkElements = 32768;  // as averaged_model.cpp cuts

/// The dtypes of models that are measured, with their names.
const std::vector<std::pair<at::ScalarType, std::string>>& dtypes();

kernels::Span span_of(const at::Tensor& average, const at::Tensor& source);
/// Our kernel over spans, cut and shared out as AveragedModel does it.
std::function<void()> kernel_only(const std::vector<kernels::Span>& spans);

/// Values to see one update by, and how far an average is from what one update makes of them.
void set_start_values(const at::Tensor& average, const at::Tensor& source);
double distance_after_update(const at::Tensor& average, const at::Tensor& source);
/// Some ulps of float32 at values up to 6; one update moves them by 1e-3.
constexpr double kTolerance = 4e-6;

/// One flat array and its average, with as many values as a model has.
struct Flat {
  Flat(int64_t size, at::ScalarType dtype);
  /// The plain loop of limit.h, on LibTorch's threads.
  void plain_loop() const;
  std::function<void()> kernel() const;

  at::Tensor source;
  at::Tensor average;
};

/// A model, its average, and every way to update it. All ways but the flat ones work on the same
/// memory, the model's tensors and those of our average.
struct Subject {
  Subject(const Shapes& shapes, at::ScalarType dtype);

  struct Way {
    std::string name;
    std::function<void()> run;
    bool flat;
  };
  /// Ours first; then "aten:...", "limit:...", and what else is asked for.
  std::vector<Way> ways() const;
  /// Sets the average, runs each way once, and compares with the formula. Returns what differs, or
  /// nothing.
  std::string check(const std::vector<Way>& ways) const;
  /// Bytes that one update must move.
  int64_t bytes() const;

  std::shared_ptr<Parameters> model;
  std::shared_ptr<ExponentialMovingAverage> ema;
  std::vector<at::Tensor> sources;
  std::vector<at::Tensor> averages;
  Flat flat;
};

}  // namespace polyak::bench
