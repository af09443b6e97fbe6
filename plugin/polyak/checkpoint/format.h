// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// The kinds of checkpoint files. To add one: an enumerator here, its extension in the table of
/// format.cpp, its writer there and its reader in format_reader.cpp, where the compiler asks for
/// both.
enum class CheckpointFormat {
  pth,          // torch.save's zip archive
  safetensors,  // tensors under names, and nothing else
};

/// The format that the extension of a file's name stands for; nothing for an extension that none
/// has.
POLYAK_API std::optional<CheckpointFormat> checkpoint_format(const std::string& path);

/// Refuses a file whose name has the extension of no format, and lists the extensions that have
/// one.
/// @param verb what was to be done: "reads" or "writes"
/// @throws CheckpointError, always
[[noreturn]] void fail_for_format(const std::string& path, const char* verb);

/// Writes a checkpoint in the format of the name's extension; see write_pth and write_safetensors
/// for what holds of each.
/// @throws CheckpointError naming the path, for an extension of no format too, and for a value that
/// the format cannot hold
POLYAK_API void write_checkpoint_file(const std::string& path, const Value& value);

/// Reads a checkpoint in the format of the name's extension. torch.save leaves a file's name to its
/// user (model.pt, model.ckpt, model), so a file of any other name is read in the format that its
/// first bytes show. The index of a split file, `*.safetensors.index.json`, stands for its shards.
/// @throws CheckpointError naming the path and what is wrong; DamagedCheckpointError as read_pth
/// and read_safetensors
POLYAK_API Value read_checkpoint_file(const std::string& path);

}  // namespace polyak
