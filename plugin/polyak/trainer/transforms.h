// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"

namespace polyak {

class Catalog;

/// Changes a batch of images.
class POLYAK_API Transform {
 public:
  static constexpr const char* kKind = "transform";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for nested transforms
  };
  virtual ~Transform();
  /// @param images [N, C, H, W], uint8 (0 to 255) or float; not modified, since other views may
  /// start from them
  /// @param random the source of random numbers, so that a batch is the same in every run
  virtual at::Tensor apply(const at::Tensor& images, at::Generator random) const = 0;
  /// The same for a transform that makes several views of each image; later transforms change each
  /// of them.
  virtual std::vector<at::Tensor> views(const at::Tensor& images, at::Generator random) const {
    return {apply(images, std::move(random))};
  }
};

/// Transforms in order.
class POLYAK_API Pipeline {
 public:
  Pipeline() = default;
  /// @param transforms a list of transforms; null: none
  Pipeline(const Node& transforms, const Catalog& catalog);
  /// @return one view, or the views of a MultiView, uint8 or float
  std::vector<at::Tensor> transform(const at::Tensor& images, const at::Generator& random) const;
  /// The same for networks: uint8 views are converted to float in 0 to 1.
  std::vector<at::Tensor> apply(const at::Tensor& images, const at::Generator& random) const;

 private:
  std::vector<std::shared_ptr<Transform>> transforms_;
};

struct POLYAK_API NormalizeOptions : Options {
  std::vector<double> mean;
  std::vector<double> std;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// (image - mean) / std per channel, in units of 0 to 255 as in mmpretrain; returns float.
class POLYAK_API Normalize : public Transform {
 public:
  /// @throws ConfigError as check_options() does
  explicit Normalize(const NormalizeOptions& options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  at::Tensor mean_;   // [1, C, 1, 1]
  at::Tensor scale_;  // [1, C, 1, 1], 1 / std
};

struct POLYAK_API RandomFlipOptions : Options {
  double prob = 0.5;
  std::string direction = "horizontal";
  void visit(OptionVisitor& visitor) override;
};

/// Mirrors each image with a probability.
class POLYAK_API RandomFlip : public Transform {
 public:
  /// @throws ConfigError as check_options() does
  explicit RandomFlip(RandomFlipOptions options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  RandomFlipOptions options_;
};

struct POLYAK_API RandomCropOptions : Options {
  int64_t crop_size = 0;
  int64_t padding = 0;
  double pad_val = 0;
  void visit(OptionVisitor& visitor) override;
};

/// Pads all four sides, then crops a square at a random position of each image.
class POLYAK_API RandomCrop : public Transform {
 public:
  /// @throws ConfigError as check_options() does
  explicit RandomCrop(RandomCropOptions options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  RandomCropOptions options_;
};

struct POLYAK_API ResizeOptions : Options {
  int64_t scale = 0;
  void visit(OptionVisitor& visitor) override;
};

/// Scales images to a square by bilinear interpolation (pixel centres, no antialiasing); returns
/// float in the same range, 0 to 255.
class POLYAK_API Resize : public Transform {
 public:
  /// @throws ConfigError as check_options() does
  explicit Resize(ResizeOptions options);
  at::Tensor apply(const at::Tensor& images, at::Generator random) const override;

 private:
  ResizeOptions options_;
};

}  // namespace polyak
