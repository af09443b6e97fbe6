// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/random_stream.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Views : public ::testing::Test {
 protected:
  Views() { register_trainer(catalog_); }
  at::Tensor apply(const std::string& text, const at::Tensor& images, uint64_t seed = 5) {
    const auto transform = catalog_.of<Transform>().build(parse_config(text), {&catalog_});
    const at::Tensor before = images.clone();
    const at::Tensor result = transform->apply(images, make_random_stream({seed}));
    EXPECT_TRUE(at::equal(images, before)) << text;  // other views start from the same images
    EXPECT_EQ(result.scalar_type(), at::kFloat);
    return result;
  }
  static at::Tensor noise(int64_t count, int64_t channels, int64_t side = 12) {
    return at::randint(256, {count, channels, side, side}, make_random_stream({7}), at::kByte);
  }
  /// How many images a transform left as they were.
  static int64_t unchanged(const at::Tensor& result, const at::Tensor& images) {
    return (result == images.to(at::kFloat)).flatten(1).all(1).sum().item<int64_t>();
  }
  Catalog catalog_;
};

TEST_F(Views, AWholeCropGivesTheImage) {
  const at::Tensor images = noise(3, 3);
  const at::Tensor same = apply(
      "{type: RandomResizedCrop, scale: 12, crop_ratio_range: [1, 1], aspect_ratio_range: [1, 1]}",
      images);
  EXPECT_TRUE(at::allclose(same, images.to(at::kFloat), 0, 1e-3));
  // Twice the size: bilinear interpolation between pixel centres, as LibTorch's own.
  for (const char* way : {"bilinear", "bicubic"}) {
    const at::Tensor larger =
        apply(fmt::format("{{type: RandomResizedCrop, scale: 24, interpolation: {}, "
                          "crop_ratio_range: [1, 1], aspect_ratio_range: [1, 1]}}",
                          way),
              images);
    const at::Tensor pixels = images.to(at::kFloat);
    const at::Tensor expected = way == std::string("bilinear")
                                    ? at::upsample_bilinear2d(pixels, {24, 24}, false)
                                    : at::upsample_bicubic2d(pixels, {24, 24}, false).clamp(0, 255);
    EXPECT_TRUE(at::allclose(larger, expected, 0, 0.02)) << way;
  }
}

TEST_F(Views, CropsHaveTheSizesAndShapesThatWereAskedFor) {
  // A ramp: the result's first and last column, and row, tell what was cut out.
  const int64_t side = 40, count = 200;
  const at::Tensor x = at::arange(side, at::kFloat).expand({side, side});
  const at::Tensor ramps = at::stack({x, x.t(), x * 0}).unsqueeze(0).expand({count, 3, side, side});
  const at::Tensor result = apply(
      "{type: RandomResizedCrop, scale: 10, crop_ratio_range: [0.2, 0.5], "
      "aspect_ratio_range: [0.5, 2]}",
      ramps);
  std::set<int64_t> lefts;
  for (int64_t i = 0; i < count; ++i) {
    auto extent = [&](int64_t channel, int64_t dim) {  // pixels between neighbours, times 10
      const at::Tensor line = result[i][channel].select(dim, 4);
      return 10 * (line[5] - line[4]).item<double>();
    };
    const double width = extent(0, 0), height = extent(1, 1);
    EXPECT_NEAR(width, std::round(width), 1e-2);
    EXPECT_NEAR(height, std::round(height), 1e-2);
    // Rounded to whole pixels.
    EXPECT_GT((width + 0.5) * (height + 0.5), 0.2 * side * side);
    EXPECT_LT((width - 0.5) * (height - 0.5), 0.5 * side * side);
    EXPECT_GT((width + 0.5) / (height - 0.5), 0.5);
    EXPECT_LT((width - 0.5) / (height + 0.5), 2.0);
    lefts.insert(static_cast<int64_t>(result[i][0][0][0].item<double>()));
    // Bilinear interpolation sees nothing beyond what was cut out.
    EXPECT_LE(result[i][0].max().item<double>() - result[i][0].min().item<double>(),
              width - 1 + 1e-3);
  }
  EXPECT_GT(lefts.size(), 5U);
}

TEST_F(Views, ACropThatCannotFitIsTheMiddle) {
  const at::Tensor images = at::arange(8, at::kFloat).expand({2, 1, 4, 8}).clone();
  const at::Tensor result = apply(
      "{type: RandomResizedCrop, scale: 4, crop_ratio_range: [1, 1], aspect_ratio_range: [1, 1]}",
      images);
  for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(result[1][0][2][i].item<double>(), 2 + i, 1e-4);
}

