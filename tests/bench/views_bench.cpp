// SPDX-License-Identifier: Apache-2.0
// What BYOL's two views cost beside the step that learns from them: batches of 256 images of 28 x
// 28 pixels, the network of configs/byol_fashion_mnist.yaml.
//
//   views_bench [--rounds=21] [--tiny] [--benchmark_filter=CHANNELS/THREADS]
//
// Counters: "<what>_us", the median of a batch; "<what>/step", the median of the rounds' ratios:
// "views" is both views, the others are single transforms of one.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/utils.h>

#include "bench/race.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/optim_wrapper.h"
#include "polyak/trainer/random_stream.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak::bench {
namespace {

// BYOL's two views, for small images.
const char* const kTransforms[][2] = {
    {"crop", "[{type: RandomResizedCrop, scale: 28, crop_ratio_range: [0.2, 1]}]"},
    {"flip", "[{type: RandomFlip}]"},
    {"jitter",
     "[{type: ColorJitter, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1, prob: 0.8}]"},
    {"gray", "[{type: RandomGrayscale, prob: 0.2}]"},
    {"blur", "[{type: GaussianBlur, magnitude_range: [0.1, 2], prob: 1}]"},
    {"blur_some", "[{type: GaussianBlur, magnitude_range: [0.1, 2], prob: 0.1}]"},
    {"solarize", "[{type: Solarize, prob: 0.2}]"},
};

const char* const kByol =
    "{type: BYOL, backbone: {type: SmallCNN, channels: [32, 64, 128], with_avg_pool: true},"
    " neck: {type: NonLinearNeck, hid_channels: 256, out_channels: 64, with_bias: true,"
    "        with_last_bn: false},"
    " head: {type: LatentPredictHead, predictor: {type: NonLinearNeck, hid_channels: 256,"
    "        out_channels: 64, with_bias: true, with_last_bn: false}}}";

Node pipeline(const std::vector<size_t>& transforms) {
  Node list = Node::sequence();
  for (const size_t i : transforms)
    list.append(parse_config(fmt::format("p: {}", kTransforms[i][1])).at("p").items()[0]);
  return list;
}

void measure(benchmark::State& state, int64_t channels, int threads) {
  at::set_num_threads(threads);
  Catalog catalog;
  register_trainer(catalog);
  const int64_t count = flags().tiny ? 8 : 256;
  at::Generator random = make_random_stream({1});
  const at::Tensor images = at::randint(256, {count, channels, 28, 28}, random, at::kByte);

  Progress progress;
  progress.max_iters = progress.max_optimizer_steps = 1 << 30;
  progress.optimizer_steps = 0;
  const auto model = catalog.of<Algorithm>().build(
      parse_config(kByol), {&catalog, {channels, 28, 28}, 10, at::kCPU, &progress});
  OptimWrapper optim(parse_config("{optimizer: {type: AdamW, lr: 0.001}}"), catalog,
                     ModelRef(as_module(model)).tensors());
  optim.start(0, 1 << 30);
  const at::Tensor pixels = images.to(at::kFloat) / 255;
  const Batch batch{{pixels, pixels.flip(3)}, at::Tensor()};

  Race race;
  race.add("step", [&] {
    optim.update(model->loss(batch).at("loss"));
    ++progress.optimizer_steps;
  });
  std::vector<Pipeline> pipelines;
  for (size_t i = 0; i < std::size(kTransforms); ++i) {
    pipelines.emplace_back(pipeline({i}), catalog);
  }
  for (size_t i = 0; i < pipelines.size(); ++i) {
    race.add(kTransforms[i][0],
             [&, i] { benchmark::DoNotOptimize(pipelines[i].transform(images, random)); });
  }
  const Pipeline view_1(pipeline({0, 1, 2, 3, 4}), catalog);
  const Pipeline view_2(pipeline({0, 1, 2, 3, 5, 6}), catalog);
  race.add("views", [&] {
    benchmark::DoNotOptimize(view_1.transform(images, random));
    benchmark::DoNotOptimize(view_2.transform(images, random));
  });
  race.run(state);
}

}  // namespace
}  // namespace polyak::bench

int main(int count, char** arguments) {
  using namespace polyak::bench;
  if (!read_flags(&count, arguments)) return 2;
  for (const int64_t channels : {1, 3}) {
    for (const int threads : {1, 2}) {
      benchmark::RegisterBenchmark(
          fmt::format("views/{}/{}", channels, threads).c_str(),
          [=](benchmark::State& state) { measure(state, channels, threads); })
          ->Iterations(flags().rounds)
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  return benchmark::RunSpecifiedBenchmarks() == 0 ? 1 : 0;
}
