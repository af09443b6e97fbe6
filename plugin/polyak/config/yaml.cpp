// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>

#include "polyak/config/problems.h"
#include "polyak/config/scalar.h"

namespace polyak {
namespace {

// The length of the UTF-8 sequence that starts at `i`, or 0 if it is invalid.
size_t utf8_length(const std::string& text, size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  const size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (lead > 0xf4 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

// yaml-cpp writes the escapes \_ (a space that does not break) and \N (the next line) as one byte,
// which is no UTF-8. The file itself has been checked.
std::string with_whole_escapes(const std::string& value) {
  std::string whole;
  for (size_t i = 0; i < value.size();) {
    const size_t length = utf8_length(value, i);
    if (length == 0) whole += '\xc2';
    whole += value.substr(i, std::max<size_t>(length, 1));
    i += std::max<size_t>(length, 1);
  }
  return whole;
}

// Aliases of aliases can expand a small file enormously; no real config has this many values.
constexpr size_t kMaxValues = 1000000;
constexpr size_t kMaxAliased = 16 << 20;  // characters
// Every value stores its path.
constexpr size_t kLongestPath = 1000;

constexpr const char* kBlanks = " \t\r\n";

struct Extent {
  size_t values = 0;
  size_t characters = 0;
};

void add_extent(const Node& node, Extent& extent) {
  ++extent.values;
  extent.characters += node.text().size();
  if (node.is_sequence()) {
    for (const Node& item : node.items()) add_extent(item, extent);
  } else if (node.is_mapping()) {
    for (const auto& [key, value] : node.entries()) {
      extent.characters += key.size();
      add_extent(value, extent);
    }
  }
}

[[noreturn]] void fail_syntax(const Place& where, const std::string& reason) {
  Node node;
  node.set_place(where);
  node.fail("invalid YAML: " + reason);
}

// Builds a Node from the parser's events. yaml-cpp's own tree does not suffice: it drops duplicate
// keys and does not support `<<`. The value of a mapping gets the place of its key, where readers
// look for it.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::shared_ptr<const std::string> text, const std::string& file)
      : shared_text_(std::move(text)), text_(*shared_text_), file_(file) {}

  const Node& root() const { return root_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    check_quote(mark);
    if (documents_++ > 0) {
      fail(place(mark), "a second document starts here; a config must be a single document");
    }
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_quote(mark);
    add(Node(), place(mark), anchor, false);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_quote(mark);
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      fail(place(mark), "an alias cannot be inside its own anchor");
    }
    add_extent(found->second, extent_);
    if (extent_.values > kMaxValues) {
      fail(place(mark), fmt::format("aliases expand this file to more than {} values", kMaxValues));
    }
    if (extent_.characters > kMaxAliased) {
      fail(place(mark),
           fmt::format("aliases expand this file to more than {} characters", kMaxAliased));
    }
    add(found->second, found->second.place(), YAML::NullAnchor, found->second.quoted());
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& written) override {
    const std::string value = with_whole_escapes(written);
    check_quote(mark);
    remember_quote(mark);
    if (awaits_key() && !lone_key_ && !has_colon(mark, value)) {
      lone_key_ = KeyRead{value, place(mark), false};
    }
    // yaml-cpp's own tags: "?" for a plain scalar, "!" for one in quotes or a block.
    const bool quoted = tag == "!" || tag == "tag:yaml.org,2002:str";
    if (!quoted) check_tag(mark, tag);
    add(Node::scalar(value, quoted), place(mark), anchor, quoted);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_quote(mark);
    check_tag(mark, tag);
    check_path(mark);
    open_.push_back({Node::sequence(), place(mark), anchor, {}, {}});
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_quote(mark);
    check_tag(mark, tag);
    check_path(mark);
    open_.push_back({Node::mapping(), place(mark), anchor, {}, {}});
  }
  void OnMapEnd() override {
    if (open_.back().merged) expand_merge_key(open_.back().node, *open_.back().merged);
    close();
  }

  // yaml-cpp ends a quoted scalar at a line with too little indentation and continues as if its
  // quote were closed there. So whatever follows a scalar must also follow its closing quote.
  void check_quote(const YAML::Mark& next) const { check_quote(static_cast<size_t>(next.pos)); }

  // Errors that the parser accepts. Call it if parsing succeeded.
  void check_at_end() const {
    check_quote(text_.size());
    duplicates_.throw_all();
    if (!lone_key_) return;
    fail_syntax(lone_key_->place, fmt::format("the key '{}' has no value; write it as 'key: value'",
                                              lone_key_->name));
  }

  [[noreturn]] void fail(const Place& where, const std::string& message) const {
    Node node;
    node.set_place(where);
    node.set_path(path());
    node.fail(message);
  }

  Place place(const YAML::Mark& mark) const {
    return {file_, mark.line + 1, mark.column + 1, shared_text_};
  }

 private:
  struct KeyRead {
    std::string name;
    Place place;
    bool quoted;
  };

  // A list or a mapping that is being read.
  struct Open {
    Node node;
    Place place;
    YAML::anchor_t anchor;
    std::optional<KeyRead> key;  // was read, but not its value
    std::optional<Node> merged;  // the value of `<<`
  };

  void check_quote(size_t next) const {
    if (quote_ && next <= quote_end_) fail_syntax(*quote_, "this quote is not closed");
  }

  void remember_quote(const YAML::Mark& mark) {
    quote_.reset();
    size_t start = static_cast<size_t>(mark.pos);
    while (start < text_.size() && (text_[start] == '&' || text_[start] == '!')) {
      start = text_.find_first_not_of(kBlanks, text_.find_first_of(kBlanks, start));
    }
    if (start >= text_.size() || (text_[start] != '\'' && text_[start] != '"')) return;
    quote_ = place(mark);
    quote_end_ = std::min(closing_quote(text_, start), text_.size());
  }

  bool awaits_key() const {
    return !open_.empty() && open_.back().node.is_mapping() && !open_.back().key;
  }

  bool has_colon(const YAML::Mark& mark, const std::string& key) const {
    const size_t start = static_cast<size_t>(mark.pos);
    if (!quote_ && text_.compare(start, key.size(), key) != 0)
      return true;  // an anchor comes first
    const size_t next =
        text_.find_first_not_of(kBlanks, quote_ ? quote_end_ + 1 : start + key.size());
    return next != std::string::npos && text_[next] == ':';
  }

  std::string path() const {
    std::string text;
    for (const Open& open : open_) {
      if (open.node.is_sequence()) {
        text += fmt::format("[{}]", open.node.items().size());
      } else if (open.key) {
        text += (text.empty() ? "" : ".") + open.key->name;
      }
    }
    return text;
  }

  void check_path(const YAML::Mark& mark) const {
    if (path().size() <= kLongestPath) return;
    Node node;
    node.set_place(place(mark));
    node.fail(fmt::format("the key path has more than {} characters", kLongestPath));
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?" || tag == "!") return;
    fail(place(mark), fmt::format("the tag '{}' is not supported", tag));
  }

  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    add(std::move(done.node), done.place, done.anchor, false);
  }