TEST_F(Views, BrightnessAndContrastScale) {
  const at::Tensor images = noise(4, 1);
  const at::Tensor pixels = images.to(at::kFloat);
  const at::Tensor bright = apply("{type: ColorJitter, brightness: [1.5, 1.5]}", images);
  EXPECT_TRUE(at::allclose(bright, (pixels * 1.5).clamp(0, 255)));
  const at::Tensor flat = apply("{type: ColorJitter, contrast: [0.25, 0.25]}", images);
  const at::Tensor mean = pixels.mean({1, 2, 3}, true);
  EXPECT_TRUE(at::allclose(flat, mean + 0.25 * (pixels - mean), 1e-4, 1e-3));
  const at::Tensor varied = apply("{type: ColorJitter, brightness: 0.4, prob: 0.5}", noise(200, 1));
  const int64_t kept = unchanged(varied, noise(200, 1));
  EXPECT_GT(kept, 60);
  EXPECT_LT(kept, 140);
}

TEST_F(Views, EachImageDrawsItsOwnAmountAndOrder) {
  const at::Tensor images = at::full({64, 1, 2, 2}, 100.0F);
  const at::Tensor factors =
      apply("{type: ColorJitter, brightness: 0.4}", images).flatten(1).select(1, 0) / 100;
  EXPECT_GT(factors.min().item<double>(), 0.6 - 1e-6);
  EXPECT_LT(factors.max().item<double>(), 1.4 + 1e-6);
  EXPECT_GT(factors.std().item<double>(), 0.15);
  // Brightness 3 saturates white; contrast 0.5 before it or after it gives different greys.
  at::Tensor half = at::zeros({64, 1, 2, 2});
  half.select(3, 1).fill_(200);
  const at::Tensor result =
      apply("{type: ColorJitter, brightness: [3, 3], contrast: [0.5, 0.5]}", half);
  std::set<int64_t> whites;
  for (int64_t i = 0; i < 64; ++i) whites.insert(std::lround(result[i][0][0][1].item<double>()));
  // first 200 -> 255 (clamped), then towards the mean 127.5; or first to 150, then clamped
  EXPECT_EQ(whites, (std::set<int64_t>{191, 255}));
}

TEST_F(Views, HueTurnsAndSaturationFades) {
  auto color = [](float r, float g, float b) {
    return at::tensor(std::vector<float>{r, g, b}).view({1, 3, 1, 1});
  };
  auto expect = [&](const char* text, const at::Tensor& from, const at::Tensor& to) {
    const at::Tensor found = apply(text, from);
    EXPECT_TRUE(at::allclose(found, to, 0, 0.05)) << text << found;
  };
  const char* third = "{type: ColorJitter, hue: [0.333333333, 0.333333333]}";
  expect(third, color(200, 50, 50), color(50, 200, 50));
  expect(third, color(50, 200, 50), color(50, 50, 200));
  expect(third, color(80, 80, 80), color(80, 80, 80));
  expect("{type: ColorJitter, hue: [0.5, 0.5]}", color(200, 150, 100), color(100, 150, 200));
  expect("{type: ColorJitter, hue: [-0.166666667, -0.166666667]}", color(200, 0, 0),
         color(200, 0, 200));
  const at::Tensor gray = at::full({1, 3, 1, 1}, 0.299 * 200 + 0.587 * 100);
  expect("{type: ColorJitter, saturation: [0, 0]}", color(200, 100, 0), gray);
  expect("{type: ColorJitter, saturation: [0.5, 0.5]}", color(200, 100, 0),
         (gray + color(200, 100, 0)) / 2);
  // Every colour comes back when it is turned half a circle twice.
  const at::Tensor images = noise(8, 3).to(at::kFloat);
  const char* half = "{type: ColorJitter, hue: [0.5, 0.5]}";
  EXPECT_TRUE(at::allclose(apply(half, apply(half, images)), images, 0, 0.01));
  // One channel has neither hue nor saturation.
  expect("{type: ColorJitter, hue: 0.5, saturation: 1}", noise(3, 1), noise(3, 1).to(at::kFloat));
}

TEST_F(Views, GrayscaleMixesTheChannels) {
  const at::Tensor images = noise(100, 3);
  const at::Tensor result =
      apply("{type: RandomGrayscale, prob: 0.5, channel_weights: [1, 1, 2]}", images);
  const at::Tensor pixels = images.to(at::kFloat);
  const at::Tensor mixed =
      (pixels.select(1, 0) + pixels.select(1, 1) + 2 * pixels.select(1, 2)) / 4;
  int64_t changed = 0;
  for (int64_t i = 0; i < 100; ++i) {
    if (at::equal(result[i], pixels[i])) continue;
    ++changed;
    for (int64_t c = 0; c < 3; ++c) EXPECT_TRUE(at::allclose(result[i][c], mixed[i], 1e-4, 1e-3));
  }
  EXPECT_GT(changed, 25);
  EXPECT_LT(changed, 75);
  EXPECT_EQ(unchanged(apply("{type: RandomGrayscale, prob: 1}", noise(3, 1)), noise(3, 1)), 3);
}

