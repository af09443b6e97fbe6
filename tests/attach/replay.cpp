// SPDX-License-Identifier: Apache-2.0
// Checks what attach wrote against the weights that a program dumped after each step, bit for bit.
// FILE is a .pth, or one step's weights, those of a sibling that the program loaded.
//
// replay WEIGHTS FILE
//     the averages are the last weights of WEIGHTS
// replay WEIGHTS FILE MOMENTUM MAX_ITERS [update_buffers]
//     they are those of CosineEMA over WEIGHTS
// replay WEIGHTS FILE mean
//     they are the mean of WEIGHTS
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "polyak/averaging/averages.h"
#include "polyak/checkpoint/pth.h"

namespace {

using namespace polyak;

/// The weights of one step; nothing at the end of the file.
std::vector<NamedTensor> read_step(std::ifstream& file) {
  std::vector<NamedTensor> tensors;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const size_t blank = line.rfind(' ');
    const char kind = line[blank - 1];
    const at::Tensor values = at::empty({std::stoll(line.substr(blank + 1))}, at::kFloat);
    file.read(static_cast<char*>(values.data_ptr()), static_cast<std::streamsize>(values.nbytes()));
    tensors.push_back(
        {line.substr(0, blank - 2), kind == 'i' ? values.to(at::kLong) : values, kind != 'p'});
  }
  return tensors;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.numel() == b.numel() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(), a.nbytes()) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::ifstream file(argv[1], std::ios::binary);
  const std::string written = argv[2];
  const std::string rule = argc > 3 ? argv[3] : "";
  const std::vector<NamedTensor> weights = read_step(file);
  if (weights.empty()) fail<Error>("{}: holds no step", argv[1]);
  const ModelRef model(weights);
  std::unique_ptr<AveragedModel> ema;
  if (rule == "mean") {
    ema = std::make_unique<StochasticWeightAverage>(model);
  } else if (!rule.empty()) {
    CosineEMAOptions options;
    options.momentum(std::stod(rule)).max_iters(std::stoll(argv[4])).update_buffers(argc > 5);
    ema = std::make_unique<CosineEMA>(model, options);
  }
  int64_t steps = 0;
  for (std::vector<NamedTensor> next = weights; !next.empty(); next = read_step(file)) {
    for (size_t i = 0; i < next.size(); ++i) weights[i].tensor.copy_(next[i].tensor);
    if (ema) ema->update_parameters(model);
    ++steps;
  }

  std::unordered_map<std::string, at::Tensor> found, raw;
  int wrong = 0;
  if (written.size() > 4 && written.substr(written.size() - 4) == ".bin") {
    std::ifstream loaded(written, std::ios::binary);
    for (const NamedTensor& item : read_step(loaded)) found[item.name] = item.tensor;
  } else {
    const Value checkpoint = read_pth(written);
    const Value& state = checkpoint.at("ema_state_dict");
    for (const NamedTensor& item : weights) {
      found[item.name] = checkpoint.at("state_dict").at(item.name).as_tensor();
      if (ema) raw[item.name] = state.at("module." + item.name).as_tensor();
    }
    const int64_t counted = state.at("steps").as_tensor().item<int64_t>();
    if (ema && counted != steps) {
      fmt::print("{} steps instead of {}\n", counted, steps);
      ++wrong;
    }
  }
  for (const NamedTensor& item : weights) {
    const at::Tensor expected = ema ? ema->named_averages()[item.name] : item.tensor;
    if (!same_bits(found.at(item.name), expected)) {
      fmt::print("{}: another average\n", item.name);
      ++wrong;
    }
    if (raw.count(item.name) && !same_bits(raw.at(item.name), item.tensor)) {
      fmt::print("{}: other raw weights\n", item.name);
      ++wrong;
    }
  }
  if (wrong > 0) return 1;
  fmt::print("{} tensors, {} steps\n", weights.size(), steps);
}
