// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/foreign_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/core/text.h"

namespace polyak {
namespace {

using namespace std::string_view_literals;

struct Sign {
  size_t at;
  std::string_view bytes;
  const char* sentence;
};

constexpr Sign kSigns[] = {
    {0, "version https://git-lfs.github.com/"sv,
     "is a pointer of Git LFS to a checkpoint; fetch the file itself with `git lfs pull`"},
    {0, "\x1f\x8b"sv, "is compressed by gzip; decompress it with gunzip"},
    {0, "BZh"sv, "is compressed by bzip2; decompress it with bunzip2"},
    {0, "\xfd\x37zXZ\0"sv, "is compressed by xz; decompress it with unxz"},
    {0, "\x28\xb5\x2f\xfd"sv, "is compressed by zstd; decompress it with unzstd"},
    {257, "ustar"sv,
     "is a tar archive; if PyTorch before 0.1.10 wrote it, load it in Python with torch.load and "
     "save it again"},
    {0, "PK\x05\x06"sv, "is an empty zip archive, not a checkpoint"},
    {0, "\x89HDF\r\n\x1a\n"sv, "is an HDF5 file, not a checkpoint of PyTorch"},
    {0, "\x93NUMPY"sv, "is an array of numpy, not a checkpoint of PyTorch"},
};

constexpr std::string_view kPages[] = {"<!doctype html", "<html", "<?xml"};

std::string_view without_space(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    text.remove_prefix(kByteOrderMark.size());
  }
  text.remove_prefix(std::min(text.size(), text.find_first_not_of(" \t\r\n")));
  return text;
}

}  // namespace

std::string head_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string head(kForeignHead, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(file.gcount()));
  return head;
}

std::string foreign_format(std::string_view head) {
  for (const Sign& sign : kSigns) {
    if (head.size() > sign.at && head.substr(sign.at, sign.bytes.size()) == sign.bytes) {
      return sign.sentence;
    }
  }
  const std::string page = lower_case(std::string(without_space(head).substr(0, 20)));
  for (const std::string_view start : kPages) {
    if (page.substr(0, start.size()) == start) {
      return "is a web page, not a checkpoint: the server sent it in place of the file; download "
             "that again";
    }
  }
  return "";
}

std::string foreign_text(std::string_view head) {
  const bool has_text = std::all_of(head.begin(), head.end(), [](char c) {
    return static_cast<unsigned char>(c) >= ' ' || c == '\n' || c == '\r' || c == '\t';
  });
  // The head may end within a character, of at most 4 bytes.
  bool decodes = false;
  for (size_t cut = 0; cut < 4 && cut < head.size(); ++cut) {
    decodes = decodes || pickle::is_utf8(head.substr(0, head.size() - cut));
  }
  const std::string_view text = without_space(head);
  if (!has_text || !decodes || text.empty()) return "";
  return fmt::format("is a text file that begins with '{}', not a checkpoint",
                     pickle::printable(text.substr(0, text.find_first_of("\r\n"))));
}

}  // namespace polyak
