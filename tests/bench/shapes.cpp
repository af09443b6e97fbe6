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
  int64_t in = 64;
  const int64_t blocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t width = 64 << stage;
    for (int64_t block = 0; block < blocks[stage]; ++block) {
      conv_and_norm(width, in, 1);
      conv_and_norm(width, width, 3);
      conv_and_norm(4 * width, width, 1);
      if (block == 0) conv_and_norm(4 * width, in, 1);
      in = 4 * width;
    }
  }
  shapes.insert(shapes.end(), {{1000, 2048}, {1000}});
  return shapes;
}

/// 152 tensors, 86.6 M values.
Shapes vit_b_16() {
  Shapes shapes{{1, 1, 768}, {1, 197, 768}, {768, 3, 16, 16}, {768}};
  for (int layer = 0; layer < 12; ++layer) {
    shapes.insert(shapes.end(), {{768},
                                 {768},
                                 {2304, 768},
                                 {2304},
                                 {768, 768},
                                 {768},
                                 {768},
                                 {768},
                                 {3072, 768},
                                 {3072},
                                 {768, 3072},
                                 {768}});
  }
  shapes.insert(shapes.end(), {{768}, {768}, {1000, 768}, {1000}});
  return shapes;
}

/// A language model of 1.24 B values in 146 tensors, or a part of it: that part of its 16 layers
/// and of its vocabulary.
Shapes transformer(int64_t part) {
  Shapes shapes{{128256 / part, 2048}};
  for (int64_t layer = 0; layer < 16 / part; ++layer) {
    shapes.insert(shapes.end(), {{2048, 2048},
                                 {512, 2048},
                                 {512, 2048},
                                 {2048, 2048},
                                 {8192, 2048},
                                 {8192, 2048},
                                 {2048, 8192},
                                 {2048},
                                 {2048}});
  }
  shapes.push_back({2048});
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
  } else {
    throw std::invalid_argument("no shapes of this name: " + name);
  }
  for (auto& shape : shapes) shape[0] = std::max<int64_t>(1, shape[0] / shrink);
  return shapes;
}

Parameters::Parameters(const std::vector<at::Tensor>& tensors) : torch::nn::Module("Parameters") {
  for (const at::Tensor& tensor : tensors) {
    tensors_.push_back(register_parameter("p" + std::to_string(tensors_.size()), tensor));
  }
}

Parameters::Parameters(const Shapes& shapes, at::ScalarType dtype)
    : Parameters(random_tensors(shapes, dtype)) {}

int64_t Parameters::numel() const {
  int64_t numel = 0;
  for (const at::Tensor& tensor : tensors_) numel += tensor.numel();
  return numel;
}

}  // namespace polyak::bench