TEST_F(Views, BlurIsAGaussian) {
  at::Tensor images = at::zeros({2, 3, 31, 31});
  images[0].select(1, 15).select(1, 15).fill_(255);
  images[1].fill_(77);
  const double sigma = 1.7;
  const at::Tensor result =
      apply("{type: GaussianBlur, prob: 1, magnitude_range: [1.7, 1.7]}", images);
  const at::Tensor reach = at::arange(-15, 16, at::kDouble);
  at::Tensor line = (reach.square() / (-2 * sigma * sigma)).exp() * (reach.abs() <= 6);
  line = line / line.sum();
  const at::Tensor expected = 255 * at::outer(line, line).to(at::kFloat);
  for (int64_t c = 0; c < 3; ++c) EXPECT_TRUE(at::allclose(result[0][c], expected, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(result[1], images[1], 1e-5));  // mirrored: a flat image stays flat
  // Each image has a width of its own, and some have none.
  const at::Tensor points = images.slice(0, 0, 1).expand({50, 3, 31, 31});
  const at::Tensor varied = apply("{type: GaussianBlur, prob: 0.5}", points);
  std::set<double> centres;
  for (int64_t i = 0; i < 50; ++i) centres.insert(varied[i][0][15][15].item<double>());
  EXPECT_GT(centres.size(), 15U);
  EXPECT_LT(unchanged(varied, points), 35);
  EXPECT_GT(unchanged(varied, points), 15);
  EXPECT_EQ(apply("{type: GaussianBlur, prob: 1}", noise(2, 1, 3)).size(3),
            3);  // less than its reach
}

TEST_F(Views, SolarizeInvertsFromTheThreshold) {
  const at::Tensor images = at::arange(256, at::kByte).view({1, 1, 16, 16});
  const at::Tensor result = apply("{type: Solarize, thr: 200, prob: 1}", images).flatten();
  for (int64_t i = 0; i < 256; ++i) {
    EXPECT_EQ(result[i].item<float>(), static_cast<float>(i >= 200 ? 255 - i : i));
  }
  const int64_t kept =
      unchanged(apply("{type: Solarize, prob: 0.2}", noise(200, 1)), noise(200, 1));
  EXPECT_GT(kept, 130);
  EXPECT_LT(kept, 185);
}

const char* const kViews = R"(
batch_size: 24
dataset:
  type: RandomImages
  size: 96
  channels: 3
  image_size: 20
  pipeline:
    - type: MultiView
      num_views: [1, 2]
      transforms:
        - &view
          - {type: RandomResizedCrop, scale: 20}
          - {type: RandomFlip}
          - {type: ColorJitter, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1, prob: 0.8}
          - {type: RandomGrayscale, prob: 0.2}
          - {type: GaussianBlur, prob: 0.9}
          - {type: Solarize, prob: 0.2}
        - *view
    - {type: Normalize, mean: [128, 128, 128], std: [64, 64, 64]}
)";

TEST_F(Views, DependOnTheSeedAlone) {
  const int threads = at::get_num_threads();
  DataLoader loader(parse_config(kViews), catalog_, true, 1);
  const Batch batch = loader.batch(2, 1);
  ASSERT_EQ(batch.views.size(), 3U);
  for (const at::Tensor& view : batch.views) {
    EXPECT_EQ(view.sizes(), (std::vector<int64_t>{24, 3, 20, 20}));
    EXPECT_LE(view.abs().max().item<double>(), 2.01);  // Normalize reached every view
    EXPECT_GT(view.min().item<double>(), -2.01);
  }
  EXPECT_FALSE(at::equal(batch.views[0], batch.views[1]));
  EXPECT_FALSE(at::equal(batch.views[1], batch.views[2]));
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    DataLoader again(parse_config(kViews), catalog_, true, 1);
    again.batch(0, 0);
    at::rand({1});
    const Batch same = again.batch(2, 1);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(at::equal(same.views[i], batch.views[i])) << count << " threads, view " << i;
    }
  }
  at::set_num_threads(threads);
  DataLoader other(parse_config(kViews), catalog_, true, 2);
  EXPECT_FALSE(at::equal(other.batch(2, 1).views[0], batch.views[0]));
}

TEST_F(Views, RefuseWhatMakesNoSense) {
  auto expect = [&](const std::string& text, const char* message) {
    EXPECT_THAT([&] { apply(text, noise(2, 2)); }, ThrowsMessage<ConfigError>(HasSubstr(message)));
  };
  expect("{type: RandomResizedCrop, scale: 4, crop_ratio_range: [0.5, 0.2]}",
         "the smaller one first");
  expect("{type: RandomResizedCrop, scale: 4, crop_ratio_range: [0, 1]}", "in (0, 1]");
  expect("{type: ColorJitter, hue: 0.6}", "hue");
  expect("{type: ColorJitter, hue: -0.1}", "at least 0");
  expect("{type: ColorJitter, brightness: 0.1}", "1 or 3 channels, these have 2");
  expect("{type: GaussianBlur, magnitude_range: [2]}", "two numbers");
  expect("{type: RandomGrayscale, channel_weights: [0, 0, 0]}", "not all 0");
  expect("{type: MultiView, num_views: [1, 1], transforms: [[]]}",
         "has 2 entries, but transforms has 1");
  expect("{type: MultiView, num_views: 0, transforms: [[]]}", "at least 1");
}

}  // namespace
}  // namespace polyak
