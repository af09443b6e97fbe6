// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/average_scope.h"

#include <algorithm>
#include <regex>
#include <set>

#include "polyak/config/nearest.h"
#include "polyak/core/text.h"

namespace polyak {
namespace {

// libstdc++'s usual matcher takes exponential time for patterns such as (a+)+$, and names come from
// the model. The other one takes linear time, without references back.
#ifdef __GLIBCXX__
constexpr auto kSyntax = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
constexpr auto kSyntax = std::regex::ECMAScript;
#endif
// Compiling nested groups takes stack.
constexpr size_t kLongestPattern = 1000;

std::string text_of(const std::regex_error& error, const std::string& pattern) {
  // libstdc++ reports that as a parenthesis.
  const bool repeats_nothing = std::string("*+?").find(pattern.front()) != std::string::npos;
  switch (repeats_nothing ? std::regex_constants::error_badrepeat : error.code()) {
    case std::regex_constants::error_brack:
      return "a '[' has no ']'";
    case std::regex_constants::error_paren:
      return "a '(' has no ')', or a ')' no '('";
    case std::regex_constants::error_brace:
    case std::regex_constants::error_badbrace:
      return "the numbers in {} are wrong";
    case std::regex_constants::error_range:
      return "a range such as [z-a] is backwards";
    case std::regex_constants::error_escape:
      return "a '\\' stands before a character that has no such meaning";
    case std::regex_constants::error_badrepeat:
      return "there is nothing before '*', '+' or '?' to repeat; for any text write '.*'";
    case std::regex_constants::error_ctype:
    case std::regex_constants::error_collate:
      return "a [: :] or [. .] names no class of characters";
    case std::regex_constants::error_backref:
    case std::regex_constants::error_complexity:
      return "references back, such as \\1, are not supported";
    default:
      return "it is too large";
  }
}

std::regex compile(const std::string& pattern, const std::string& key) {
  if (pattern.empty()) {
    throw OptionError(key, "is empty, which matches every name; write '.*' if that is meant");
  }
  if (pattern.size() > kLongestPattern) {
    throw OptionError(key, fmt::format("has {} characters; a pattern has at most {}",
                                       pattern.size(), kLongestPattern));
  }
  try {
    return std::regex(pattern, kSyntax);
  } catch (const std::regex_error& error) {
    throw OptionError(
        key, fmt::format("'{}' is not a regular expression: {}", pattern, text_of(error, pattern)));
  }
}

std::string element(const char* key, size_t i) {
  return fmt::format("{}[{}]", key, i);
}

/// The text that a pattern is likely to mean: without anchors, escapes and wildcards.
std::string plain_text(const std::string& pattern) {
  std::string text;
  for (const char c : pattern) {
    if (std::string("^$\\*+?()[]{}|").find(c) == std::string::npos) text.push_back(c);
  }
  while (!text.empty() && text.back() == '.') text.pop_back();
  while (!text.empty() && text.front() == '.') text.erase(0, 1);
  return text;
}

/// The parts of names that a pattern may mean: "a", "a.b" and "a.b.weight", and each step alone.
std::vector<std::string> parts_of(const std::vector<std::string>& names) {
  std::set<std::string> parts;
  for (const std::string& name : names) {
    size_t begin = 0;
    for (size_t dot = name.find('.');; dot = name.find('.', begin)) {
      parts.insert(name.substr(0, dot));
      parts.insert(name.substr(begin, dot == std::string::npos ? dot : dot - begin));
      if (dot == std::string::npos) break;
      begin = dot + 1;
    }
  }
  return {parts.begin(), parts.end()};
}

}  // namespace

// ---- options

void AverageScope::visit(OptionVisitor& visitor) {
  visitor.key("include", &include,
              "Regular expressions of the parameters to average; empty: all. The others are shared "
              "with the model.");
  visitor.key("exclude", &exclude,
              "Regular expressions of parameters that are not averaged; they share the model's "
              "memory.");
  visitor.key("keep", &keep,
              "Regular expressions of parameters that keep the value of the first update.");
  visitor.any("buffers", &buffers, "list of mappings",
              "List of {match: pattern, mode: average, copy or keep} for buffers; the first that "
              "matches counts, update_buffers decides on the others.");
  visitor.key("share_frozen", &share_frozen,
              "Share parameters that do not require a gradient with the model, until they do.");
}

void AverageScope::check() const {
  const auto check_list = [](const char* key, const std::vector<std::string>& patterns) {
    for (size_t i = 0; i < patterns.size(); ++i) compile(patterns[i], element(key, i));
  };
  check_list("include", include);
  check_list("exclude", exclude);
  check_list("keep", keep);
  const std::vector<BufferRule> rules = buffer_rules();
  for (size_t i = 0; i < rules.size(); ++i) {
    compile(rules[i].match, element("buffers", i) + ".match");
  }
}

bool AverageScope::has_buffer_rules() const {
  return !buffers.is_null() && !(buffers.is_sequence() && buffers.items().empty());
}

std::vector<BufferRule> AverageScope::buffer_rules() const {
  std::vector<BufferRule> rules;
  if (!has_buffer_rules()) return rules;
  if (!buffers.is_sequence() && !buffers.is_mapping()) {
    throw OptionError(
        "buffers", fmt::format("must be a list of {{match, mode}}, not {}", buffers.kind_name()));
  }
  const std::vector<Node> one =
      buffers.is_mapping() ? std::vector<Node>{buffers} : std::vector<Node>();
  const std::vector<Node>& items = buffers.is_mapping() ? one : buffers.items();
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string key = buffers.is_mapping() ? "buffers" : element("buffers", i);
    const Node& item = items[i];
    if (!item.is_mapping()) {
      throw OptionError(key, fmt::format("must be a mapping {{match: pattern, mode: average | copy "
                                         "| keep}}, not {}",
                                         item.kind_name()));
    }
    for (const auto& [name, value] : item.entries()) {
      if (name == "match" || name == "mode") continue;
      const std::string nearest = nearest_name(name, {"match", "mode"});
      throw OptionError(
          fmt::format("{}.{}", key, name),
          fmt::format("unknown key; {}a buffer's rule takes: match, mode",
                      nearest.empty() ? "" : fmt::format("did you mean '{}'? ", nearest)));
    }
    const auto text = [&, &item = item](const char* name) {
      const Node* value = item.find(name);
      if (!value) {
        throw OptionError(fmt::format("{}.{}", key, name),
                          "is missing; a buffer's rule has a match and a mode");
      }
      if (!value->is_scalar() || value->is_null()) {
        throw OptionError(fmt::format("{}.{}", key, name),
                          fmt::format("must be a string, not {}", value->kind_name()));
      }
      return value->text();
    };
    BufferRule rule;
    rule.match = text("match");
    const std::string mode = text("mode");
    bool known = false;
    for (const TensorMode one_of : {TensorMode::average, TensorMode::copy, TensorMode::keep}) {
      if (tensor_mode_name(one_of) != mode) continue;
      rule.mode = one_of;
      known = true;
    }
    if (!known) {
      const std::string nearest = nearest_name(mode, {"average", "copy", "keep"});
      throw OptionError(
          key + ".mode",
          fmt::format("must be one of average, copy, keep, got '{}'{}", mode,
                      nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
    }
    rules.push_back(std::move(rule));
  }
  return rules;
}

Node AverageScope::buffers_of(const std::vector<BufferRule>& rules) {
  Node list = Node::sequence();
  for (const BufferRule& rule : rules) {
    list.append(Node::mapping({{"match", rule.match}, {"mode", tensor_mode_name(rule.mode)}}));
  }
  return list;
}

bool AverageScope::operator==(const AverageScope& other) const {
  return include == other.include && exclude == other.exclude && keep == other.keep &&
         buffers == other.buffers && share_frozen == other.share_frozen;
}

// ---- matching

struct ScopeMatcher::Patterns {
  struct Pattern {
    std::string key;  // with its place in the list
    std::string text;
    std::regex expression;
    TensorMode mode = TensorMode::average;

    bool matches(const std::string& name) const { return std::regex_search(name, expression); }
  };
  std::vector<Pattern> include, exclude, keep, buffers;

  static bool any(const std::vector<Pattern>& patterns, const std::string& name) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const Pattern& pattern) { return pattern.matches(name); });
  }
};

