// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/load.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "polyak/config/merge.h"
#include "polyak/config/problems.h"
#include "polyak/config/yaml.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

// Files that name each other twice would be read exponentially often.
constexpr int kMostBases = 100;

// The files that are being read. Each is a base of the one before it.
using Chain = std::vector<std::string>;

Node resolve(Node own, const std::string& name, const Chain& chain, int& bases);

// `from` is the node that names the file, or null if the user named it.
std::string read_text(const std::string& path, const Node& from) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) from.fail(fmt::format("{}: no such file", path));
  if (fs::is_directory(path, ignored)) {
    from.fail(fmt::format("{}: is a directory, not a config file", path));
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text(kMostYaml + 1, '\0');  // one byte above the limit, which parse_yaml refuses
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (!file && !file.eof())
    from.fail(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  return text;
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return fs::weakly_canonical(a, ignored) == fs::weakly_canonical(b, ignored);
}

Node load_base(const std::string& path, const Node& from, const Chain& chain, int& bases) {
  if (++bases > kMostBases) from.fail(fmt::format("a config has at most {} bases", kMostBases));
  for (const std::string& open : chain) {
    if (same_file(open, path)) {
      from.fail(fmt::format("the bases form a cycle: {} -> {}", fmt::join(chain, " -> "), path));
    }
  }
  return resolve(parse_yaml(read_text(path, from), path), path, chain, bases);
}

// Adds the keys of a base to those of the other bases of a file.
void add_base(Node& all, const Node& base, const Node& from) {
  for (const auto& [key, value] : base.entries()) {
    if (const Node* other = all.find(key)) {
      from.fail(
          fmt::format("two bases set '{}': {}:{}:{} and {}:{}:{}; the bases of a file must not "
                      "share a top-level key",
                      key, other->place().file, other->place().line, other->place().column,
                      value.place().file, value.place().line, value.place().column));
    }
    all.set(key, value);
  }
}

Node resolve(Node own, const std::string& name, const Chain& chain, int& bases) {
  Chain longer = chain;
  longer.push_back(name);
  Node base = Node::mapping();
  if (const Node* named = own.find(kBaseKey); named && !named->is_null()) {
    const std::vector<Node> files =
        named->is_sequence() ? named->items() : std::vector<Node>{*named};
    for (const Node& file : files) {
      const fs::path path = fs::path(name).parent_path() / file.as_string();
      add_base(base, load_base(path.lexically_normal().string(), file, longer, bases), file);
    }
  }
  return merge(base, own.without({kBaseKey}));
}

}  // namespace

Node load_config(const std::string& path, const std::vector<std::string>& overrides) {
  Node config = parse_config(read_text(path, Node()), path);
  Problems problems;
  for (const std::string& assignment : overrides) {
    problems.attempt([&] { apply_override(config, assignment); });
  }
  problems.throw_all();
  return config;
}

Node parse_config(const std::string& text, const std::string& name) {
  int bases = 0;
  return resolve(parse_yaml(text, name), name, {}, bases);
}

}  // namespace polyak