  void add(Node value, const Place& where, YAML::anchor_t anchor, bool quoted) {
    ++extent_.values;
    value.set_place(where);
    if (anchor != YAML::NullAnchor) anchors_[anchor] = value;
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().node.is_sequence()) {
      open_.back().node.append(std::move(value));
    } else if (!open_.back().key) {
      add_key(value, where, quoted);
    } else {
      add_entry(std::move(value));
    }
  }

  void add_key(const Node& key, const Place& where, bool quoted) {
    if (!key.is_scalar()) {
      fail(where, fmt::format("a key must be a scalar, got {}", key.kind_name()));
    }
    if (key.text().size() > kLongestPath) {
      fail(where, fmt::format("a key has at most {} characters", kLongestPath));
    }
    open_.back().key = KeyRead{key.text(), where, quoted};
  }

  void add_entry(Node value) {
    Open& open = open_.back();
    const bool merge_key = open.key->name == "<<" && !open.key->quoted;
    const Node* earlier = merge_key ? (open.merged ? &*open.merged : nullptr)  //
                                    : open.node.find(open.key->name);
    if (earlier) {
      const Place& first = earlier->place();
      duplicates_.attempt([&] {
        fail(open.key->place, fmt::format("duplicate key; first set at {}:{}:{}", first.file,
                                          first.line, first.column));
      });
      open.key.reset();
      return;
    }
    value.set_place(open.key->place);
    if (merge_key) {
      value.set_path(path());
      open.merged = std::move(value);
    } else {
      open.node.set(open.key->name, std::move(value));
    }
    open.key.reset();
  }

  // The mapping's own keys take precedence, then those of the source that is named first.
  static void expand_merge_key(Node& node, const Node& merged) {
    const std::vector<Node> sources =
        merged.is_sequence() ? merged.items() : std::vector<Node>{merged};
    for (const Node& source : sources) {
      if (!source.is_mapping()) {
        source.fail(
            fmt::format("must be a mapping or a list of mappings, got {}", source.kind_name()));
      }
      for (const auto& [key, value] : source.entries()) {
        if (!node.find(key)) node.set(key, value);
      }
    }
  }

