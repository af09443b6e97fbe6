// Checks what attach wrote against the weights that a program dumped after each step.
//
// replay WEIGHTS PTH MOMENTUM MAX_ITERS    the averages are those of CosineEMA over WEIGHTS, bit
// for bit replay WEIGHTS PTH                       the averages are the last weights of WEIGHTS
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <fstream>
#include <string>
#include <vector>

#include "polyak/averaging/cosine_ema.h"
#include "polyak/checkpoint/pth.h"

namespace {

using namespace polyak;

/// The weights of one step; nothing at the end of the file.
std::vector<NamedTensor> read_step(std::ifstream& file) {
  std::vector<NamedTensor> tensors;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const size_t blank = line.rfind(' ');
    const at::Tensor values = at::empty({std::stoll(line.substr(blank + 1))}, at::kFloat);
    file.read(static_cast<char*>(values.data_ptr()), static_cast<std::streamsize>(values.nbytes()));
    tensors.push_back({line.substr(0, blank), values, false});
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
  const Value checkpoint = read_pth(argv[2]);
  const std::vector<NamedTensor> weights = read_step(file);
  if (weights.empty()) fail<Error>("{}: holds no step", argv[1]);
  const Model model(weights);
  CosineEMAOptions options;
  options.momentum(argc > 4 ? std::stod(argv[3]) : 0.5)
      .max_iters(argc > 4 ? std::stoll(argv[4]) : 1);
  CosineEMA ema(model, options);
  int64_t steps = 0;
  for (std::vector<NamedTensor> next = weights; !next.empty(); next = read_step(file)) {
    for (size_t i = 0; i < next.size(); ++i) weights[i].tensor.copy_(next[i].tensor);
    if (argc > 4) ema.update_parameters(model);
    ++steps;
  }
  const auto averages = ema.named_averages();
  const Value& state = checkpoint.at("ema_state_dict");
  int wrong = 0;
  for (const NamedTensor& item : weights) {
    const at::Tensor expected = argc > 4 ? averages[item.name] : item.tensor;
    if (!same_bits(checkpoint.at("state_dict").at(item.name).as_tensor(), expected)) {
      fmt::print("{}: another average\n", item.name);
      ++wrong;
    }
    if (argc > 4 && !same_bits(state.at("module." + item.name).as_tensor(), item.tensor)) {
      fmt::print("{}: other raw weights\n", item.name);
      ++wrong;
    }
  }
  const int64_t counted = state.at("steps").as_tensor().item<int64_t>();
  if (argc > 4 && counted != steps) {
    fmt::print("{} steps instead of {}\n", counted, steps);
    ++wrong;
  }
  if (wrong > 0) return 1;
  fmt::print("{} tensors, {} steps\n", weights.size(), steps);
}
