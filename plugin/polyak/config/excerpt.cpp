// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "polyak/config/problems.h"
#include "polyak/config/scalar.h"

namespace polyak {
namespace {

constexpr size_t kWidest = 120;    // bytes of a line that are shown
constexpr size_t kBeforeKey = 40;  // of them before the key, in a line that is cut

// The line that a place names, without its end; "" if there is none.
std::string line_of(const Place& place) {
  const std::string& text = *place.text;
  size_t begin = 0;
  for (int line = 1; line < place.line; ++line) {
    begin = text.find('\n', begin);
    if (begin == std::string::npos) return "";
    ++begin;
  }
  std::string line = text.substr(begin, text.find('\n', begin) - begin);
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
  return line;
}

// Where the bracket at `start` closes in this line, or npos. Quotes are not looked into: this only
// decides how far a line is drawn.
size_t closing_bracket(const std::string& line, size_t start) {
  int depth = 0;
  for (size_t i = start; i < line.size(); ++i) {
    if (line[i] == '[' || line[i] == '{') ++depth;
    if ((line[i] == ']' || line[i] == '}') && --depth == 0) return i;
  }
  return std::string::npos;
}

// The end of the key or value that begins at `start`.
size_t end_of_token(const std::string& line, size_t start) {
  const char first = line[start];
  if (first == '[' || first == '{')
    return std::min(closing_bracket(line, start), line.size() - 1) + 1;
  size_t end = start;
  if (first == '\'' || first == '"') {
    return std::min(closing_quote(line, start), line.size() - 1) + 1;
  }
  for (; end < line.size(); ++end) {
    const char next = end + 1 < line.size() ? line[end + 1] : ' ';
    if (line[end] == ':' && (next == ' ' || next == '\t')) break;
    if (std::string_view(",[]{}").find(line[end]) != std::string_view::npos) break;
    if (end > start && line[end] == '#' && line[end - 1] == ' ') break;
  }
  while (end > start + 1 && line[end - 1] == ' ') --end;
  return std::max(end, start + 1);
}

bool continues_character(char byte) {  // of UTF-8
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

}  // namespace

std::string excerpt(const Place& place) {
  if (!place.text || place.line <= 0 || place.column <= 0) return "";
  std::string line = line_of(place);
  auto start = static_cast<size_t>(place.column) - 1;
  if (start > line.size() || line.empty()) return "";
  size_t end = start < line.size() ? end_of_token(line, start) : start + 1;
  if (line.size() > kWidest) {
    size_t cut = start > kBeforeKey ? start - kBeforeKey : 0;
    while (cut > 0 && continues_character(line[cut])) --cut;
    size_t last = std::min(cut + kWidest, line.size());
    while (last < line.size() && continues_character(line[last])) ++last;
    const bool goes_on = last < line.size();
    line = (cut > 0 ? "..." : "") + line.substr(cut, last - cut) + (goes_on ? "..." : "");
    end = std::min(end, last);
    const size_t dots = cut > 0 ? 3 : 0;
    start = start - cut + dots;
    end = end - cut + dots;
  }
  std::string mark;
  for (size_t i = 0; i < end; ++i) {
    if (i < line.size() && continues_character(line[i])) continue;
    if (i < start) {
      mark += line[i] == '\t' ? '\t' : ' ';  // a tab is as wide as the one above it
    } else {
      mark += i == start ? '^' : '~';
    }
  }
  return fmt::format("{:>5} | {}\n      | {}\n", place.line, line, mark);
}

}  // namespace polyak
