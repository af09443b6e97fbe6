#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/trainer/dataset.h"

namespace polyak {

struct POLYAK_API ImageFolderOptions : DatasetOptions {
  std::string data_root;
  std::string split = "train";
  int64_t size = 256;
  void visit(OptionVisitor& visitor) override;
};

/// Reads a JPEG or PNG file.
/// @return uint8 [3, height, width], red, green and blue
/// @throws DataError naming the file
POLYAK_API at::Tensor read_image(const std::string& path);

/// Images in folders, one for each class, as ImageNet's: data_root/split/class/image.JPEG. Classes
/// are numbered in the alphabetical order of their folders. Files are read when they are asked for,
/// on all threads: each image is scaled so that its shorter side is `size`, and the square in its
/// middle is taken.
class POLYAK_API ImageFolder : public Dataset {
 public:
  /// @throws DataError when the folder is missing, or holds no class or no image
  ImageFolder(const ImageFolderOptions& options, const Context& context);
  int64_t num_classes() const override { return num_classes_; }

 protected:
  int64_t total() const override { return static_cast<int64_t>(paths_.size()); }
  LabelledImages read(const at::Tensor& indices) const override;

 private:
  int64_t size_;
  int64_t num_classes_ = 0;
  std::vector<std::string> paths_;
  at::Tensor labels_;  // int64 [images]
};

}  // namespace polyak
