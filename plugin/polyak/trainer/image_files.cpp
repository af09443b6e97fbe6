// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/image_files.h"

#include <ATen/Functions.h>
#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "polyak/core/error.h"

namespace polyak {
namespace {

constexpr int64_t kLargestFile = int64_t{1}
                                 << 33;  // far more than any such dataset: the header is damaged
constexpr int64_t kMostDeflated = 1032;  // the largest ratio of deflate

/// A file that may be compressed; zlib also reads uncompressed ones.
class IdxStream {
 public:
  explicit IdxStream(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
    if (!file_) fail<DataError>("{}: cannot be opened: {}", path, std::strerror(errno));
    gzbuffer(file_.get(), 1 << 17);
    std::error_code error;
    const auto size = std::filesystem::file_size(path, error);
    if (!error) size_ = static_cast<int64_t>(size);
  }

  bool compressed() const { return gzdirect(file_.get()) == 0; }

  /// The most bytes that may follow what was read.
  int64_t most_left() const {
    if (size_ < 0 || size_ > kLargestFile) return kLargestFile;
    return compressed() ? kMostDeflated * size_ : size_ - gztell(file_.get());
  }

  /// Reads up to `size` bytes; fewer at the end of the file.
  int64_t read(void* target, int64_t size) {
    int64_t done = 0;
    while (done < size) {
      const auto chunk = static_cast<unsigned>(std::min<int64_t>(size - done, 1 << 26));
      const int count = gzread(file_.get(), static_cast<char*>(target) + done, chunk);
      if (count < 0) {
        int code = 0;
        const char* reason = gzerror(file_.get(), &code);
        fail<DataError>("{}: damaged, {} bytes were readable ({}); download the file again", path_,
                        done, code == Z_ERRNO ? std::strerror(errno) : reason);
      }
      if (count == 0) break;
      done += count;
    }
    return done;
  }

 private:
  struct Close {
    void operator()(gzFile file) const { gzclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::remove_pointer_t<gzFile>, Close> file_;
  int64_t size_ = -1;  // of the file; less than 0 for a pipe
};

uint32_t big_endian(const unsigned char* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

std::string find_plain_or_gz(const std::string& root, const std::string& name) {
  const std::filesystem::path path = std::filesystem::path(root) / name;
  std::string compressed = path.string() + ".gz";
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return path.string();
  if (std::filesystem::exists(compressed, ignored)) return compressed;
  fail<DataError>("{}: no such file, nor {}; data_root must be the folder that contains it",
                  path.string(), compressed);
}

void check_labels(const at::Tensor& labels, int64_t num_classes, const std::string& path) {
  const at::Tensor wrong = at::nonzero(labels.ge(num_classes));
  if (wrong.size(0) == 0) return;
  const int64_t index = wrong[0][0].item<int64_t>();
  fail<DataError>(
      "{}: label {} of sample {} is out of range, expected 0 to {}; does this file belong to "
      "another dataset?",
      path, labels[index].item<int64_t>(), index, num_classes - 1);
}

}  // namespace

at::Tensor read_idx(const std::string& path, int dimensions) {
  IdxStream stream(path);
  std::array<unsigned char, 4> magic{};
  if (stream.read(magic.data(), 4) < 4) {
    fail<DataError>("{}: shorter than the 4-byte magic number of an idx file", path);
  }
  if (magic[0] != 0 || magic[1] != 0) {
    fail<DataError>("{}: not an idx file: starts with bytes {:02x} {:02x}, expected 00 00", path,
                    magic[0], magic[1]);
  }
  if (magic[2] != 0x08) {
    fail<DataError>("{}: holds idx type 0x{:02x}, expected 0x08 (unsigned bytes)", path, magic[2]);
  }
  if (magic[3] != dimensions) {
    fail<DataError>("{}: has {} dimensions, expected {}; were images and labels swapped?", path,
                    magic[3], dimensions);
  }
  std::vector<int64_t> sizes;
  int64_t total = 1;
  for (int i = 0; i < dimensions; ++i) {
    std::array<unsigned char, 4> bytes{};
    if (stream.read(bytes.data(), 4) < 4) {
      fail<DataError>("{}: ends inside its header, after {} of {} dimensions", path, i, dimensions);
    }
    sizes.push_back(big_endian(bytes.data()));
    if (sizes.back() == 0) fail<DataError>("{}: dimension {} is 0; the file is empty", path, i);
    if (total > kLargestFile / sizes.back()) {
      fail<DataError>(
          "{}: the dimensions in the header need more than {} bytes; the file is damaged", path,
          kLargestFile);
    }
    total *= sizes.back();
  }
  const auto fail_truncated = [&](int64_t found) {
    fail<DataError>(
        "{}: truncated: expected {} bytes of data according to the header, found {}; download the "
        "file again",
        path, total, found);
  };
  // Before memory is taken for what a header claims.
  if (const int64_t most = stream.most_left(); total > most) {
    if (!stream.compressed()) fail_truncated(most);
    fail<DataError>(
        "{}: damaged: the dimensions in the header need {} bytes, and a compressed file of this "
        "size holds at most {}; download the file again",
        path, total, most);
  }
  at::Tensor data = at::empty(sizes, at::kByte);
  const int64_t found = stream.read(data.data_ptr<uint8_t>(), total);
  if (found < total) fail_truncated(found);
  unsigned char extra = 0;
  if (stream.read(&extra, 1) != 0) {
    fail<DataError>(
        "{}: more data than the {} bytes in the header; the header or the file is damaged", path,
        total);
  }
  return data;
}

LabelledImages read_idx_pair(const std::string& root, const std::string& images,
                             const std::string& labels, int64_t num_classes) {
  const std::string image_path = find_plain_or_gz(root, images);
  const std::string label_path = find_plain_or_gz(root, labels);
  LabelledImages result{read_idx(image_path, 3).unsqueeze(1),
                        read_idx(label_path, 1).to(at::kLong)};
  if (result.images.size(0) != result.labels.size(0)) {
    fail<DataError>(
        "{}: holds {} labels, but {} holds {} images; both must belong to the same dataset",
        label_path, result.labels.size(0), image_path, result.images.size(0));
  }
  check_labels(result.labels, num_classes, label_path);
  return result;
}

LabelledImages read_cifar10(const std::vector<std::string>& paths) {
  constexpr int64_t kRecord = 1 + 3 * 32 * 32;
  std::vector<at::Tensor> images, labels;
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) {
      fail<DataError>(
          "{}: cannot be opened: {}; data_root must be the folder that contains CIFAR-10's binary "
          "files",
          path, std::strerror(errno));
    }
    const int64_t size = file.tellg();
    if (size == 0 || size % kRecord != 0) {
      fail<DataError>(
          "{}: has {} bytes, expected a multiple of {} (a label and an image each); it is "
          "truncated or not in CIFAR-10's binary format",
          path, size, kRecord);
    }
    at::Tensor records = at::empty({size / kRecord, kRecord}, at::kByte);
    file.seekg(0);
    if (!file.read(reinterpret_cast<char*>(records.data_ptr<uint8_t>()), size)) {
      fail<DataError>("{}: cannot be read: {}", path, std::strerror(errno));
    }
    labels.push_back(records.select(1, 0).to(at::kLong));
    check_labels(labels.back(), 10, path);
    images.push_back(records.slice(1, 1).reshape({-1, 3, 32, 32}));
  }
  return {at::cat(images), at::cat(labels)};
}

}  // namespace polyak
