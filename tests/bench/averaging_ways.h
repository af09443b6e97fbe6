#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/shapes.h"
#include "polyak/averaging/averaged_model.h"
#include "polyak/kernels/lerp.h"

namespace polyak::bench {

constexpr double kWeight = 0.001;

/// Our average of a model, which has copied it already.
std::unique_ptr<AveragedModel> make_average(const std::shared_ptr<Parameters>& model,
                                            const std::string& precision = "default");
std::vector<at::Tensor> averages_of(const AveragedModel& average);

/// Gives the averages known values, runs one update, and compares with the formula. Returns what
/// differs, or nothing.
std::string check_update(const std::string& name, const std::function<void()>& run,
                         const std::vector<at::Tensor>& averages,
                         const std::vector<at::Tensor>& sources);

/// Our kernel over these tensors, cut and shared out as plugin/averaging/plan.cpp does it.
std::function<void()> kernel_only(const std::vector<at::Tensor>& averages,
                                  const std::vector<at::Tensor>& sources);

/// One flat array and its average.
struct Flat {
  /// The plain loop of limit.h, on LibTorch's threads.
  void plain_loop() const;

  at::Tensor average;
  at::Tensor source;
};

/// A model, its average, and every way to update it.
struct Subject {
  Subject(const Shapes& shapes, at::ScalarType dtype);

  struct Way {
    std::string name;
    std::function<void()> run;
    bool flat = false;
  };
  /// Ours first; then "aten:...", on the same memory, the model's tensors and those of our average;
  /// then "limit:...", on one flat array of as many values.
  std::vector<Way> ways() const;
  /// What check_update() says of the first way that is wrong, or nothing.
  std::string check(const std::vector<Way>& ways) const;
  /// Bytes that one update must move.
  int64_t bytes() const;

  std::shared_ptr<Parameters> model;
  std::unique_ptr<AveragedModel> ema;
  std::vector<at::Tensor> sources;
  std::vector<at::Tensor> averages;
  Flat flat;
};

}  // namespace polyak::bench
