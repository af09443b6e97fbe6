// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/view_transforms.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "polyak/registry/registry.h"
#include "polyak/trainer/network.h"

namespace polyak {
namespace {

/// float [count], uniform in [low, high).
at::Tensor draw(int64_t count, double low, double high, const at::Generator& random) {
  return at::rand({count}, random, at::kFloat).mul_(high - low).add_(low);
}

/// One number for each image, broadcastable to [N, C, H, W].
at::Tensor per_image(const at::Tensor& values) {
  return values.view({-1, 1, 1, 1});
}

constexpr int64_t kMostViews = 100;  // of a pipeline

/// Images that are changed at once, few enough for intermediate results to stay in the caches.
constexpr int64_t kPixels = 1 << 17;

/// The indices, int64, of images picked with a probability.
at::Tensor pick(int64_t count, double prob, const at::Generator& random) {
  return (at::rand({count}, random, at::kFloat) < prob).nonzero().squeeze(1);
}

/// Changes the images of `indices` in groups: `change` gets the images and their indices.
template <class Change>
at::Tensor change_some(const at::Tensor& images, const at::Tensor& indices, Change change) {
  if (indices.size(0) == 0) return images;
  at::Tensor result = images.clone();
  const int64_t at_once = std::max<int64_t>(1, kPixels / images[0].numel());
  for (const at::Tensor& part : indices.split(at_once)) {
    result.index_copy_(0, part, change(images.index_select(0, part), part));
  }
  return result;
}

void check_pair(const std::vector<double>& range, const char* key) {
  if (range.size() != 2 || range[0] > range[1]) {
    fail_option(key, "needs two numbers, the smaller one first");
  }
}

void check_channels(const at::Tensor& images, const char* name) {
  if (images.size(1) != 1 && images.size(1) != 3) {
    fail<ConfigError>("{}: takes images of 1 or 3 channels, these have {}", name, images.size(1));
  }
}

/// The weighted sum of the three channels, [N, 1, H, W].
at::Tensor mix(const at::Tensor& images, const std::array<double, 3>& weights) {
  return (images.slice(1, 0, 1) * weights[0])
      .add_(images.slice(1, 1, 2), weights[1])
      .add_(images.slice(1, 2, 3), weights[2]);
}

at::Tensor luminance(const at::Tensor& images) {
  return images.size(1) == 3 ? mix(images, {0.299, 0.587, 0.114}) : images;
}

// The changes of ColorJitter, in place; `amount` is [N, 1, 1, 1].

void brighten(const at::Tensor& images, const at::Tensor& amount) {
  images.mul_(amount).clamp_(0, 255);
}

void change_contrast(const at::Tensor& images, const at::Tensor& amount) {
  const at::Tensor mean = luminance(images).mean({1, 2, 3}, /*keepdim=*/true);
  images.mul_(amount).add_(mean.mul_(1 - amount)).clamp_(0, 255);
}

void saturate(const at::Tensor& images, const at::Tensor& amount) {
  const at::Tensor gray = luminance(images).mul_(1 - amount);
  images.mul_(amount).add_(gray).clamp_(0, 255);
}

void turn_hue(const at::Tensor& images, const at::Tensor& amount) {
  const at::Tensor red = images.slice(1, 0, 1), green = images.slice(1, 1, 2),
                   blue = images.slice(1, 2, 3);
  const at::Tensor value = at::maximum(at::maximum(red, green), blue);
  const at::Tensor chroma = value - at::minimum(at::minimum(red, green), blue);
  const at::Tensor sixth = chroma.clamp_min(1e-6).mul_(6).reciprocal_();
  // The hue on a circle of length 1.
  const at::Tensor hue = at::where(value == red, (green - blue).mul_(sixth),
                                   at::where(value == green, (blue - red).mul_(sixth).add_(2.0 / 6),
                                             (red - green).mul_(sixth).add_(4.0 / 6)));
  // Red, green and blue are value - chroma * clamp(2 - |k - 2|, 0, 1) with k = 6 hue + 5, 3, 1,
  // modulo 6. One more turn keeps the fraction positive.
  const at::Tensor offsets =
      at::tensor(std::vector<float>{11.0F / 6, 9.0F / 6, 7.0F / 6}).view({1, 3, 1, 1});
  const at::Tensor share = (hue + (amount + offsets)).frac_();
  share.sub_(2.0 / 6).abs_().clamp_(1.0 / 6, 2.0 / 6);
  at::Tensor result = images;
  at::addcmul_out(result, value.sub(chroma, 2), chroma * 6, share);
}

}  // namespace

void RandomResizedCropOptions::visit(OptionVisitor& visitor) {
  visitor.required("scale", &scale, "Height and width of the result.",
                   closed_interval(1, kLargestSide));
  visitor.key("crop_ratio_range", &crop_ratio_range,
              "Minimum and maximum fraction of the image's area to cut out.",
              Bounds{0.0, 1.0, true, false});
  visitor.key("aspect_ratio_range", &aspect_ratio_range,
              "Minimum and maximum aspect ratio (width / height) of the crop.", above(0));
  visitor.key("max_attempts", &max_attempts, "Attempts before a centre crop is taken instead.",
              closed_interval(1, 1000));
  visitor.choice("interpolation", &interpolation, {"bilinear", "bicubic"}, "How to scale.");
}

void RandomResizedCropOptions::validate() const {
  check_pair(crop_ratio_range, "crop_ratio_range");
  check_pair(aspect_ratio_range, "aspect_ratio_range");
}

RandomResizedCrop::RandomResizedCrop(RandomResizedCropOptions options)
    : options_(std::move(options)) {
  check_options(options_, "RandomResizedCrop");
}

at::Tensor RandomResizedCrop::apply(const at::Tensor& images, at::Generator random) const {
  const int64_t count = images.size(0), attempts = options_.max_attempts;
  const auto height = static_cast<double>(images.size(2));
  const auto width = static_cast<double>(images.size(3));
  const double low = options_.crop_ratio_range[0], high = options_.crop_ratio_range[1];
  const double narrow = options_.aspect_ratio_range[0], wide = options_.aspect_ratio_range[1];

  // Area and shape for each attempt, then the place.
  const at::Tensor numbers = at::rand({count, 2 * attempts + 2}, random, at::kDouble);
  at::Tensor boxes = at::empty({4, count}, at::kFloat);  // left, top, width, height
  auto box = boxes.accessor<float, 2>();
  for (int64_t i = 0; i < count; ++i) {
    const double* number = numbers.data_ptr<double>() + i * (2 * attempts + 2);
    double w = 0, h = 0;
    for (int64_t attempt = 0; attempt < attempts; ++attempt) {
      const double area = height * width * (low + (high - low) * number[2 * attempt]);
      const double shape = std::exp(std::log(narrow) +
                                    (std::log(wide) - std::log(narrow)) * number[2 * attempt + 1]);
      w = std::round(std::sqrt(area * shape));
      h = std::round(std::sqrt(area / shape));
      if (w >= 1 && w <= width && h >= 1 && h <= height) break;
      w = 0;
    }
    const bool found = w > 0;
    if (!found) {
      const double shape = std::clamp(width / height, narrow, wide);
      w = std::max(1.0, std::round(std::min(width, height * shape)));
      h = std::max(1.0, std::round(std::min(height, width / shape)));
    }
    const double* place = number + 2 * attempts;
    const double left = found ? place[0] * (width - w + 1) : (width - w) / 2;
    const double top = found ? place[1] * (height - h + 1) : (height - h) / 2;
    box[0][i] = static_cast<float>(std::floor(left));
    box[1][i] = static_cast<float>(std::floor(top));
    box[2][i] = static_cast<float>(w);
    box[3][i] = static_cast<float>(h);
  }

  // The position of each pixel of the result in the image, in grid_sample's units: -1 to 1 from
  // edge to edge. Bilinear interpolation stays inside the crop.
  const int64_t side = options_.scale;
  const bool bilinear = options_.interpolation == "bilinear";
  const at::Tensor centres = (at::arange(side, at::kFloat) + 0.5F).div_(side).unsqueeze(0);
  auto coordinates = [&](int64_t first, int64_t length, double size) {
    const at::Tensor start = boxes[first].unsqueeze(1), extent = boxes[length].unsqueeze(1);
    at::Tensor place = start + centres * extent - 0.5F;
    if (bilinear) place = at::minimum(at::maximum(place, start), start + extent - 1);
    return place.mul_(2).add_(1).div_(size).sub_(1);
  };
  const at::Tensor x = coordinates(0, 2, width).unsqueeze(1).expand({count, side, side});
  const at::Tensor y = coordinates(1, 3, height).unsqueeze(2).expand({count, side, side});
  const int64_t mode = bilinear ? 0 : 2, border = 1;
  const at::Tensor result = at::grid_sampler(images.to(at::kFloat), at::stack({x, y}, 3), mode,
                                             border, /*align_corners=*/false);
  return bilinear ? result : result.clamp(0, 255);
}

void ColorJitterOptions::visit(OptionVisitor& visitor) {
  visitor.key("brightness", &brightness,
              "Factor of the pixels: in 1 - x to 1 + x, or between two numbers.", at_least(0));
  visitor.key("contrast", &contrast, "Factor of the distance from the image's mean; as brightness.",
              at_least(0));
  visitor.key("saturation", &saturation, "Factor of the distance from grey; as brightness.",
              at_least(0));
  visitor.key("hue", &hue,
              "Shift of the hue, where 1 is a full turn: in -x to x, or between two numbers.",
              closed_interval(-0.5, 0.5));
  visitor.key("prob", &prob, "Probability of the change.", closed_interval(0, 1));
}

void ColorJitterOptions::validate() const {
  const std::pair<const char*, const std::vector<double>*> keys[] = {{"brightness", &brightness},
                                                                     {"contrast", &contrast},
                                                                     {"saturation", &saturation},
                                                                     {"hue", &hue}};
  for (const auto& [key, values] : keys) {
    if (values->size() != 1) check_pair(*values, key);
  }
  if (hue.size() == 1 && hue[0] < 0) {
    fail_option("hue", "one number must be at least 0, got {}", hue[0]);
  }
}

ColorJitter::ColorJitter(const ColorJitterOptions& options) : prob_(options.prob) {
  check_options(options, "ColorJitter");
  for (const std::vector<double>* values :
       {&options.brightness, &options.contrast, &options.saturation, &options.hue}) {
    const double neutral = values == &options.hue ? 0 : 1;
    Range range{};
    if (values->size() == 2) {
      range = {(*values)[0], (*values)[1]};
    } else {
      range = {neutral - (*values)[0], neutral + (*values)[0]};
      if (neutral == 1) range.low = std::max(range.low, 0.0);
    }
    ranges_.push_back(range);
    active_.push_back(range.low != neutral || range.high != neutral);
  }
}

at::Tensor ColorJitter::apply(const at::Tensor& images, at::Generator random) const {
  check_channels(images, "ColorJitter");
  constexpr int64_t kChanges = 4;
  void (*const changes[kChanges])(const at::Tensor&, const at::Tensor&) = {
      brighten, change_contrast, saturate, turn_hue};
  const int64_t count = images.size(0);
  const at::Tensor chosen = at::rand({count}, random, at::kFloat) < prob_;
  const at::Tensor order = std::get<1>(at::rand({count, kChanges}, random, at::kFloat).sort());
  std::vector<at::Tensor> amounts;
  for (const Range& range : ranges_) amounts.push_back(draw(count, range.low, range.high, random));

  at::Tensor result = images.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  for (int64_t turn = 0; turn < kChanges; ++turn) {
    for (int64_t i = 0; i < kChanges; ++i) {
      if (!active_[i] || (i >= 2 && images.size(1) == 1)) continue;
      const at::Tensor indices = (chosen & (order.select(1, turn) == i)).nonzero().squeeze(1);
      if (indices.size(0) == 0) continue;
      const at::Tensor some = result.index_select(0, indices);
      changes[i](some, per_image(amounts[i].index_select(0, indices)));
      result.index_copy_(0, indices, some);
    }
  }
  return result;
}

void RandomGrayscaleOptions::visit(OptionVisitor& visitor) {
  visitor.key("prob", &prob, "Probability of the change.", closed_interval(0, 1));
  visitor.key("channel_weights", &channel_weights,
              "Weights of red, green and blue; only their ratio matters.", at_least(0));
}

void RandomGrayscaleOptions::validate() const {
  double sum = 0;
  for (double weight : channel_weights) sum += weight;
  if (channel_weights.size() != 3 || sum <= 0) {
    fail_option("channel_weights", "needs three numbers that are not all 0");
  }
}

RandomGrayscale::RandomGrayscale(const RandomGrayscaleOptions& options) : prob_(options.prob) {
  check_options(options, "RandomGrayscale");
  const std::vector<double>& weights = options.channel_weights;
  const double sum = weights[0] + weights[1] + weights[2];
  weights_ = {weights[0] / sum, weights[1] / sum, weights[2] / sum};
}

at::Tensor RandomGrayscale::apply(const at::Tensor& images, at::Generator random) const {
  check_channels(images, "RandomGrayscale");
  const at::Tensor chosen = pick(images.size(0), prob_, random);
  at::Tensor pixels = images.to(at::kFloat);
  if (images.size(1) == 1) return pixels;
  return change_some(pixels, chosen, [&](const at::Tensor& some, const at::Tensor&) {
    return mix(some, weights_).expand_as(some);
  });
}

void GaussianBlurOptions::visit(OptionVisitor& visitor) {
  visitor.key("magnitude_range", &magnitude_range,
              "Minimum and maximum standard deviation, in pixels.", above(0));
  visitor.key("prob", &prob, "Probability of the change.", closed_interval(0, 1));
}

void GaussianBlurOptions::validate() const {
  check_pair(magnitude_range, "magnitude_range");
}

GaussianBlur::GaussianBlur(GaussianBlurOptions options) : options_(std::move(options)) {
  check_options(options_, "GaussianBlur");
}

at::Tensor GaussianBlur::apply(const at::Tensor& images, at::Generator random) const {
  const int64_t count = images.size(0);
  const at::Tensor chosen = pick(count, options_.prob, random);
  const at::Tensor sigma =
      draw(count, options_.magnitude_range[0], options_.magnitude_range[1], random);
  // Groups narrow kernels, so that wide ones do not make them longer.
  const at::Tensor order = std::get<1>(sigma.index_select(0, chosen).sort());
  auto change = [&](const at::Tensor& some, const at::Tensor& indices) {
    const int64_t height = some.size(2), width = some.size(3);
    const at::Tensor own_sigma = sigma.index_select(0, indices).unsqueeze(1);
    const at::Tensor own_reach = (own_sigma * 3).ceil_();
    // The mirrored border must be smaller than the image.
    const int64_t reach = std::min(own_reach.max().item().toLong(), std::min(height, width) - 1);
    const at::Tensor taps = at::arange(reach + 1, at::kFloat).unsqueeze(0);  // one side
    at::Tensor weights = (taps / own_sigma).square_().mul_(-0.5).exp_() * (taps <= own_reach);
    weights = weights / (weights.sum(1, /*keepdim=*/true) * 2 - 1);  // the middle is 1 so far
    auto blur = [&](const at::Tensor& padded, int64_t dim, int64_t size) {
      at::Tensor sum = padded.slice(dim, reach, reach + size) * per_image(weights.select(1, 0));
      for (int64_t tap = 1; tap <= reach; ++tap) {
        const at::Tensor pair = padded.slice(dim, reach - tap, reach - tap + size) +
                                padded.slice(dim, reach + tap, reach + tap + size);
        sum.addcmul_(pair, per_image(weights.select(1, tap)));
      }
      return sum;
    };
    const at::Tensor rows = blur(at::reflection_pad2d(some, {0, 0, reach, reach}), 2, height);
    return blur(at::reflection_pad2d(rows, {reach, reach, 0, 0}), 3, width);
  };
  return change_some(images.to(at::kFloat), chosen.index_select(0, order), change);
}

void SolarizeOptions::visit(OptionVisitor& visitor) {
  visitor.key("thr", &thr, "The smallest value that is inverted.", closed_interval(0, 256));
  visitor.key("prob", &prob, "Probability of the change.", closed_interval(0, 1));
}

Solarize::Solarize(SolarizeOptions options) : options_(std::move(options)) {
  check_options(options_, "Solarize");
}

at::Tensor Solarize::apply(const at::Tensor& images, at::Generator random) const {
  const at::Tensor chosen = pick(images.size(0), options_.prob, random);
  return change_some(images.to(at::kFloat), chosen, [&](const at::Tensor& some, const at::Tensor&) {
    return at::where(some >= options_.thr, 255 - some, some);
  });
}

void MultiViewOptions::visit(OptionVisitor& visitor) {
  visitor.required_component("transforms", &transforms, "transform",
                             "A list of pipelines, each a list of transforms.",
                             Blocks::Form::list_of_lists);
  visitor.any("num_views", &num_views, "integer or list of integers",
              "How many views each pipeline makes: an integer for one pipeline, else a list.",
              closed_interval(1, kMostViews), /*required=*/true);
}

MultiView::MultiView(const MultiViewOptions& options, const Context& context) {
  check_options(options, "MultiView");
  const std::vector<Node>& pipelines = options.transforms.items();
  const std::vector<Node> counts = options.num_views.is_sequence()
                                       ? options.num_views.items()
                                       : std::vector<Node>{options.num_views};
  if (counts.size() != pipelines.size()) {
    options.num_views.fail(fmt::format("has {} entries, but transforms has {} pipelines",
                                       counts.size(), pipelines.size()));
  }
  for (size_t i = 0; i < pipelines.size(); ++i) {
    const int64_t count = counts[i].as_int();
    if (count < 1) counts[i].fail(fmt::format("must be at least 1, got {}", count));
    if (count > kMostViews) {
      counts[i].fail(fmt::format("must be in [1, {}], got {}", kMostViews, count));
    }
    const Pipeline pipeline(pipelines[i], *context.catalog);
    pipelines_.insert(pipelines_.end(), static_cast<size_t>(count), pipeline);
  }
  if (pipelines_.empty()) options.transforms.fail("needs at least one pipeline");
}

at::Tensor MultiView::apply(const at::Tensor&, at::Generator) const {
  fail<ConfigError>("MultiView: follows another MultiView; a pipeline may contain only one");
}

std::vector<at::Tensor> MultiView::views(const at::Tensor& images, at::Generator random) const {
  std::vector<at::Tensor> views;
  for (const Pipeline& pipeline : pipelines_) {
    std::vector<at::Tensor> made = pipeline.transform(images, random);
    if (made.size() != 1)
      fail<ConfigError>("MultiView: a view's pipeline cannot contain a MultiView");
    views.push_back(std::move(made.front()));
  }
  return views;
}

}  // namespace polyak
