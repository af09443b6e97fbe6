// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "polyak/trainer/transforms.h"

// Transforms that make the views of self-supervised learning. Each image of a batch draws its own
// parameters. They accept uint8 or float images in 0 to 255, of any size, with one or three
// channels (red, green, blue), and return float in 0 to 255, for a Normalize after them.

namespace polyak {

struct RandomResizedCropOptions : Options {
  int64_t scale = 0;
  std::vector<double> crop_ratio_range = {0.08, 1.0};
  std::vector<double> aspect_ratio_range = {3.0 / 4, 4.0 / 3};
  int64_t max_attempts = 10;
  std::string interpolation = "bilinear";
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Crops a rectangle of random size, aspect ratio and position from each image and scales it to a
/// square (pixel centres, no antialiasing). If none of `max_attempts` rectangles fits into the
/// image, it uses the largest centre crop with an allowed aspect ratio.
class RandomResizedCrop : public Transform {
 public:
  explicit RandomResizedCrop(RandomResizedCropOptions options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  RandomResizedCropOptions options_;
};

struct ColorJitterOptions : Options {
  std::vector<double> brightness = {0};
  std::vector<double> contrast = {0};
  std::vector<double> saturation = {0};
  std::vector<double> hue = {0};
  double prob = 1;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Changes brightness, contrast, saturation and hue by random amounts, in a random order for each
/// image. Saturation and hue do not change images with one channel.
class ColorJitter : public Transform {
 public:
  explicit ColorJitter(const ColorJitterOptions& options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  struct Range {
    double low;
    double high;
  };
  std::vector<Range> ranges_;  // of the four changes, in the order of the options
  std::vector<bool> active_;
  double prob_;
};

struct RandomGrayscaleOptions : Options {
  double prob = 0.1;
  std::vector<double> channel_weights = {0.2989, 0.587, 0.114};
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Replaces each channel by the weighted mean of all three, with a probability.
class RandomGrayscale : public Transform {
 public:
  explicit RandomGrayscale(const RandomGrayscaleOptions& options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  double prob_;
  std::array<double, 3> weights_;  // their sum is 1
};

struct GaussianBlurOptions : Options {
  std::vector<double> magnitude_range = {0.1, 2.0};
  double prob = 0.5;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Convolves with a Gaussian of random standard deviation (in pixels), with a probability. The
/// kernel radius is three times that, rounded up; the image is mirrored at its edges.
class GaussianBlur : public Transform {
 public:
  explicit GaussianBlur(GaussianBlurOptions options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  GaussianBlurOptions options_;
};

struct SolarizeOptions : Options {
  double thr = 128;
  double prob = 0.5;
  void visit(OptionVisitor& visitor) override;
};

/// Inverts pixels with values of at least `thr`, with a probability.
class Solarize : public Transform {
 public:
  explicit Solarize(SolarizeOptions options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  SolarizeOptions options_;
};

struct MultiViewOptions : Options {
  Node transforms;
  Node num_views;
  void visit(OptionVisitor& visitor) override;
};

/// Several views of each image: mmpretrain's MultiView. `transforms` is a list of pipelines, and
/// `num_views` is how often each is run.
class MultiView : public Transform {
 public:
  MultiView(const MultiViewOptions& options, const Context& context);
  /// @throws ConfigError always, since there is no single result
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;
  std::vector<at::Tensor> views(const at::Tensor& images, at::Generator random) const override;

 private:
  std::vector<Pipeline> pipelines_;  // one for each view
};

}  // namespace polyak
