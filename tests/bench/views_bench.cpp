// What the views of self-supervised learning cost beside a training step: batches of 256 images of
// 28 x 28 pixels, a small convolutional network with SGD.
//
//   views_bench [--rounds=21] [--tiny] [--benchmark_filter=CHANNELS/THREADS]
//
// Counters: "<what>_us", the median of a batch; "<what>/step", the median of the rounds' ratios. A
// step learns from one view.
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

  const auto model = catalog.of<Algorithm>().build(
      parse_config(
          "{type: ImageClassifier, backbone: {type: SmallCNN}, head: {type: LinearClsHead}}"),
      {&catalog, {channels, 28, 28}, 10});
  OptimWrapper optim(parse_config("{optimizer: {type: SGD, lr: 0.01, momentum: 0.9}}"), catalog,
                     Model(as_module(model)).tensors());
  optim.start(0, 1 << 30);
  const Batch batch{{images.to(at::kFloat) / 255}, at::randint(10, {count}, random, at::kLong)};

  Race race;
  race.add("step", [&] { optim.update(model->loss(batch).at("loss")); });
  std::vector<Pipeline> pipelines;
  for (size_t i = 0; i < std::size(kTransforms); ++i)
    pipelines.emplace_back(pipeline({i}), catalog);
  pipelines.emplace_back(pipeline({0, 1, 2, 3, 4}), catalog);
  pipelines.emplace_back(pipeline({0, 1, 2, 3, 5, 6}), catalog);
  for (size_t i = 0; i < pipelines.size(); ++i) {
    const size_t singles = std::size(kTransforms);
    const std::string name =
        i < singles ? kTransforms[i][0] : fmt::format("view_{}", i - singles + 1);
    race.add(name, [&, i] { benchmark::DoNotOptimize(pipelines[i].transform(images, random)); });
  }
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
