// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "polyak/checkpoint/foreign_file.h"
#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/legacy_pth_reader.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/checkpoint/safetensors_format.h"

namespace polyak {
namespace {

/// The format that a file's first bytes show. A file that cannot be read or is empty counts as
/// `.pth`, whose reader says why.
/// @throws CheckpointError for those of no format
CheckpointFormat format_by_content(const std::string& path) {
  const std::string head = head_of(path);
  if (head.empty() || head.compare(0, 4, "PK\x03\x04") == 0 || is_legacy_pth(head)) {
    return CheckpointFormat::pth;
  }
  if (safetensors::is_start(head)) return CheckpointFormat::safetensors;
  const std::string sentence = foreign_format(head);
  if (!sentence.empty()) fail<CheckpointError>("{}: {}", path, sentence);
  fail_for_format(path, "reads");
}

}  // namespace

Value read_checkpoint_file(const std::string& path) {
  if (safetensors::is_index(path)) return read_safetensors(path);
  const std::optional<CheckpointFormat> format = checkpoint_format(path);
  switch (format ? *format : format_by_content(path)) {
    case CheckpointFormat::pth:
      return read_pth(path);
    case CheckpointFormat::safetensors:
      return read_safetensors(path);
  }
  return Value();  // not reached: each format has a case
}

}  // namespace polyak
