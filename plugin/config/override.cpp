#include <algorithm>
#include <cctype>
#include <charconv>

#include "polyak/config/load.h"
#include "polyak/config/merge.h"
#include "polyak/config/scalar.h"

namespace polyak {
namespace {

constexpr const char* kQuotes = "'\"";

std::string stripped(const std::string& text, const char* characters) {
  const size_t first = text.find_first_not_of(characters);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(characters) - first + 1);
}

// The position after the element that starts at `start`: its comma, or the end of the text.
size_t element_end(const std::string& text, size_t start) {
  int depth = 0;
  for (size_t i = start; i < text.size(); ++i) {
    if (text[i] == '(' || text[i] == '[') ++depth;
    if (text[i] == ')' || text[i] == ']') --depth;
    if (text[i] == ',' && depth == 0) return i;
  }
  return text.size();
}

// Whether each bracket has its partner.
bool is_balanced(const std::string& text) {
  std::string expected;
  for (char c : text) {
    if (c == '(' || c == '[') expected += c == '(' ? ')' : ']';
    if (c == ')' || c == ']') {
      if (expected.empty() || expected.back() != c) return false;
      expected.pop_back();
    }
  }
  return expected.empty();
}

// Whether one pair of brackets holds the whole text: `[1, 2]`, but not `(1, 2), (3, 4)`.
bool is_bracketed(const std::string& text) {
  if (text.empty() || (text[0] != '(' && text[0] != '[')) return false;
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '(' || text[i] == '[') ++depth;
    if ((text[i] == ')' || text[i] == ']') && --depth == 0) return i + 1 == text.size();
  }
  return false;
}

bool is_list(const std::string& text) {
  return is_bracketed(text) || text.find(',') != std::string::npos;
}

// One pair of quotes around a scalar keeps it a string, blanks and all.
bool is_quoted_scalar(const std::string& text) {
  return text.size() >= 2 && (text[0] == '\'' || text[0] == '"') &&
         text.find(text[0], 1) == text.size() - 1 && !is_list(text.substr(1, text.size() - 2));
}

Node parse_scalar(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
  std::string lower = text;
  std::transform(text.begin(), text.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower == "true" || lower == "false") return Node(lower == "true");
  if (text == "None" || text == "null") return Node();
  // Python's float() takes these without the dot that YAML wants.
  if (lower == "inf" || lower == "+inf" || lower == "nan")
    return Node::scalar("." + stripped(lower, "+"), false);
  if (lower == "-inf") return Node::scalar("-.inf", false);
  const ScalarType type = scalar_type(text);
  const bool number = type == ScalarType::integer || type == ScalarType::number;
  return number ? Node::scalar(text, false) : Node(text);
}

// `target` carries the place and the path that messages show.
Node parse_value(const std::string& written, const Node& target) {
  std::string text = stripped(written, " ");
  if (is_quoted_scalar(text)) return Node(text.substr(1, text.size() - 2));
  text = stripped(stripped(text, kQuotes), " ");
  const bool bracketed = is_bracketed(text);
  const bool opened = !text.empty() && (text[0] == '[' || text[0] == '(');
  if ((opened || is_list(text)) && !is_balanced(text)) {
    target.fail(fmt::format("the brackets do not match in '{}'", text));
  }
  if (!is_list(text)) return parse_scalar(text);
  if (bracketed) text = stripped(text.substr(1, text.size() - 2), " ");
  Node list = Node::sequence();
  for (size_t start = 0; start < text.size();) {
    const size_t end = element_end(text, start);
    list.append(parse_value(text.substr(start, end - start), target));
    start = end + 1;
  }
  return list;
}

void set_place_of_all(Node& node, const Place& place) {
  node.set_place(place);
  if (!node.is_sequence()) return;
  for (Node& item : node.items()) set_place_of_all(item, place);
}

std::vector<std::string> split_key(const std::string& key, const Node& target) {
  std::vector<std::string> parts;
  for (size_t start = 0; start <= key.size();) {
    const size_t end = std::min(key.find('.', start), key.size());
    parts.push_back(key.substr(start, end - start));
    start = end + 1;
    if (parts.back().empty()) target.fail("must have the form key=value, as in a.b.0.c=1");
    if (parts.back() == kBaseKey || parts.back() == kDeleteKey) {
      target.fail(fmt::format("'{}' works in files only", parts.back()));
    }
  }
  return parts;
}

// The element of a list that a part of the key names.
Node& element(Node& list, const std::string& part, const Place& place) {
  Node target;
  target.set_place(place);
  target.set_path(list.path());
  if (part.find_first_not_of("0123456789") != std::string::npos) {
    target.fail(fmt::format("is a list; '{}' is no index into it", part));
  }
  size_t index = 0;
  const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
  if (result.ec != std::errc() || index >= list.items().size()) {
    target.fail(fmt::format("index {} is out of range; the list has {} element{}, counted from 0",
                            part, list.items().size(), list.items().size() == 1 ? "" : "s"));
  }
  return list.items()[index];
}

// What a part of the key names below `node`, made as null when it is not there yet.
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
  const Place place{fmt::format("--cfg-options {}", assignment), 0, 0};
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
