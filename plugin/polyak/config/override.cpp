// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>

#include "polyak/config/load.h"
#include "polyak/config/merge.h"
#include "polyak/config/scalar.h"
#include "polyak/core/text.h"

namespace polyak {
namespace {

constexpr int kDeepest = 100;       // nested lists
constexpr size_t kMostParts = 100;  // of a key path

std::string stripped(const std::string& text, const char* characters) {
  const size_t first = text.find_first_not_of(characters);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(characters) - first + 1);
}

bool opens(char c) {
  return c == '(' || c == '[' || c == '{';
}

bool closes(char c) {
  return c == ')' || c == ']' || c == '}';
}

// The end of the element that starts at `start`: its comma, or the end of the text.
size_t element_end(const std::string& text, size_t start) {
  int depth = 0;
  for (size_t i = start; i < text.size(); ++i) {
    if (opens(text[i])) ++depth;
    if (closes(text[i])) --depth;
    if (text[i] == ',' && depth == 0) return i;
  }
  return text.size();
}

// Whether all brackets match.
bool is_balanced(const std::string& text) {
  std::string expected;
  for (char c : text) {
    if (opens(c)) expected += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (closes(c)) {
      if (expected.empty() || expected.back() != c) return false;
      expected.pop_back();
    }
  }
  return expected.empty();
}

// Whether one pair of brackets encloses the whole text: `[1, 2]`, but not `(1, 2), (3, 4)`.
bool is_enclosed(const std::string& text) {
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (opens(text[i])) ++depth;
    if (closes(text[i]) && --depth == 0) return i + 1 == text.size();
  }
  return false;
}

bool is_bracketed(const std::string& text) {
  return !text.empty() && (text[0] == '(' || text[0] == '[') && is_enclosed(text);
}

bool is_mapping(const std::string& text) {
  return !text.empty() && text[0] == '{' && is_enclosed(text);
}

bool is_list(const std::string& text) {
  return is_bracketed(text) || element_end(text, 0) < text.size();
}

bool is_quote(char c) {
  return c == '\'' || c == '"';
}

// The content of a quoted string.
std::string unquoted(const std::string& text) {
  std::string result;
  const std::string pair = text[0] == '"' ? "" : "''";
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    const bool doubled = !pair.empty() && text.compare(i, 2, pair) == 0;
    const bool escaped = pair.empty() && text[i] == '\\' && i + 2 < text.size() &&
                         (text[i + 1] == '"' || text[i + 1] == '\\');
    if (doubled || escaped) ++i;
    result += text[i];
  }
  return result;
}

// The text with each character of quoted strings replaced by 'q', which hides their commas and
// brackets.
std::string outline(const std::string& text, const Node& target) {
  std::string result = text;
  bool begins = true;  // an element, and so a quoted string, may begin here
  bool in_mapping = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (begins && is_quote(c)) {
      const size_t end = closing_quote(text, i);
      if (end == std::string::npos) target.fail(fmt::format("a quote is not closed in {}", text));
      const size_t next = std::min(text.find_first_not_of(' ', end + 1), text.size());
      if (next < text.size() &&
          std::string_view(in_mapping ? ",])}:" : ",])").find(text[next]) == std::string::npos) {
        target.fail(fmt::format("text follows the closing quote in {}", text));
      }
      std::fill(result.begin() + static_cast<std::ptrdiff_t>(i),
                result.begin() + static_cast<std::ptrdiff_t>(end) + 1, 'q');
      i = end;
      begins = false;
    } else if (c != ' ') {
      begins = c == ',' || opens(c) || (in_mapping && c == ':');
      in_mapping = in_mapping || c == '{';
    }
  }
  return result;
}

// Whether a quoted string is a list as in MMEngine's help: "[(a,b),(c,d)]".
bool is_list_in_quotes(const std::string& inner) {
  const std::string text = stripped(inner, " ");
  return !text.empty() && (text.front() == '[' || text.front() == '(') &&
         (text.back() == ']' || text.back() == ')') && is_balanced(text);
}

Node parse_scalar(const std::string& written) {
  std::string text = written;
  text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
  const std::string lower = lower_case(text);
  if (lower == "true" || lower == "false") return Node(lower == "true");
  if (text == "None" || text == "null") return Node();
  // Python's float() accepts these without the dot of YAML.
  if (lower == "inf" || lower == "+inf" || lower == "nan")
    return Node::scalar("." + stripped(lower, "+"), false);
  if (lower == "-inf") return Node::scalar("-.inf", false);
  const ScalarType type = scalar_type(text);
  const bool number = type == ScalarType::integer || type == ScalarType::number;
  return number ? Node::scalar(text, false) : Node(written);
}

