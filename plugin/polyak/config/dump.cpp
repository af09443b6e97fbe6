// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <optional>

#include "polyak/config/node.h"
#include "polyak/config/scalar.h"
#include "polyak/core/text.h"

namespace polyak {
namespace {

constexpr size_t kFlowWidth = 80;
/// YAML's limit is 1024 characters, with quotes; a longer key needs a mark of its own.
constexpr size_t kLongestPlainKey = 1000;

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

struct Escape {
  const char* bytes;
  const char* text;
};
/// Characters that readers take for the start of a file or the end of a line.
constexpr Escape kEscapes[] = {{"\xef\xbb\xbf", "\\uFEFF"},
                               {"\xc2\x85", "\\x85"},
                               {"\xe2\x80\xa8", "\\u2028"},
                               {"\xe2\x80\xa9", "\\u2029"}};

/// The escape for what stands at `i`, or null.
const Escape* escape_at(const std::string& text, size_t i) {
  for (const Escape& escape : kEscapes) {
    if (text.compare(i, std::strlen(escape.bytes), escape.bytes) == 0) return &escape;
  }
  return nullptr;
}

bool needs_escapes(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_control(text[i]) || escape_at(text, i)) return true;
  }
  return false;
}

// Whether a string needs no quotes, for us and for readers of YAML 1.1 such as PyYAML, which know
// more booleans (yes, off), dates and numbers in base 60. If in doubt, it gets quotes.
bool may_stand_plain(const std::string& text) {
  if (scalar_type(text) != ScalarType::string) return false;
  for (const char* word : {"yes", "no", "on", "off"}) {
    if (lower_case(text) == word) return false;
  }
  const char first = text.front(), last = text.back();
  if (std::string_view(" -?:#&*!|>'\"%@`+=<~0123456789").find(first) != std::string_view::npos) {
    return false;
  }
  return last != ' ' && last != ':' && text.compare(0, 3, "...") != 0 &&
         text.find_first_of(",[]{}?") == std::string::npos &&
         text.find(": ") == std::string::npos && text.find(" #") == std::string::npos &&
         !needs_escapes(text);
}

std::string string_text(const std::string& text) {
  if (may_stand_plain(text)) return text;
  const bool escaped = needs_escapes(text);
  std::string quoted;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (const Escape* escape = escape_at(text, i)) {
      quoted += escape->text;
      i += std::strlen(escape->bytes) - 1;
    } else if (!escaped) {
      quoted += c == '\'' ? "''" : std::string(1, c);
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (is_control(c)) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += c;
    }
  }
  return escaped ? fmt::format("\"{}\"", quoted) : fmt::format("'{}'", quoted);
}

// The node on one line, if that is readable.
std::optional<std::string> one_line(const Node& node) {
  if (node.is_null()) return "null";
  if (node.is_scalar()) {
    return node.is_bool() || node.is_number() ? node.text() : string_text(node.text());
  }
  if (node.is_mapping()) {
    if (node.entries().empty()) return "{}";
    return std::nullopt;
  }
  std::string text;
  for (const Node& item : node.items()) {
    const auto part = one_line(item);
    if (!part) return std::nullopt;
    if (!text.empty()) text += ", ";
    text += *part;
    if (text.size() > kFlowWidth) return std::nullopt;
  }
  return fmt::format("[{}]", text);
}

// Writes a mapping or a list as a block. `indent` is the indentation of each line; `out` ends with
// that of the first one.
void write_block(const Node& node, size_t indent, std::string& out) {
  const std::string next_line(indent, ' ');
  bool first = true;
  auto start_line = [&] {
    if (!first) out += next_line;
    first = false;
  };
  if (node.is_sequence()) {
    for (const Node& item : node.items()) {
      start_line();
      out += "- ";
      if (const auto line = one_line(item)) {
        out += *line + "\n";
      } else {
        write_block(item, indent + 2, out);
      }
    }
    return;
  }
  for (const auto& [key, value] : node.entries()) {
    start_line();
    const std::string text = string_text(key);
    out += text.size() <= kLongestPlainKey ? text : fmt::format("? {}\n{}", text, next_line);
    out += ":";
    if (const auto line = one_line(value)) {
      out += " " + *line + "\n";
    } else {
      out += "\n" + std::string(indent + 2, ' ');
      write_block(value, indent + 2, out);
    }
  }
}

}  // namespace

std::string Node::dump() const {
  if (const auto line = one_line(*this)) return *line + "\n";
  std::string out;
  write_block(*this, 0, out);
  return out;
}

}  // namespace polyak
