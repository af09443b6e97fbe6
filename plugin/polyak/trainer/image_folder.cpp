// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/image_folder.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>

#include "polyak/core/error.h"
#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/trainer/class_names.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

bool is_image(const fs::path& path) {
  const std::string extension = lower_case(path.extension().string());
  return extension == ".jpeg" || extension == ".jpg" || extension == ".png";
}

/// The entries of a folder that are not hidden, in alphabetical order.
std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::vector<fs::directory_entry> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename().string().front() != '.') found.push_back(*entry);
  }
  if (error) fail<DataError>("{}: cannot be read: {}", folder.string(), error.message());
  std::sort(found.begin(), found.end());
  return found;
}

/// Ignored entries, for a warning: how many, and an example.
struct LeftOut {
  int64_t count = 0;
  std::string example;

  void add(const fs::path& path) {
    if (++count == 1) example = path.string();
  }
};

/// uint8 [3, size, size] of a [3, height, width].
at::Tensor middle_square(const at::Tensor& image, int64_t size) {
  const int64_t height = image.size(1), width = image.size(2), shorter = std::min(height, width);
  const int64_t rows = std::max(size, height * size / shorter);
  const int64_t columns = std::max(size, width * size / shorter);
  const at::Tensor scaled = at::_upsample_bilinear2d_aa(image.unsqueeze(0).to(at::kFloat),
                                                        {rows, columns}, /*align_corners=*/false);
  return scaled[0]
      .slice(1, (rows - size) / 2, (rows - size) / 2 + size)
      .slice(2, (columns - size) / 2, (columns - size) / 2 + size)
      .round()
      .clamp(0, 255)
      .to(at::kByte);
}

}  // namespace

void ImageFolderOptions::visit(OptionVisitor& visitor) {
  visitor.required("data_root", &data_root, "The folder that contains a folder for each split.");
  visitor.key("split", &split, "The split: train, val, ...");
  visitor.key("size", &size,
              "Height and width of the square that images are scaled and cropped to.",
              closed_interval(1, kLargestSide));
  visitor.key("exif_orientation", &exif_orientation,
              "Rotate and mirror images upright according to their EXIF data.");
  visitor.choice(
      "on_bad_image", &on_bad_image, {"error", "skip"},
      "What to do about a file without a complete image. error: stop the run. skip: log a warning "
      "and leave the file out of validation and test; training uses the next image instead.");
  DatasetOptions::visit(visitor);
}

ImageFolder::ImageFolder(const ImageFolderOptions& options, const Context& context)
    : Dataset(options, context),
      root_((fs::path(options.data_root) / options.split).string()),
      size_(options.size),
      exif_orientation_(options.exif_orientation),
      skips_bad_images_(options.on_bad_image == "skip") {
  check_options(options, "ImageNet");
  std::error_code error;
  if (!fs::is_directory(root_, error)) {
    fail<DataError>("{}: is not a folder; data_root/split must contain one folder for each class",
                    root_);
  }
  std::vector<int64_t> labels;
  std::vector<std::string> empty;
  LeftOut files, folders;
  for (const fs::directory_entry& folder : entries_of(root_)) {
    if (!folder.is_directory(error)) {
      files.add(folder.path());
      continue;
    }
    const size_t before = paths_.size();
    for (const fs::directory_entry& entry : entries_of(folder.path())) {
      if (entry.is_directory(error)) {
        folders.add(entry.path());
      } else if (entry.is_regular_file(error) && is_image(entry.path())) {
        paths_.push_back(entry.path().string());
        labels.push_back(num_classes());
      } else {
        files.add(entry.path());
      }
    }
    classes_.push_back(folder.path().filename().string());
    if (paths_.size() == before) empty.push_back(classes_.back());
  }
  if (files.count > 0) {
    log_warning(
        "{}: ignored files: {}, such as {}; images must be .jpeg, .jpg or .png files in the folder "
        "of their class",
        root_, files.count, files.example);
  }
  if (folders.count > 0) {
    log_warning("{}: ignored folders inside class folders: {}, such as {}", root_, folders.count,
                folders.example);
  }
  if (paths_.empty()) {
    fail<DataError>("{}: contains no .jpeg, .jpg or .png file in a class folder", root_);
  }
  if (!empty.empty()) log_warning("{}: classes without images: {}", root_, name_list(empty));
  labels_ = at::tensor(labels, at::kLong);
  log_info("{}: {} images in {} classes{}", root_, total(), num_classes(),
           size() < total() ? fmt::format("; the first {} are used", size()) : "");
}

void ImageFolder::number_classes_by(const std::vector<std::string>& classes) {
  std::map<std::string, int64_t> label_of;
  for (size_t i = 0; i < classes.size(); ++i) label_of[classes[i]] = static_cast<int64_t>(i);
  const at::Tensor images = at::bincount(labels_, /*weights=*/{}, num_classes());
  std::vector<int64_t> labels;
  std::vector<std::string> unknown;
  for (size_t i = 0; i < classes_.size(); ++i) {
    const auto known = label_of.find(classes_[i]);
    labels.push_back(known == label_of.end() ? -1 : known->second);
    if (labels.back() < 0 && images[static_cast<int64_t>(i)].item<int64_t>() > 0) {
      unknown.push_back(classes_[i]);
    }
  }
  if (!unknown.empty()) {
    fail<DataError>(
        "{}: contains classes that the training data does not have: {}; the training data has {}",
        root_, name_list(unknown), name_list(classes));
  }
  labels_ = at::tensor(labels, at::kLong).index_select(0, labels_);
  classes_ = classes;
}

LabelledImages ImageFolder::read(const at::Tensor& indices) const {
  const int64_t count = indices.size(0);
  const at::Tensor images = at::empty({count, 3, size_, size_}, at::kByte);
  std::vector<std::string> reasons(static_cast<size_t>(count));
  std::exception_ptr failure;
  std::mutex mutex;
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t i = begin; i < end; ++i) {
        const std::string& path = paths_[static_cast<size_t>(indices[i].item<int64_t>())];
        const std::vector<unsigned char> bytes = read_bytes(path);
        try {
          images[i].copy_(middle_square(decode_image(bytes, path, exif_orientation_), size_));
        } catch (const DataError& error) {
          reasons[static_cast<size_t>(i)] = error.what();
        }
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  LabelledImages samples{images, labels_.index_select(0, indices), at::ones({count}, at::kBool)};
  for (int64_t i = 0; i < count; ++i) {
    const std::string& reason = reasons[static_cast<size_t>(i)];
    if (reason.empty()) continue;
    if (!skips_bad_images_) {
      fail<DataError>("{}; on_bad_image: skip ignores such files", reason);
    }
    samples.found[i] = false;
    log_bad_image(indices[i].item<int64_t>(), reason);
  }
  return samples;
}

void ImageFolder::log_bad_image(int64_t index, const std::string& reason) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!bad_images_.insert(index).second) return;
  log_warning("{}; skipped ({} of {} images so far)", reason, bad_images_.size(), size());
}

}  // namespace polyak
