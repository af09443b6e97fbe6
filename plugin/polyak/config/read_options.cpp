// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>

#include "polyak/config/check.h"
#include "polyak/config/nearest.h"
#include "polyak/config/options.h"
#include "polyak/config/problems.h"

namespace polyak {
namespace {

void convert(const Node& node, bool& value) {
  value = node.as_bool();
}
void convert(const Node& node, int64_t& value) {
  value = node.as_int();
}
void convert(const Node& node, double& value) {
  value = node.as_double();
}
void convert(const Node& node, std::string& value) {
  value = node.as_string();
}
void convert(const Node& node, Node& value) {
  value = node;
}

template <class T>
void read_value(const Node& node, const Key& key, T& value) {
  T read{};
  convert(node, read);
  const std::string problem = problem_of(read, key);
  if (!problem.empty()) node.fail(problem);
  value = std::move(read);
}

template <class T>
void read_value(const Node& node, const Key& key, std::optional<T>& value) {
  std::optional<T> read;
  if (!node.is_null()) read_value(node, key, read.emplace());
  value = std::move(read);
}

template <class T>
void read_value(const Node& node, const Key& key, std::vector<T>& value) {
  std::vector<T> read;
  if (node.is_scalar()) {  // `save_best: accuracy`: one value is a list of one, as in MMEngine
    read_value(node, key, read.emplace_back());
  } else if (!node.is_null()) {  // `save_best: null`: none, as in MMEngine
    Problems problems;
    for (const Node& item : node.items()) {
      T one{};
      problems.attempt([&] { read_value(item, key, one); });
      read.push_back(std::move(one));
    }
    problems.throw_all();
  }
  value = std::move(read);
}

// A missing key, at the place of its mapping.
Node absent(const Node& mapping, const std::string& key) {
  Node node;
  node.set_place(mapping.place());
  node.set_path(mapping.path_of(key));
  return node;
}

// The node that a path such as `buffers[0].mode` names, or the closest one above it; null if not
// even the first key is there. A value in place of a list is its only element.
const Node* find_part(const Node& block, const std::string& path) {
  const Node* found = nullptr;
  const Node* at = &block;
  for (size_t begin = 0; at && begin < path.size();) {
    const size_t end = std::min(path.find_first_of(".[", begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    if (!key.empty() && key.back() == ']') {
      const size_t i = std::strtoul(key.c_str(), nullptr, 10);
      if (at->is_sequence()) at = i < at->items().size() ? &at->items()[i] : nullptr;
    } else {
      at = at->is_mapping() ? at->find(key) : nullptr;
    }
    if (at) found = at;
    begin = end + 1;
  }
  return found;
}

// Collects the names of all keys.
class NameCollector : public OptionReader {
 public:
  std::vector<std::string> names;
  bool takes_rest = false;

  void key(const Key& key, ConstOptionValue) override { names.push_back(key.name); }
  void rest(const Rest&, const Node&) override { takes_rest = true; }
};

/// Sets all members that it can, and collects what is wrong with the others.
class Reader : public OptionVisitor {
 public:
  /// @param meant the keys that misspelt ones probably mean: these are not missing
  Reader(const Node& node, const std::string& owner, std::vector<std::string> meant,
         Problems& problems)
      : node_(node), owner_(owner), meant_(std::move(meant)), problems_(problems) {}

 protected:
  void visit(const Key& key, OptionValue target) override {
    claimed_.push_back(key.name);
    problems_.attempt([&] { read(key, target); });
  }

  void visit_rest(const Rest&, Node* value) override {
    *value = node_.without(claimed_);
    if (!node_.is_null()) return;
    *value = Node::mapping();
    value->set_place(node_.place());
    value->set_path(node_.path());
  }

 private:
  void read(const Key& key, OptionValue target) const {
    if (const Node* found = node_.find(key.name)) {
      std::visit([&](const auto& member) { read_member(*found, key, member); }, target);
    } else if (key.required && std::find(meant_.begin(), meant_.end(), key.name) == meant_.end()) {
      absent(node_, key.name).fail(fmt::format("is missing; {} requires it", owner_));
    }
  }

  template <class T>
  static void read_member(const Node& node, const Key& key, T* value) {
    read_value(node, key, *value);
  }
  static void read_member(const Node& node, const Key& key, const TextOption& option) {
    std::optional<std::string> text;
    if (option.numeric && node.is_number()) {
      text = node.text();
    } else if (!option.nullable || !node.is_null()) {
      read_value(node, key, text.emplace());
    }
    try {
      option.set(option.member, text);
    } catch (const OptionError& error) {
      node.fail(error.problem());
    } catch (const ConfigError& error) {
      node.fail(error.what());
    }
  }

  static void read_member(const Node& node, const Key& key, const NestedOption& option) {
    if (node.is_null()) return option.reset(option.member);
    if (!node.is_mapping()) node.fail(fmt::format("must be a mapping, got {}", node.kind_name()));
    read_options(node, *option.emplace(option.member), key.name);
  }

  const Node& node_;
  const std::string& owner_;
  const std::vector<std::string> meant_;
  Problems& problems_;
  std::vector<std::string> claimed_;
};

class Checker : public OptionReader {
 public:
  explicit Checker(const std::string& owner) : owner_(owner) {}

  void key(const Key& key, ConstOptionValue value) override {
    std::visit([&](const auto* present) { check(*present, key, key.name); }, value);
  }
  void rest(const Rest&, const Node&) override {}

 private:
  template <class T>
  void check(const T& value, const Key& key, const std::string& name) const {
    const std::string problem = problem_of(value, key);
    if (!problem.empty()) fail<ConfigError>("{}: {}: {}", owner_, name, problem);
  }

  template <class T>
  void check(const std::optional<T>& value, const Key& key, const std::string& name) const {
    if (value) check(*value, key, name);
  }

  template <class T>
  void check(const std::vector<T>& values, const Key& key, const std::string& name) const {
    for (size_t i = 0; i < values.size(); ++i) {
      check(values[i], key, fmt::format("{}[{}]", name, i));
    }
  }

  const std::string& owner_;
};

// Adds a problem for each unknown key, and returns the known ones that they probably mean.
std::vector<std::string> refuse_unknown_keys(const Node& node, const Options& options,
                                             const std::string& owner, Problems& problems) {
  NameCollector known;
  options.inspect(known);
  std::vector<std::string> meant;
  if (known.takes_rest || node.is_null()) return meant;
  std::vector<std::string> sorted = known.names;
  std::sort(sorted.begin(), sorted.end());
  for (const auto& entry : node.entries()) {
    const std::string& name = entry.first;
    if (std::binary_search(sorted.begin(), sorted.end(), name)) continue;
    const std::string nearest = nearest_name(name, known.names);
    if (!nearest.empty()) meant.push_back(nearest);
    problems.attempt([&] {
      if (sorted.empty()) entry.second.fail(fmt::format("unknown key; {} takes no keys", owner));
      entry.second.fail(
          fmt::format("unknown key; {}{} takes: {}",
                      nearest.empty() ? "" : fmt::format("did you mean '{}'? ", nearest), owner,
                      fmt::join(sorted, ", ")));
    });
  }
  return meant;
}

}  // namespace

void read_options(const Node& node, Options& options, const std::string& owner) {
  Problems problems;
  Reader reader(node, owner, refuse_unknown_keys(node, options, owner, problems), problems);
  options.visit(reader);
  problems.throw_all();  // validate() would judge defaults in place of what could not be read
  options.keep_places(node);
  try {
    options.validate();
  } catch (const OptionError& error) {
    fail_at(node, error, owner);
  } catch (const ProblemsError&) {  // of a node that the options keep: it has its place
    throw;
  } catch (const ConfigError& error) {
    if (node.prefix().empty()) fail<ConfigError>("{}: {}", owner, error.what());
    node.fail(error.what());
  }
}

void fail_at(const Node& block, const OptionError& error, const std::string& owner) {
  const Node* value = find_part(block, error.key());
  if (value && !value->prefix().empty()) {
    Node named = *value;
    named.set_path(block.path_of(error.key()));
    named.fail(error.problem());
  }
  if (block.prefix().empty()) fail<ConfigError>("{}: {}", owner, error.what());
  absent(block, error.key()).fail(error.problem());
}

void check_options(const Options& options, const std::string& owner) {
  Checker checker(owner);
  options.inspect(checker);
  try {
    options.validate();
  } catch (const ConfigError& error) {
    fail<ConfigError>("{}: {}", owner, error.what());
  }
}

}  // namespace polyak