ScopeMatcher::ScopeMatcher(const AverageScope& scope, bool update_buffers)
    : update_buffers_(update_buffers) {
  auto patterns = std::make_unique<Patterns>();
  const auto add = [](const char* key, const std::vector<std::string>& texts) {
    std::vector<Patterns::Pattern> compiled;
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string place = element(key, i);
      compiled.push_back({place, texts[i], compile(texts[i], place)});
    }
    return compiled;
  };
  patterns->include = add("include", scope.include);
  patterns->exclude = add("exclude", scope.exclude);
  patterns->keep = add("keep", scope.keep);
  for (const BufferRule& rule : scope.buffer_rules()) {
    const std::string place = element("buffers", patterns->buffers.size()) + ".match";
    patterns->buffers.push_back({place, rule.match, compile(rule.match, place), rule.mode});
  }
  patterns_ = std::move(patterns);
}

ScopeMatcher::~ScopeMatcher() = default;
ScopeMatcher::ScopeMatcher(ScopeMatcher&&) noexcept = default;
ScopeMatcher& ScopeMatcher::operator=(ScopeMatcher&&) noexcept = default;

TensorMode ScopeMatcher::mode_of(const std::string& name, bool buffer) const {
  const Patterns& all = *patterns_;
  if (buffer) {
    const auto rule = std::find_if(all.buffers.begin(), all.buffers.end(),
                                   [&](const auto& pattern) { return pattern.matches(name); });
    if (rule != all.buffers.end()) return rule->mode;
    return update_buffers_ ? TensorMode::average : TensorMode::copy;
  }
  if (Patterns::any(all.keep, name)) return TensorMode::keep;
  if (Patterns::any(all.exclude, name)) return TensorMode::share;
  return all.include.empty() || Patterns::any(all.include, name) ? TensorMode::average
                                                                 : TensorMode::share;
}

