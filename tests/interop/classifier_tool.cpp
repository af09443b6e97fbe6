// SPDX-License-Identifier: Apache-2.0
// What architectures.py needs of this side.
//   classifier_tool MODEL WEIGHTS IMAGES OUTPUT
//                      builds the model that the YAML text MODEL describes for the images of the
//                      .pth file IMAGES ("images", float [N, C, H, W]), loads WEIGHTS as `polyak
//                      train --load-from` does, and writes its logits into the .pth file OUTPUT
//                      ("logits", float [N, classes]) and how the file differs from the model
//                      ("difference", a str, empty if it does not). What is logged goes to stderr.
#include <ATen/ATen.h>
#include <torch/utils.h>

#include <cstdio>
#include <string>

#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/register_trainer.h"

namespace {

using polyak::Value;

void predict(char** argv) {
  polyak::Catalog catalog;
  polyak::register_trainer(catalog);
  const at::Tensor images = polyak::read_pth(argv[3]).at("images").as_tensor();
  const auto model = catalog.of<polyak::Algorithm>().build(
      polyak::parse_config(argv[1], "MODEL"),
      {&catalog, {images.size(1), images.size(2), images.size(3)}, 1});
  const auto module = polyak::as_module(model);

  Value checkpoint = polyak::read_checkpoint(argv[2]);
  polyak::fit_checkpoint(checkpoint, module, /*resuming=*/false);
  const Value& state_dict = checkpoint.at("state_dict");
  const std::string difference = polyak::compare_state_dict(module, state_dict).text();
  polyak::load_state_dict(module, state_dict);

  module->eval();
  const torch::NoGradGuard no_grad;
  polyak::write_pth(argv[4],
                    Value::dict({{"logits", model->predict(images)}, {"difference", difference}}));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  try {
    predict(argv);
  } catch (const polyak::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
