// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/ScalarType.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "polyak/checkpoint/value.h"
#include "polyak/core/log.h"

// What the fuzz targets share. A target is one file: libFuzzer calls its LLVMFuzzerTestOneInput.
namespace polyak::fuzz {

/// Ends the process as a finding.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "finding: %s\n", what);
  std::abort();
}

/// A file in memory, for readers that take a path.
class MemoryFile {
 public:
  MemoryFile() : file_(memfd_create("input", 0)) {
    require(file_ >= 0, "no file in memory");
    path_ = "/proc/self/fd/" + std::to_string(file_);
  }
  ~MemoryFile() { close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  /// Replaces what is in the file.
  const std::string& write(std::string_view bytes) const {
    require(ftruncate(file_, 0) == 0 &&
                pwrite(file_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
            "a file in memory cannot be written");
    return path_;
  }

 private:
  int file_;
  std::string path_;
};

/// Tensors must lie within their storages: LibTorch's own code is not instrumented.
inline void check_tensors(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::tensor: {
      const at::Tensor& tensor = value.as_tensor();
      int64_t end = tensor.storage_offset() + (tensor.numel() > 0 ? 1 : 0);
      for (int64_t i = 0; tensor.numel() > 0 && i < tensor.dim(); ++i) {
        end += (tensor.size(i) - 1) * tensor.stride(i);
      }
      const auto bytes = static_cast<uint64_t>(end) * tensor.element_size();
      require(bytes <= tensor.storage().nbytes(), "a tensor beyond its storage");
      break;
    }
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set:
      for (const Value& item : value.items()) check_tensors(item);
      break;
    case Value::Kind::dict:
      for (const auto& [key, item] : value.entries()) check_tensors(item);
      break;
    default:
      break;
  }
}

}  // namespace polyak::fuzz

extern "C" __attribute__((used)) inline int LLVMFuzzerInitialize(int*, char***) {
  at::set_num_threads(1);
  polyak::set_log_sink([](polyak::LogLevel, std::string_view) {});
  return 0;
}
