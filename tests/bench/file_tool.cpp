// SPDX-License-Identifier: Apache-2.0
// One timed action on a large file of weights, in a process of its own, for files.py:
//   file_tool FORMAT FILE MEGABYTES   writes random tensors: pth, safetensors, async, or `plain`,
//   the
//                                     same bytes by write() and fsync()
//   file_tool load FILE               reads it, and every value
// Prints seconds, the peak of memory during the action beyond what was there before, and the
// largest tensor, as JSON.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "polyak/checkpoint/background_writer.h"
#include "polyak/checkpoint/format.h"

namespace {

using polyak::Value;

constexpr int64_t kMegabyte = 1 << 20;

/// A line of /proc/self/status in bytes, such as "VmHWM".
int64_t memory(const std::string& name) {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    if (word != name + ":") continue;
    int64_t kilobytes = 0;
    file >> kilobytes;
    return kilobytes * 1024;
  }
  return 0;
}

/// Like a network: many small tensors, some of a few megabytes, one large.
Value tensors_of(int64_t megabytes) {
  Value state = Value::dict({}, true);
  int64_t left = megabytes * kMegabyte / 4;
  const int64_t largest = left / 10;
  for (int i = 0; left > 0; ++i) {
    const int64_t wanted = i == 0       ? largest
                           : i % 3 == 0 ? int64_t{1} << 20
                           : i % 3 == 1 ? 512
                                        : 300'000;
    const int64_t numel = std::min(left, wanted);
    state.set(fmt::format("layer{}.weight", i), at::randn({numel}));
    left -= numel;
  }
  return state;
}

void write_plain(const std::string& path, const Value& state) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  for (const auto& [key, value] : state.entries()) {
    const at::Tensor& tensor = value.as_tensor();
    const char* next = static_cast<const char*>(tensor.data_ptr());
    size_t size = tensor.nbytes();
    while (size > 0) {
      const ssize_t done = ::write(file, next, size);
      if (done <= 0) throw std::runtime_error("the plain write failed");
      next += done;
      size -= static_cast<size_t>(done);
    }
  }
  if (::fsync(file) != 0) throw std::runtime_error("fsync failed");
  ::close(file);
}

void measure(const std::function<void()>& action) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
  const int64_t before = memory("VmRSS");
  const auto start = std::chrono::steady_clock::now();
  action();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("{{\"seconds\": {}, \"peak\": {}}}\n", seconds.count(), memory("VmHWM") - before);
}

void save(const std::string& format, const std::string& path, int64_t megabytes) {
  const Value state = tensors_of(megabytes);
  if (format == "plain") return measure([&] { write_plain(path, state); });
  if (format != "async") return measure([&] { polyak::write_checkpoint_file(path, state); });
  polyak::BackgroundWriter writer;
  measure([&] {
    writer.start(state, [&](const Value& copy) { polyak::write_checkpoint_file(path, copy); });
    writer.finish();
  });
}

void load(const std::string& path) {
  Value file;
  double sum = 0;
  measure([&] {
    file = polyak::read_checkpoint_file(path);
    // A mapped file is read when its values are.
    for (const auto& [key, value] : file.entries()) sum += value.as_tensor().sum().item<double>();
  });
  if (sum != sum) throw std::runtime_error("a value is NaN");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string action = argc > 2 ? argv[1] : "";
    if (action == "load") {
      load(argv[2]);
    } else if (argc == 4) {
      save(action, argv[2], std::stoll(argv[3]));
    } else {
      fmt::print(stderr,
                 "usage: file_tool pth|safetensors|async|plain FILE MEGABYTES, or load FILE\n");
      return 2;
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
