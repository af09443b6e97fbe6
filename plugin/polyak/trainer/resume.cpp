// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <optional>

#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/tensor_names.h"
#include "polyak/trainer/optimizer_state.h"
#include "polyak/trainer/saved_numbers.h"

namespace polyak {
namespace {

/// The config that a checkpoint was trained with; null if there is none that can be read:
/// MMEngine's are Python.
Node config_of(const Value& checkpoint) {
  const Value* meta = checkpoint.find("meta");
  const Value* text = meta && meta->is_dict() ? meta->find("cfg") : nullptr;
  if (!text || text->kind() != Value::Kind::string) return {};
  try {
    const Node config = parse_config(text->as_string(), "meta.cfg");
    return config.is_mapping() ? config : Node();
  } catch (const ConfigError&) {
    return {};
  }
}

/// optim_wrapper.optimizer.type, or "".
std::string optimizer_type(const Node& config) {
  const Node* node = &config;
  for (const char* key : {"optim_wrapper", "optimizer", "type"}) {
    node = node->is_mapping() ? node->find(key) : nullptr;
    if (!node) return "";
  }
  return node->is_scalar() ? node->text() : "";
}

/// The same for MMEngine's configs, which are Python: `optimizer=dict(lr=0.1, type='SGD')` in
/// optim_wrapper; "" if it is not written in this form.
std::string python_optimizer_type(const std::string& config) {
  const std::string start = "optimizer=dict(";
  size_t at = config.find(start, std::min(config.find("optim_wrapper"), config.size()));
  if (at == std::string::npos) return "";
  at += start.size();
  int depth = 1;
  for (size_t i = at; i < config.size() && depth > 0; ++i) {
    if (config[i] == '(') ++depth;
    if (config[i] == ')') --depth;
    const bool is_key = config.compare(i, 6, "type='") == 0 &&
                        std::isalnum(static_cast<unsigned char>(config[i - 1])) == 0;
    if (depth != 1 || !is_key) continue;
    const std::string type = config.substr(i + 6, config.find('\'', i + 6) - (i + 6));
    return type.substr(type.rfind('.') + 1);
  }
  return "";
}

/// The optimizer of a checkpoint's state, according to its groups or else to its config.
std::string saved_type(const Value& checkpoint) {
  const std::string of_groups = type_of_groups(checkpoint.at("optimizer"));
  const std::string of_config = optimizer_type(config_of(checkpoint));
  if (of_groups == "SGD" || of_groups == "Adam" || of_groups == "AdamW") return of_groups;
  if (!of_config.empty()) return of_config;
  const Value* meta = checkpoint.find("meta");
  const Value* text = meta && meta->is_dict() ? meta->find("cfg") : nullptr;
  if (!text || text->kind() != Value::Kind::string) return of_groups;
  const std::string of_python = python_optimizer_type(text->as_string());
  return of_python.empty() ? of_groups : of_python;
}

/// A number that differs between two optimizers.
struct Number {
  std::string name;
  std::string config;
  std::string checkpoint;
};

std::vector<Number> different_numbers(const Optimizer& optimizer, const Value& checkpoint) {
  std::vector<Number> numbers;
  const Value state = optimizer.state_dict();
  const std::vector<Value>& ours = state.at("param_groups").items();
  const std::vector<Value>& theirs = checkpoint.at("optimizer").at("param_groups").items();
  for (size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) {
    for (const auto& [key, value] : ours[i].entries()) {
      std::string name = key.as_string();
      if (name == "params" || name == "param_names" || name == "decoupled_weight_decay") continue;
      if (name == "lr") continue;  // a schedule moves it
      const Value* other = theirs[i].find(key);
      if (name == "initial_lr") {
        name = "lr";
        // Python's optimizers do not have it without schedulers.
        if (!other) other = theirs[i].find(name);
      }
      const std::string own = text_of(value);
      if (!other || text_of(*other) == own) continue;
      const bool known = std::any_of(numbers.begin(), numbers.end(), [&](const Number& number) {
        return number.name == name && number.config == own;
      });
      if (known) continue;
      numbers.insert(name == "lr" ? numbers.begin() : numbers.end(), {name, own, text_of(*other)});
    }
  }
  return numbers;
}

std::string text_of(const Node* node) {
  if (!node) return "missing";
  if (node->is_scalar()) return node->text();
  return node->is_null() ? "null" : node->is_sequence() ? "a list" : "a mapping";
}

/// The differences of two configs, each key once: "batch_size 32 (was 16)".
void compare(const Node* now, const Node* before, const std::string& path,
             std::vector<std::string>& found) {
  if (now && before && now->is_mapping() && before->is_mapping()) {
    const std::string start = path.empty() ? "" : path + ".";
    for (const auto& [key, node] : now->entries()) {
      compare(&node, before->find(key), start + key, found);
    }
    for (const auto& [key, node] : before->entries()) {
      if (!now->find(key)) compare(nullptr, &node, start + key, found);
    }
  } else if (now && before && now->is_sequence() && before->is_sequence() &&
             now->items().size() == before->items().size()) {
    for (size_t i = 0; i < now->items().size(); ++i) {
      compare(&now->items()[i], &before->items()[i], fmt::format("{}[{}]", path, i), found);
    }
  } else if ((now ? *now : Node()) != (before ? *before : Node())) {
    const std::string was = text_of(before);
    found.push_back(text_of(now) == was ? fmt::format("{} (changed)", path)
                                        : fmt::format("{} {} (was {})", path, text_of(now), was));
  }
}

/// The parts of a training config to compare with the checkpoint's: not its length, default hooks
/// or output folders.
Node training_part(const Node& config, const Optimizer& optimizer) {
  Node part = Node::mapping();
  for (const char* key :
       {"model", "train_dataloader", "optim_wrapper", "param_scheduler", "custom_hooks"}) {
    const Node* node = config.find(key);
    if (node && !node->is_null()) part.set(key, *node);
  }
  if (const Node* loop = config.find("train_cfg"); loop && loop->is_mapping()) {
    part.set("train_cfg", loop->without({"max_epochs", "max_iters"}));
  }
  Node* wrapper = part.find("optim_wrapper");
  const Node* own = wrapper && wrapper->is_mapping() ? wrapper->find("optimizer") : nullptr;
  if (!own || !own->is_mapping()) return part;
  std::vector<std::string> numbers;  // compared by value
  const Value state = optimizer.state_dict();
  for (const auto& [key, value] : state.at("param_groups").items().front().entries()) {
    numbers.push_back(key.as_string());
  }
  wrapper->set("optimizer", own->without(numbers));
  return part;
}

}  // namespace

void take_over_optimizer(const Optimizer& optimizer, Value& checkpoint, const Node& config,
                         bool numbers_of_config, const std::string& file) {
  name_file_in_errors(file, [&] {
    const std::string now = optimizer_type(config), before = saved_type(checkpoint);
    const bool is_adam = now == "Adam" || now == "AdamW";
    const bool both_adam = is_adam && (before == "Adam" || before == "AdamW");
    const bool unsure = is_adam && before == "Adam or AdamW";
    // A plugin's optimizer checks its own state.
    const bool unknown = before == "another optimizer" && optimizer.type().empty();
    if (before != now && !unsure && !unknown && !(both_adam && numbers_of_config)) {
      fail<CheckpointError>(
          "contains the optimizer state of {}, but optim_wrapper.optimizer.type is {}; resume with "
          "{}, or load only its weights, by load_from without resume{}",
          before, now, before, both_adam ? "; resume_options: config uses its state" : "");
    }
    if (unsure) {
      log_info(
          "resume: the checkpoint does not say whether its optimizer is Adam or AdamW; it is "
          "resumed as {}",
          now);
    }
    Value state = match_optimizer_state(optimizer, checkpoint, numbers_of_config);
    optimizer.check_state_dict(state);
    checkpoint.set("optimizer", std::move(state));
  });
}

void log_resumed_differences(const Optimizer& optimizer, const Value& checkpoint,
                             const Node& config, bool numbers_of_config) {
  std::vector<std::string> numbers;
  for (const Number& number : different_numbers(optimizer, checkpoint)) {
    numbers.push_back(numbers_of_config ? fmt::format("{} {} (the checkpoint's was {})",
                                                      number.name, number.config, number.checkpoint)
                                        : fmt::format("{} {} (the config says {})", number.name,
                                                      number.checkpoint, number.config));
  }
  if (!numbers.empty() && numbers_of_config) {
    log_info("resume: using the config's settings: {}", list_names(numbers));
  } else if (!numbers.empty()) {
    log_warning(
        "resume: using the checkpoint's settings: {}; resume_options: config uses the config's",
        list_names(numbers));
  }

  const Node before = config_of(checkpoint);
  if (before.is_null()) return;
  std::vector<std::string> others;
  const Node ours = training_part(config, optimizer), theirs = training_part(before, optimizer);
  compare(&ours, &theirs, "", others);
  if (!others.empty()) {
    log_info("resume: the config differs from the checkpoint's; from here on {}",
             list_names(others));
  }
}

}  // namespace polyak
