// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// Internal to checkpoint: what a file is that torch.save did not write.
namespace polyak {

/// How many of a file's first bytes the functions below look at.
constexpr size_t kForeignHead = 512;

/// The first bytes of a file, at most kForeignHead. None if it cannot be read.
std::string head_of(const std::string& path);

/// What a file is, by its first bytes, and what to do with it: the rest of a sentence whose subject
/// is the file. "" for what is not known.
std::string foreign_format(std::string_view head);

/// The same for a file of text, whose first line is quoted. "" for what is no text.
std::string foreign_text(std::string_view head);

}  // namespace polyak