void ScopeMatcher::check_matched(const std::vector<std::string>& parameters,
                                 const std::vector<std::string>& buffers) const {
  const auto check = [&](const std::vector<Patterns::Pattern>& patterns, bool of_buffers) {
    const std::vector<std::string>& names = of_buffers ? buffers : parameters;
    const std::vector<std::string>& others = of_buffers ? parameters : buffers;
    for (const Patterns::Pattern& pattern : patterns) {
      const auto matches = [&](const std::string& name) { return pattern.matches(name); };
      if (std::any_of(names.begin(), names.end(), matches)) continue;
      const char* const kind = of_buffers ? "buffers" : "parameters";
      if (std::any_of(others.begin(), others.end(), matches)) {
        throw OptionError(pattern.key,
                          fmt::format("'{}' matches {} only; {}", pattern.text,
                                      of_buffers ? "parameters" : "buffers",
                                      of_buffers ? "include, exclude and keep are for those"
                                                 : "the key 'buffers' has the rules for those"));
      }
      const std::string nearest = nearest_name(plain_text(pattern.text), parts_of(names));
      throw OptionError(
          pattern.key,
          fmt::format("'{}' matches none of the model's {} {}; {}they are {}", pattern.text,
                      names.size(), kind,
                      nearest.empty() ? "" : fmt::format("did you mean '{}'? ", nearest),
                      names.empty() ? "none" : list_names(names)));
    }
  };
  check(patterns_->include, false);
  check(patterns_->exclude, false);
  check(patterns_->keep, false);
  check(patterns_->buffers, true);
}

}  // namespace polyak