  const std::shared_ptr<const std::string> shared_text_;
  const std::string& text_;
  const std::string& file_;
  std::optional<Place> quote_;  // of the previous scalar, if it was quoted
  size_t quote_end_ = 0;
  // The first key without a ':'. yaml-cpp reads a last line of `key`, or `{key:1}`, as `key: null`.
  std::optional<KeyRead> lone_key_;
  Node root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Node> anchors_;
  Extent extent_;
  int documents_ = 0;
  Problems duplicates_;  // of keys
};

// yaml-cpp's messages in words that need no knowledge of its parser.
std::string plain_words(const std::string& reason) {
  static const std::map<std::string, std::string> kWords = {
      {YAML::ErrorMsg::END_OF_MAP, "a mapping ends unexpectedly; check the indentation"},
      {YAML::ErrorMsg::END_OF_MAP_FLOW, "a '{' has no '}', or a ',' is missing"},
      {YAML::ErrorMsg::END_OF_SEQ, "a list ends unexpectedly; check the indentation"},
      {YAML::ErrorMsg::END_OF_SEQ_FLOW, "a '[' has no ']', or a ',' is missing"},
      {YAML::ErrorMsg::EOF_IN_SCALAR, "a quote is not closed"},
      {YAML::ErrorMsg::DOC_IN_SCALAR, "a quote is not closed"},
      {YAML::ErrorMsg::MAP_VALUE,
       "a ':' is not allowed here; check the indentation, or use quotes"},
      {YAML::ErrorMsg::MAP_KEY, "a key is not allowed here; check the indentation"},
      {YAML::ErrorMsg::BLOCK_ENTRY, "a '-' is not allowed here; check the indentation"},
      {YAML::ErrorMsg::FLOW_END, "a ']' or '}' has no opening bracket"},
      {YAML::ErrorMsg::UNKNOWN_TOKEN, "a value cannot start with this character; use quotes"},
      {YAML::ErrorMsg::TAB_IN_INDENTATION, "this line is indented by a tab; use spaces"},
      {YAML::ErrorMsg::BAD_FILE, "lists and mappings are nested too deeply"},
  };
  const auto found = kWords.find(reason);
  return found == kWords.end() ? reason : found->second;
}

// yaml-cpp would replace invalid UTF-8, and treats the byte 4 as the end.
void check_is_text(const std::string& text, const std::string& name) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    const auto c = static_cast<unsigned char>(text[i]);
    const bool control = c < 0x20 && c != '\t' && c != '\n' && c != '\r';
    if (length == 0 || control) {
      fail<ConfigError>("{}: is not a UTF-8 text file: it contains the byte 0x{:02x}", name, c);
    }
    i += length;
  }
}

bool starts_with_tab(const std::string& text, int line) {
  std::istringstream lines(text);
  std::string current;
  for (int i = 0; i <= line; ++i) std::getline(lines, current);
  const size_t first = current.find_first_not_of(' ');
  return first != std::string::npos && current[first] == '\t';
}

}  // namespace

Node parse_yaml(const std::string& written, const std::string& name) {
  if (written.size() > kMostYaml) {
    fail<ConfigError>(
        "{}: is larger than 1 MiB, the limit for a config; configs hold settings, not data", name);
  }
  check_is_text(written, name);
  // Without a byte order mark, yaml-cpp's positions are offsets into the text.
  const auto shared_text = std::make_shared<const std::string>(
      written.substr(written.compare(0, 3, "\xEF\xBB\xBF") == 0 ? 3 : 0));
  const std::string& text = *shared_text;
  std::istringstream stream(text);
  Builder builder(shared_text, name);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    builder.check_at_end();
  } catch (const YAML::Exception& error) {
    builder.check_quote(error.mark);
    const std::string& reason =
        starts_with_tab(text, error.mark.line) ? YAML::ErrorMsg::TAB_IN_INDENTATION : error.msg;
    fail_syntax(builder.place(error.mark), plain_words(reason));
  }
  const Node& root = builder.root();
  if (root.is_null()) fail<ConfigError>("{}: is empty; a config must be a mapping", name);
  if (!root.is_mapping()) {
    root.fail(fmt::format("the top level must be a mapping, got {}", root.kind_name()));
  }
  return root;
}

}  // namespace polyak
