// SPDX-License-Identifier: Apache-2.0
// Prints the weight of the new value at each update of an average, for make_plots.py:
//   average_weights COUNT BLOCK...    one line for each block, of COUNT numbers
// BLOCK is what a config says: '{type: CosineEMA, momentum: 0.004}'. A call that does not average
// has the weight 0.
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/register.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"

namespace {

void print_weights(const polyak::Registry<polyak::AveragedModel>& averages, const char* block,
                   int64_t count) {
  const polyak::ModelRef model({{"number", at::zeros({1}), false}});
  polyak::AveragedModel::Context context;
  context.model = model;
  context.max_iters = count;
  const polyak::Node node = polyak::parse_config(block, block);
  const auto average = averages.build(node, context);
  const polyak::Node* interval = node.find("interval");
  const int64_t every = interval ? interval->as_int() : 1;
  for (int64_t k = 0; k < count; ++k) {
    std::printf("%s%.9g", k == 0 ? "" : " ", k % every == 0 ? average->weight(k) : 0.0);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 3) {
      std::fprintf(stderr, "average_weights COUNT BLOCK...\n");
      return 2;
    }
    polyak::Catalog catalog;
    polyak::register_averages(catalog);
    const int64_t count = std::strtoll(argv[1], nullptr, 10);
    for (int i = 2; i < argc; ++i) {
      print_weights(catalog.of<polyak::AveragedModel>(), argv[i], count);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "average_weights: %s\n", error.what());
    return 1;
  }
  return 0;
}
