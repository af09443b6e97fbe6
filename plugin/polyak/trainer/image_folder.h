// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/trainer/dataset.h"
#include "polyak/trainer/read_image.h"

namespace polyak {

struct ImageFolderOptions : DatasetOptions {
  std::string data_root;
  std::string split = "train";
  int64_t size = 256;
  bool exif_orientation = true;
  std::string on_bad_image = "error";
  void visit(OptionVisitor& visitor) override;
};

/// Images in folders, one for each class, as ImageNet's: data_root/split/class/image.JPEG. Classes
/// are numbered in the alphabetical order of their folders, or as number_classes_by() sets. Hidden
/// files (`.name`) are ignored; other ignored files and empty classes are logged. Files are read on
/// demand, on all threads: each image is scaled so that its shorter side is `size`, and cropped to
/// the square in its centre.
class ImageFolder : public Dataset {
 public:
  /// @throws DataError if the folder is missing, or contains no class or no image
  ImageFolder(const ImageFolderOptions& options, const Context& context);
  int64_t num_classes() const override { return static_cast<int64_t>(classes_.size()); }
  std::vector<std::string> classes() const override { return classes_; }
  void number_classes_by(const std::vector<std::string>& classes) override;

 protected:
  int64_t total() const override { return static_cast<int64_t>(paths_.size()); }
  LabelledImages read(const at::Tensor& indices) const override;

 private:
  void log_bad_image(int64_t index, const std::string& reason) const;

  std::string root_;
  int64_t size_;
  bool exif_orientation_;
  bool skips_bad_images_;
  std::vector<std::string> classes_;  // by label
  std::vector<std::string> paths_;
  at::Tensor labels_;  // int64 [images]

  mutable std::mutex mutex_;
  mutable std::set<int64_t> bad_images_;  // those already logged
};

}  // namespace polyak
