// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <fstream>
#include <string_view>

#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"

namespace polyak {
namespace {

/// Whether a file holds something that torch.save, of today or before PyTorch 1.6, did not write.
/// Not for one that cannot be read or is empty: the reader says why.
bool holds_something_else(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 4> start{};
  file.read(start.data(), start.size());
  const std::string_view head(start.data(), static_cast<size_t>(file.gcount()));
  return !head.empty() && head != "PK\x03\x04" && head.substr(0, 2) != "\x80\x02";
}

}  // namespace

Value read_checkpoint_file(const std::string& path) {
  const std::optional<CheckpointFormat> format = checkpoint_format(path);
  if (!format && holds_something_else(path)) fail_for_format(path, "reads");
  switch (format.value_or(CheckpointFormat::pth)) {
    case CheckpointFormat::pth:
      return read_pth(path);
  }
  return Value();  // not reached: each format has a case
}

}  // namespace polyak