// {key: value} as YAML has it. A key path may name its keys one by one, too.
Node parse_mapping(const std::string& text, const Node& target) {
  try {
    return *parse_config("value: " + text).find("value");
  } catch (const ConfigError& error) {
    target.fail(fmt::format("{} is not a mapping: {}", text, error.what()));
  }
}

// `target` has the place and the path for messages.
Node parse_value(const std::string& written, const Node& target, int depth = 0) {
  if (depth > kDeepest) {
    target.fail(fmt::format("lists are nested more than {} deep", kDeepest));
  }
  std::string text = stripped(written, " ");
  std::string shape = outline(text, target);
  if (!text.empty() && is_quote(text[0]) && closing_quote(text, 0) + 1 == text.size()) {
    const std::string inner = unquoted(text);
    return is_list_in_quotes(inner) ? parse_value(inner, target, depth + 1) : Node(inner);
  }
  const bool bracketed = is_bracketed(shape);
  const bool opened = !text.empty() && opens(text[0]);
  if ((opened || is_list(shape)) && !is_balanced(shape)) {
    target.fail(fmt::format("the brackets do not match in '{}'", text));
  }
  if (is_mapping(shape)) return parse_mapping(text, target);
  if (!is_list(shape)) return parse_scalar(text);
  if (bracketed) {
    const size_t first = std::min(text.find_first_not_of(' ', 1), text.size() - 1);
    text = text.substr(first, text.size() - 1 - first);
    shape = shape.substr(first, shape.size() - 1 - first);
  }
  Node list = Node::sequence();
  for (size_t start = 0; start < text.size();) {
    const size_t end = element_end(shape, start);
    list.append(parse_value(text.substr(start, end - start), target, depth + 1));
    start = end + 1;
  }
  return list;
}

void set_place_of_all(Node& node, const Place& place) {
  node.set_place(place);
  if (node.is_sequence()) {
    for (Node& item : node.items()) set_place_of_all(item, place);
  }
  if (node.is_mapping()) {
    for (const auto& [key, value] : node.entries()) set_place_of_all(*node.find(key), place);
  }
}

std::vector<std::string> split_key(const std::string& key, const Node& target) {
  std::vector<std::string> parts;
  for (size_t start = 0; start <= key.size();) {
    const size_t end = std::min(key.find('.', start), key.size());
    parts.push_back(key.substr(start, end - start));
    start = end + 1;
    if (parts.size() > kMostParts) {
      target.fail(fmt::format("the key path has more than {} parts", kMostParts));
    }
    if (parts.back().empty()) target.fail("must have the form key=value, as in a.b.0.c=1");
    if (parts.back() == kBaseKey || parts.back() == kDeleteKey) {
      target.fail(fmt::format("'{}' is only allowed in files", parts.back()));
    }
  }
  return parts;
}

// The element of a list that a part of the key path names.
Node& element(Node& list, const std::string& part, const Place& place) {
  Node target;
  target.set_place(place);
  target.set_path(list.path());
  if (part.find_first_not_of("0123456789") != std::string::npos) {
    target.fail(fmt::format("is a list; '{}' is not an index", part));
  }
  size_t index = 0;
  const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
  if (result.ec != std::errc() || index >= list.items().size()) {
    target.fail(fmt::format("index {} is out of range; the list has {} element{}, counted from 0",
                            part, list.items().size(), list.items().size() == 1 ? "" : "s"));
  }
  return list.items()[index];
}

// The child of `node` that a part of the key path names. Adds a null node if it is absent.
Node& descend(Node& node, const std::string& part, const Place& place) {
  if (node.is_sequence()) return element(node, part, place);
  if (node.is_scalar()) {
    Node target;
    target.set_place(place);
    target.set_path(node.path());
    target.fail(fmt::format("is {}, so it has no key '{}'", node.kind_name(), part));
  }
  if (node.is_null()) node.set_place(place);
  if (Node* present = node.find(part)) return *present;
  return node.set(part, Node());
}

}  // namespace

void apply_override(Node& config, const std::string& assignment) {
  apply_override(config, assignment, "--cfg-options");
}

void apply_override(Node& config, const std::string& assignment, const std::string& option) {
  const Place place{fmt::format("{} {}", option, assignment), 0, 0, nullptr};
  Node target;
  target.set_place(place);
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) target.fail("must have the form key=value, as in a.b.0.c=1");
  const auto parts = split_key(assignment.substr(0, equals), target);

  target.set_path(assignment.substr(0, equals));
  Node value = parse_value(assignment.substr(equals + 1), target);
  set_place_of_all(value, place);

  Node* node = &config;
  for (const std::string& part : parts) node = &descend(*node, part, place);
  value.set_path(node->path());
  *node = std::move(value);
}

}  // namespace polyak
