// SPDX-License-Identifier: Apache-2.0
// Built without CMake: g++ main.cpp $(pkg-config --cflags --libs polyak)
#include <polyak/averaging/averages.h>
#include <polyak/core/log.h>

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

int main() {
  std::string heard;
  polyak::set_log_sink([&](polyak::LogLevel, std::string_view message) { heard = message; });
  polyak::log_info("{}", 1);  // formatted by fmt's library

  const at::Tensor weight = at::zeros({3});
  const polyak::ModelRef list(std::vector<polyak::NamedTensor>{{"weight", weight}});
  polyak::ExponentialMovingAverage ema(list,
                                       polyak::ExponentialMovingAverageOptions().momentum(0.25));
  for (int step = 0; step < 2; ++step) {
    weight.add_(4);
    ema.update_parameters(list);
  }
  const bool averaged = at::equal(ema.named_averages()["weight"], at::full({3}, 5.0));
  return averaged && heard == "1" ? 0 : 1;  // 4 + (8 - 4) / 4
}
