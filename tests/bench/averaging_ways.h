// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/shapes.h"
#include "polyak/averaging/averaged_model.h"

namespace polyak::bench {

constexpr double kWeight = 0.001;

/// A model of these shapes (1/64 of them with --tiny).
std::shared_ptr<Parameters> make_model(const std::string& shapes, at::ScalarType dtype);
/// Our average of a model, which has copied it already.
std::unique_ptr<AveragedModel> make_average(const std::shared_ptr<Parameters>& model,
                                            const std::string& precision = "default");
std::vector<at::Tensor> averages_of(const AveragedModel& average);

/// A way to update averages, and which.
struct Way {
  std::string name;
  std::function<void()> run;
  std::vector<at::Tensor> averages, sources;
};
/// Gives the averages known values, updates once, and compares with the formula. Throws when they
/// differ.
void check(const Way& way);

/// The plain loop of limit.h over one flat array, on LibTorch's threads.
Way plain_loop_way(const at::Tensor& average, const at::Tensor& source);
/// Our kernel, cut and shared out as plugin/polyak/averaging/chunk_table.cpp does it.
Way kernel_way(const std::string& name, const std::vector<at::Tensor>& averages,
               const std::vector<at::Tensor>& sources);
/// What LibTorch has, as "aten:...".
std::vector<Way> aten_ways(const std::vector<at::Tensor>& averages,
                           const std::vector<at::Tensor>& sources);

}  // namespace polyak::bench
