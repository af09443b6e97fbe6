// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <fstream>
#include <string_view>

#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/checkpoint/safetensors_format.h"

namespace polyak {
namespace {

/// The format that a file's first bytes show; nothing for those of no format. A file that cannot be
/// read or is empty counts as `.pth`, whose reader says why.
std::optional<CheckpointFormat> format_by_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 9> start{};
  file.read(start.data(), start.size());
  const std::string_view head(start.data(), static_cast<size_t>(file.gcount()));
  // What torch.save writes, today and before PyTorch 1.6.
  if (head.empty() || head.substr(0, 4) == "PK\x03\x04" || head.substr(0, 2) == "\x80\x02") {
    return CheckpointFormat::pth;
  }
  if (safetensors::is_start(head)) return CheckpointFormat::safetensors;
  return std::nullopt;
}

}  // namespace

Value read_checkpoint_file(const std::string& path) {
  if (safetensors::is_index(path)) return read_safetensors(path);
  std::optional<CheckpointFormat> format = checkpoint_format(path);
  if (!format) format = format_by_content(path);
  if (!format) fail_for_format(path, "reads");
  switch (*format) {
    case CheckpointFormat::pth:
      return read_pth(path);
    case CheckpointFormat::safetensors:
      return read_safetensors(path);
  }
  return Value();  // not reached: each format has a case
}

}  // namespace polyak
