// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/transforms.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include "polyak/registry/registry.h"
#include "polyak/trainer/network.h"

namespace polyak {

Transform::~Transform() = default;

Pipeline::Pipeline(const Node& transforms, const Catalog& catalog) {
  if (transforms.is_null()) return;
  for (const Node& node : transforms.items()) {
    transforms_.push_back(catalog.of<Transform>().build(node, {&catalog}));
  }
}

std::vector<at::Tensor> Pipeline::transform(const at::Tensor& images,
                                            const at::Generator& random) const {
  std::vector<at::Tensor> views{images};
  for (const auto& transform : transforms_) {
    if (views.size() == 1) {
      views = transform->views(views.front(), random);
    } else {
      for (at::Tensor& view : views) view = transform->apply(view, random);
    }
  }
  return views;
}

std::vector<at::Tensor> Pipeline::apply(const at::Tensor& images,
                                        const at::Generator& random) const {
  std::vector<at::Tensor> views = transform(images, random);
  for (at::Tensor& view : views) {
    if (view.scalar_type() == at::kByte) view = view.to(at::kFloat).div_(255);
  }
  return views;
}

void NormalizeOptions::visit(OptionVisitor& visitor) {
  visitor.required("mean", &mean, "Mean of each channel in units of 0 to 255.");
  visitor.required("std", &std, "Standard deviation of each channel in units of 0 to 255.",
                   above(0));
}

void NormalizeOptions::validate() const {
  if (mean.size() != std.size() || mean.empty()) {
    fail<ConfigError>("mean and std need one number for each channel, got {} and {}", mean.size(),
                      std.size());
  }
}

Normalize::Normalize(const NormalizeOptions& options) {
  check_options(options, "Normalize");
  const at::Tensor std = at::tensor(options.std, at::kDouble);
  mean_ = at::tensor(options.mean, at::kDouble).to(at::kFloat).view({1, -1, 1, 1});
  scale_ = std.reciprocal().to(at::kFloat).view({1, -1, 1, 1});
}

at::Tensor Normalize::apply(const at::Tensor& images, at::Generator) const {
  if (mean_.size(1) != images.size(1)) {
    fail<ConfigError>("Normalize: mean and std have {} channels, the images {}", mean_.size(1),
                      images.size(1));
  }
  return images.to(at::kFloat).sub(mean_).mul_(scale_);
}

void RandomFlipOptions::visit(OptionVisitor& visitor) {
  visitor.key("prob", &prob, "Probability of the flip.", closed_interval(0, 1));
  visitor.choice("direction", &direction, {"horizontal", "vertical"}, "Direction of the flip.");
}

RandomFlip::RandomFlip(RandomFlipOptions options) : options_(std::move(options)) {
  check_options(options_, "RandomFlip");
}

at::Tensor RandomFlip::apply(const at::Tensor& images, at::Generator random) const {
  const at::Tensor flipped =
      at::rand({images.size(0), 1, 1, 1}, random, at::kFloat) < options_.prob;
  return at::where(flipped, images.flip({options_.direction == "horizontal" ? 3 : 2}), images);
}

void RandomCropOptions::visit(OptionVisitor& visitor) {
  visitor.required("crop_size", &crop_size, "Height and width of the result.",
                   closed_interval(1, kLargestSide));
  visitor.key("padding", &padding, "Pixels that are added on each side first.",
              closed_interval(0, kLargestSide));
  visitor.key("pad_val", &pad_val, "Value of the added pixels.");
}

RandomCrop::RandomCrop(RandomCropOptions options) : options_(std::move(options)) {
  check_options(options_, "RandomCrop");
}

at::Tensor RandomCrop::apply(const at::Tensor& images, at::Generator random) const {
  const int64_t pad = options_.padding;
  const int64_t crop = options_.crop_size;
  const at::Tensor padded = at::constant_pad_nd(images, {pad, pad, pad, pad}, options_.pad_val);
  const int64_t count = padded.size(0), channels = padded.size(1);
  const int64_t height = padded.size(2), width = padded.size(3);
  if (crop > height || crop > width) {
    fail<ConfigError>("RandomCrop: crop_size {} exceeds the padded images of {} x {}", crop, height,
                      width);
  }
  // Two gathers, rows and then columns: each image has its own offsets.
  const at::Tensor top = at::randint(height - crop + 1, {count, 1, 1, 1}, random, at::kLong);
  const at::Tensor left = at::randint(width - crop + 1, {count, 1, 1, 1}, random, at::kLong);
  const at::Tensor range = at::arange(crop, at::kLong);
  const at::Tensor rows =
      (top + range.view({1, 1, crop, 1})).expand({count, channels, crop, width});
  const at::Tensor columns = (left + range).expand({count, channels, crop, crop});
  return padded.gather(2, rows).gather(3, columns);
}

void ResizeOptions::visit(OptionVisitor& visitor) {
  visitor.required("scale", &scale, "Height and width of the result.",
                   closed_interval(1, kLargestSide));
}

Resize::Resize(ResizeOptions options) : options_(std::move(options)) {
  check_options(options_, "Resize");
}

at::Tensor Resize::apply(const at::Tensor& images, at::Generator) const {
  return at::upsample_bilinear2d(images.to(at::kFloat), {options_.scale, options_.scale}, false);
}

}  // namespace polyak
