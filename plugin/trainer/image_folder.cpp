#include "polyak/trainer/image_folder.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <png.h>
#include <turbojpeg.h>

#include <algorithm>
#include <cctype>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>

#include "polyak/core/error.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

std::vector<unsigned char> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail<DataError>("{}: cannot be read", path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

at::Tensor decode_jpeg(const std::vector<unsigned char>& bytes, const std::string& path) {
  const std::unique_ptr<void, int (*)(tjhandle)> decoder(tjInitDecompress(), tjDestroy);
  int width = 0, height = 0, sampling = 0, colours = 0;
  const auto size = static_cast<unsigned long>(bytes.size());
  at::Tensor pixels;
  bool right = tjDecompressHeader3(decoder.get(), bytes.data(), size, &width, &height, &sampling,
                                   &colours) == 0;
  if (right && (colours == TJCS_CMYK || colours == TJCS_YCCK)) {
    fail<DataError>("{}: is a CMYK image; convert it to RGB", path);
  }
  if (right) {
    pixels = at::empty({height, width, 3}, at::kByte);
    right = tjDecompress2(decoder.get(), bytes.data(), size, pixels.data_ptr<uint8_t>(), width,
                          /*pitch=*/0, height, TJPF_RGB, 0) == 0 ||
            tjGetErrorCode(decoder.get()) == TJERR_WARNING;
  }
  if (!right) {
    fail<DataError>("{}: is no JPEG image that can be read: {}", path,
                    tjGetErrorStr2(decoder.get()));
  }
  return pixels;
}

at::Tensor decode_png(const std::vector<unsigned char>& bytes, const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, void (*)(png_image*)> guard(&image, png_image_free);
  at::Tensor pixels;
  bool right = png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) != 0;
  if (right) {
    image.format = PNG_FORMAT_RGB;
    pixels = at::empty({image.height, image.width, 3}, at::kByte);
    const png_color black{0, 0, 0};  // behind what is transparent
    right = png_image_finish_read(&image, &black, pixels.data_ptr<uint8_t>(), /*row_stride=*/0,
                                  nullptr) != 0;
  }
  if (!right) fail<DataError>("{}: is no PNG image that can be read: {}", path, image.message);
  return pixels;
}

bool is_image(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".jpeg" || extension == ".jpg" || extension == ".png";
}

std::vector<fs::path> sorted_entries(const fs::path& folder, bool folders) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (folders ? entry.is_directory() : entry.is_regular_file() && is_image(entry.path())) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

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
  visitor.required("data_root", &data_root, "The folder that holds the folder of each split.");
  visitor.key("split", &split, "Which of them: train, val, ...");
  visitor.key("size", &size, "Height and width of the square that an image is brought to.",
              at_least(1));
  DatasetOptions::visit(visitor);
}

at::Tensor read_image(const std::string& path) {
  const std::vector<unsigned char> bytes = read_bytes(path);
  const bool png = bytes.size() >= 8 && png_sig_cmp(bytes.data(), 0, 8) == 0;
  return (png ? decode_png(bytes, path) : decode_jpeg(bytes, path)).permute({2, 0, 1});
}

ImageFolder::ImageFolder(const ImageFolderOptions& options, const Context& context)
    : Dataset(options, context), size_(options.size) {
  check_options(options, "ImageNet");
  const fs::path root = fs::path(options.data_root) / options.split;
  std::error_code error;
  if (!fs::is_directory(root, error)) {
    fail<DataError>("{}: is no folder; data_root/split must hold one folder for each class",
                    root.string());
  }
  std::vector<int64_t> labels;
  for (const fs::path& folder : sorted_entries(root, /*folders=*/true)) {
    for (const fs::path& image : sorted_entries(folder, /*folders=*/false)) {
      paths_.push_back(image.string());
      labels.push_back(num_classes_);
    }
    ++num_classes_;
  }
  if (paths_.empty()) {
    fail<DataError>("{}: holds no .jpeg, .jpg or .png file in a folder of its class",
                    root.string());
  }
  labels_ = at::tensor(labels, at::kLong);
}

LabelledImages ImageFolder::read(const at::Tensor& indices) const {
  const int64_t count = indices.size(0);
  const at::Tensor images = at::empty({count, 3, size_, size_}, at::kByte);
  std::exception_ptr failure;
  std::mutex mutex;
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t i = begin; i < end; ++i) {
        const std::string& path = paths_[static_cast<size_t>(indices[i].item<int64_t>())];
        images[i].copy_(middle_square(read_image(path), size_));
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  return {images, labels_.index_select(0, indices)};
}

}  // namespace polyak
