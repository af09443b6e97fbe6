// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pth.h"

// What a .safetensors file and the index of a split one are read through.
namespace polyak::safetensors {

/// A file in memory, of which each page is read when it is used. Writing to it makes a copy of the
/// page that only this process sees.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    // A pipe without a writer would keep an open() that blocks.
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) fail_to_read(errno);
    try {
      map(descriptor);
    } catch (...) {
      ::close(descriptor);
      throw;
    }
    ::close(descriptor);
  }
  ~MappedFile() { ::munmap(data_, size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  char* data() const { return static_cast<char*>(data_); }
  std::string_view bytes() const { return {data(), size_}; }

 private:
  [[noreturn]] static void fail_to_read(int error) {
    fail<CheckpointError>("cannot be read: {}", std::generic_category().message(error));
  }

  void map(int descriptor) {
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) fail_to_read(errno);
    if (S_ISDIR(status.st_mode)) fail<CheckpointError>("is a folder, not a checkpoint");
    if (!S_ISREG(status.st_mode)) fail<CheckpointError>("is not a regular file");
    if (status.st_size == 0) fail<DamagedCheckpointError>("is empty");
    size_ = static_cast<size_t>(status.st_size);
    // MAP_NORESERVE: a file larger than the memory can be read, as long as not all is written to.
    data_ =
        ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
    if (data_ == MAP_FAILED) fail_to_read(errno);
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

/// What two kinds of JSON have in common: the parser builds no tree, which could be far larger than
/// the text, but reports each value, and the first that does not belong ends it.
class JsonReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  void read(std::string_view json) {
    // The parser takes a 0 for the end.
    if (json.find('\0') != std::string_view::npos) {
      fail<DamagedCheckpointError>("{} is not valid JSON: it has a byte 0 at {}", what_,
                                   json.find('\0'));
    }
    nlohmann::json::sax_parse(json.data(), json.data() + json.size(), this);
  }

  bool null() override { return other("null"); }
  bool boolean(bool /*value*/) override { return other("a bool"); }
  bool number_integer(int64_t /*value*/) override { return other("a negative number"); }
  bool number_unsigned(uint64_t /*value*/) override { return other("a number"); }
  bool number_float(double /*value*/, const std::string& /*text*/) override {
    return other("a number that is no integer of 64 bits");
  }
  bool string(std::string& /*value*/) override { return other("a string"); }
  bool binary(nlohmann::json::binary_t& /*value*/) override { return other("binary"); }
  bool start_array(size_t /*size*/) override { return other("an array"); }
  bool end_array() override { return true; }
  bool start_object(size_t /*size*/) override { return other("an object"); }

  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: REASON; last read: 'x'"
    std::string_view reason = error.what();
    reason = reason.substr(0, reason.find("; last read"));
    const auto drop_through = [&](std::string_view end) {
      const size_t found = reason.find(end);
      if (found != std::string_view::npos) reason.remove_prefix(found + end.size());
    };
    drop_through("] ");
    if (reason.substr(0, 14) == "parse error at") drop_through(": ");
    fail<DamagedCheckpointError>("{} is not valid JSON at byte {}: {}", what_, position,
                                 pickle::printable(reason));
  }

 protected:
  /// @param what names the JSON in messages, as the start of a sentence
  explicit JsonReader(const char* what) : what_(what) {}

  /// A value that the format does not have at this place.
  virtual bool other(const char* kind) = 0;

 private:
  const char* what_;
};

/// A tensor over data of a mapped file, which it keeps mapped. Data that is not aligned is copied.
inline at::Tensor tensor_of(const std::shared_ptr<MappedFile>& file, char* data, size_t size,
                            c10::ScalarType dtype, const std::vector<int64_t>& shape) {
  const auto options = at::TensorOptions().dtype(dtype);
  const bool aligned = reinterpret_cast<uintptr_t>(data) % c10::elementSize(dtype) == 0;
  if (size == 0 || !aligned) {
    at::Tensor tensor = at::empty(shape, options);
    if (size > 0) std::memcpy(tensor.data_ptr(), data, size);
    return tensor;
  }
  auto owner = std::make_unique<std::shared_ptr<MappedFile>>(file);
  const auto drop = [](void* context) {
    delete static_cast<std::shared_ptr<MappedFile>*>(context);
  };
  at::DataPtr pointer(data, owner.release(), drop, at::kCPU);
  c10::Storage storage(c10::Storage::use_byte_size_t(), size, std::move(pointer),
                       c10::GetCPUAllocator(), /*resizable=*/true);
  return at::empty({0}, options).set_(storage, 0, shape);
}

}  // namespace polyak::safetensors
