#include "polyak/config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>

namespace polyak {
namespace {

// Aliases of aliases can make a small file huge; no config comes near this many values.
constexpr size_t kMaxValues = 1000000;

size_t count_values(const Node& node) {
  size_t count = 1;
  if (node.is_sequence()) {
    for (const Node& item : node.items()) count += count_values(item);
  } else if (node.is_mapping()) {
    for (const auto& entry : node.entries()) count += count_values(entry.second);
  }
  return count;
}

// Builds a Node from the parser's events. yaml-cpp's own tree will not do: it drops duplicate keys
// and does not know `<<`. The value of a mapping gets the place of its key, where a reader looks
// for it.
class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& file) : file_(file) {}

  const Node& root() const { return root_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) {
      fail(place(mark), "a second document starts here; a config is one document");
    }
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(Node(), place(mark), anchor, false);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end())
      fail(place(mark), "an alias cannot stand inside of its own anchor");
    values_ += count_values(found->second);
    if (values_ > kMaxValues) {
      fail(place(mark), fmt::format("aliases make more than {} values of this file", kMaxValues));
    }
    add(found->second, found->second.place(), YAML::NullAnchor, found->second.quoted());
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    // yaml-cpp's own tags: "?" for a plain scalar, "!" for one in quotes or a block.
    const bool quoted = tag == "!" || tag == "tag:yaml.org,2002:str";
    if (!quoted) check_tag(mark, tag);
    add(Node::scalar(value, quoted), place(mark), anchor, quoted);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open_.push_back({Node::sequence(), place(mark), anchor, {}, {}});
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open_.push_back({Node::mapping(), place(mark), anchor, {}, {}});
  }
  void OnMapEnd() override {
    if (open_.back().merged) expand_merge_key(open_.back().node, *open_.back().merged);
    close();
  }

  [[noreturn]] void fail(const Place& where, const std::string& message) const {
    Node node;
    node.set_place(where);
    node.set_path(path());
    node.fail(message);
  }

  Place place(const YAML::Mark& mark) const { return {file_, mark.line + 1, mark.column + 1}; }

 private:
  struct KeyRead {
    std::string name;
    Place place;
    bool quoted;
  };

  // A list or a mapping whose end has not come yet.
  struct Open {
    Node node;
    Place place;
    YAML::anchor_t anchor;
    std::optional<KeyRead> key;  // read, its value not yet
    std::optional<Node> merged;  // the value of `<<`
  };

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
    ++values_;
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
    open_.back().key = KeyRead{key.text(), where, quoted};
  }

  void add_entry(Node value) {
    Open& open = open_.back();
    const bool merge_key = open.key->name == "<<" && !open.key->quoted;
    const Node* earlier = merge_key ? (open.merged ? &*open.merged : nullptr)  //
                                    : open.node.find(open.key->name);
    if (earlier) {
      const Place& first = earlier->place();
      fail(open.key->place, fmt::format("duplicate key; it stands at {}:{}:{} already", first.file,
                                        first.line, first.column));
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

  // Keys of the mapping itself win, then those of the mapping that is named first.
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

  std::string file_;
  Node root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Node> anchors_;
  size_t values_ = 0;
  int documents_ = 0;
};

// yaml-cpp's reasons, in words for somebody who does not know its parser.
std::string plain_words(const std::string& reason) {
  static const std::map<std::string, std::string> kWords = {
      {YAML::ErrorMsg::END_OF_MAP, "a mapping ends in the middle; check the indentation"},
      {YAML::ErrorMsg::END_OF_MAP_FLOW, "a '{' has no '}', or a ',' is missing"},
      {YAML::ErrorMsg::END_OF_SEQ, "a list ends in the middle; check the indentation"},
      {YAML::ErrorMsg::END_OF_SEQ_FLOW, "a '[' has no ']', or a ',' is missing"},
      {YAML::ErrorMsg::EOF_IN_SCALAR, "a quote is not closed"},
      {YAML::ErrorMsg::DOC_IN_SCALAR, "a quote is not closed"},
      {YAML::ErrorMsg::MAP_VALUE, "a ':' cannot stand here; check the indentation, or use quotes"},
      {YAML::ErrorMsg::MAP_KEY, "a key cannot stand here; check the indentation"},
      {YAML::ErrorMsg::BLOCK_ENTRY, "a '-' cannot stand here; check the indentation"},
      {YAML::ErrorMsg::FLOW_END, "a ']' or '}' closes nothing"},
      {YAML::ErrorMsg::UNKNOWN_TOKEN, "no value starts with this character; use quotes"},
      {YAML::ErrorMsg::TAB_IN_INDENTATION, "a tab indents this line; YAML wants spaces"},
      {YAML::ErrorMsg::BAD_FILE, "lists and mappings are nested too deeply"},
  };
  const auto found = kWords.find(reason);
  return found == kWords.end() ? reason : found->second;
}

void check_is_text(const std::string& text, const std::string& name) {
  for (unsigned char c : text) {
    if (c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f') {
      fail<ConfigError>("{}: is not a text file: it holds the byte 0x{:02x}", name, c);
    }
  }
}

}  // namespace

Node parse_yaml(const std::string& text, const std::string& name) {
  check_is_text(text, name);
  std::istringstream stream(text);
  Builder builder(name);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    builder.fail(builder.place(error.mark), "invalid YAML: " + plain_words(error.msg));
  }
  const Node& root = builder.root();
  if (root.is_null()) fail<ConfigError>("{}: is empty; a config is a mapping", name);
  if (!root.is_mapping()) {
    root.fail(fmt::format("the top level must be a mapping, got {}", root.kind_name()));
  }
  return root;
}

}  // namespace polyak
