// SPDX-License-Identifier: Apache-2.0
#include "bench/shapes.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace polyak::bench {
namespace {

/// 161 tensors, 25.6 M values, most of the tensors BatchNorm's small ones.
Shapes resnet50() {
  Shapes shapes;
  const auto conv_and_norm = [&](int64_t out, int64_t in, int64_t size) {
    shapes.insert(shapes.end(), {{out, in, size, size}, {out}, {out}});
  };
  conv_and_norm(64, 3, 7);
  int64_t in = 64, width = 64;
  for (const int blocks : {3, 4, 6, 3}) {
    for (int block = 0; block < blocks; ++block) {
      conv_and_norm(width, in, 1);
      conv_and_norm(width, width, 3);
      conv_and_norm(4 * width, width, 1);
      if (block == 0) conv_and_norm(4 * width, in, 1);
      in = 4 * width;
    }
    width *= 2;
  }
  shapes.insert(shapes.end(), {{1000, 2048}, {1000}});
  return shapes;
}

/// 152 tensors, 86.6 M values.
Shapes vit_b_16() {
  constexpr int64_t d = 768;
  Shapes shapes{{1, 1, d}, {1, 197, d}, {d, 3, 16, 16}, {d}, {d}, {d}, {1000, d}, {1000}};
  for (int layer = 0; layer < 12; ++layer) {
    for (const int64_t out : {d, d, d, d, d, 3 * d, 4 * d, d}) shapes.push_back({out});
    shapes.insert(shapes.end(), {{3 * d, d}, {d, d}, {4 * d, d}, {d, 4 * d}});
  }
  return shapes;
}

/// A language model of 1.24 B values in 146 tensors, or a part of it: that part of its 16 layers
/// and of its vocabulary.
Shapes transformer(int64_t part) {
  constexpr int64_t d = 2048;
  Shapes shapes{{128256 / part, d}, {d}};
  for (int64_t layer = 0; layer < 16 / part; ++layer) {
    for (const int64_t out : {d, d / 4, d / 4, d, 4 * d, 4 * d}) shapes.push_back({out, d});
    shapes.insert(shapes.end(), {{d, 4 * d}, {d}, {d}});
  }
  return shapes;
}

/// How much of the transformer a benchmark may take: 16 bytes a value (a model, its average, and
/// one flat array for each) in a third of the memory.
int64_t transformer_part() {
  const double memory = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGE_SIZE));
  int64_t part = 1;
  while (part < 16 && 1.24e9 * 16 / double(part) > memory / 3) part *= 2;
  return part;
}

std::vector<at::Tensor> random_tensors(const Shapes& shapes, at::ScalarType dtype) {
  std::vector<at::Tensor> tensors;
  for (const auto& shape : shapes) tensors.push_back(at::randn(shape, at::kFloat).to(dtype));
  return tensors;
}

std::string transformer_name() {
  return "transformer_1b_1of" + std::to_string(transformer_part());
}

}  // namespace

const std::vector<std::string>& shape_names() {
  static const std::vector<std::string> names{"resnet50", "vit_b_16", transformer_name(),
                                              "10000x100", "200x64"};
  return names;
}

Shapes shapes_of(const std::string& name, int64_t shrink) {
  Shapes shapes;
  if (name == "resnet50") {
    shapes = resnet50();
  } else if (name == "vit_b_16") {
    shapes = vit_b_16();
  } else if (name == transformer_name()) {
    shapes = transformer(transformer_part());
  } else if (name == "10000x100") {
    shapes = Shapes(size_t(10000 / shrink), {100 * shrink});
  } else if (name == "200x64") {
    shapes = Shapes(size_t(200 / shrink), {64 * shrink});
  } else if (name == "sac_256") {  // the two critics of Soft Actor-Critic on HalfCheetah
    for (int critic = 0; critic < 2; ++critic) {
      shapes.insert(shapes.end(), {{256, 23}, {256}, {256, 256}, {256}, {1, 256}, {1}});
    }
  } else {
    throw std::invalid_argument("no shapes of this name: " + name);
  }
  for (auto& shape : shapes) shape[0] = std::max<int64_t>(1, shape[0] / shrink);
  return shapes;
}

Parameters::Parameters(const std::vector<at::Tensor>& tensors) : torch::nn::Module("Parameters") {
  for (const at::Tensor& tensor : tensors) {
    values_.push_back(register_parameter("p" + std::to_string(values_.size()), tensor).detach());
  }
}

Parameters::Parameters(const Shapes& shapes, at::ScalarType dtype)
    : Parameters(random_tensors(shapes, dtype)) {}

int64_t Parameters::numel() const {
  int64_t numel = 0;
  for (const at::Tensor& tensor : values_) numel += tensor.numel();
  return numel;
}

}  // namespace polyak::bench
