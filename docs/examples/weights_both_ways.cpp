// SPDX-License-Identifier: Apache-2.0
// Python's weights in a plain LibTorch program, and back.
#include <polyak/polyak.h>
#include <polyak/runtime/weights.h>
#include <torch/torch.h>

#include <iostream>

struct Net : torch::nn::Module {
  Net() {
    register_module("conv1", conv1);
    register_module("fc", fc);
  }
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(3, 8, 3)};
  torch::nn::Linear fc{8, 10};
};

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: weights_both_ways IN OUT\n";
    return 2;
  }
  try {
    Net net;
    // --8<-- [start:both]
    const polyak::WeightsReport report = polyak::load_weights(net, argv[1]);
    std::cout << report.loaded << " tensors were loaded; " << report.text() << "\n";

    polyak::ExponentialMovingAverage ema(net);
    // ... training, with ema.update_parameters(net) after each step ...
    ema.update_parameters(net);
    polyak::save_weights(ema, argv[2]);
    // --8<-- [end:both]
  } catch (const polyak::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
