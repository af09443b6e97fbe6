// SPDX-License-Identifier: Apache-2.0
// Prints the tensors of what torch::save or attach wrote: a line "name: numbers" each.
#include <torch/script.h>
#include <torch/torch.h>

#include <cstdio>
#include <string>

#include "polyak/checkpoint/pth.h"

namespace {

void show(const std::string& name, const torch::Tensor& tensor) {
  std::printf("%s:", name.c_str());
  const torch::Tensor values = tensor.detach().to(torch::kDouble).flatten();
  for (int64_t i = 0; i < values.numel(); ++i) std::printf(" %.9g", values[i].item<double>());
  std::printf("\n");
}

}  // namespace

int main(int /*argc*/, char** argv) {
  const std::string file = argv[1];
  if (file.size() > 4 && file.substr(file.size() - 4) == ".pth") {
    const polyak::Value checkpoint = polyak::read_pth(file);
    for (const auto& [key, value] : checkpoint.at("ema_state_dict").entries()) {
      if (key.as_string() == "steps") show("steps", value.as_tensor());
    }
    for (const auto& [key, value] : checkpoint.at("state_dict").entries()) {
      show(key.as_string(), value.as_tensor());
    }
    return 0;
  }
  const torch::jit::Module module = torch::jit::load(file);
  for (const auto& item : module.named_parameters()) show(item.name, item.value);
  for (const auto& item : module.named_buffers()) show(item.name, item.value);
}
