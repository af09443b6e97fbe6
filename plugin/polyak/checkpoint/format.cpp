// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/format.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <string_view>
#include <vector>

#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"

// What writes stands apart from what reads (format_reader.cpp): the preloaded library of attach has
// no reader.
namespace polyak {
namespace {

struct Row {
  std::string_view extension;
  CheckpointFormat format;
};

constexpr Row kFormats[] = {{".pth", CheckpointFormat::pth},
                            {".safetensors", CheckpointFormat::safetensors}};

}  // namespace

std::optional<CheckpointFormat> checkpoint_format(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  for (const Row& row : kFormats) {
    if (row.extension == extension) return row.format;
  }
  return std::nullopt;
}

void fail_for_format(const std::string& path, const char* verb) {
  std::vector<std::string_view> extensions;
  for (const Row& row : kFormats) extensions.push_back(row.extension);
  const std::string extension = std::filesystem::path(path).extension().string();
  fail<CheckpointError>("{}: {}; Polyak {} {}", path,
                        extension.empty()
                            ? std::string("the name has no extension, so the format is unknown")
                            : fmt::format("unknown checkpoint format '{}'", extension),
                        verb, fmt::join(extensions, ", "));
}

void write_checkpoint_file(const std::string& path, const Value& value) {
  const std::optional<CheckpointFormat> format = checkpoint_format(path);
  if (!format) fail_for_format(path, "writes");
  switch (*format) {
    case CheckpointFormat::pth:
      return write_pth(path, value);
    case CheckpointFormat::safetensors:
      return write_safetensors(path, value);
  }
}

}  // namespace polyak
