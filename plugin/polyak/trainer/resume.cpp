// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/optim/saved_numbers.h"
#include "polyak/optim/saved_state.h"
#include "polyak/optim/saved_type.h"
#include "polyak/runtime/run_checkpoint.h"

namespace polyak {
namespace {

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
      const bool is_scheduled = theirs[i].contains("initial_momentum");
      if (is_scheduled && (name == "momentum" || name == "betas")) continue;
      if (name == "initial_momentum") name = "momentum";
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

/// The checkpoint's state in the order and the groups of the config's optimizer.
/// @throws CheckpointError if it does not fit
Value match_optimizer_state(const Optimizer& optimizer, const Value& checkpoint, bool own_numbers) {
  StateOwner owner;
  owner.type = optimizer.type();
  owner.groups = optimizer.state_dict().at("param_groups").items();
  owner.names = optimizer.names();
  owner.state_names = [&](const Value& group) { return optimizer.state_names(group); };
  owner.own_numbers = own_numbers;
  owner.regroup = "set paramwise_cfg as it was";
  owner.renumber = "set optim_wrapper.paramwise_cfg as it was, or resume_options: config";
  if (!own_numbers) owner.one_rate = "resume_options: config uses the config's";
  owner.without_state = "load only the weights, by load_from without resume";
  MatchedState matched = match_state(owner, checkpoint);
  // Before the first step, no parameter has a state.
  const int64_t iters = checkpoint.at("meta").at("iter").as_int();
  const Value* extra = checkpoint.find("polyak");
  const Value* counts = extra ? extra->find("accumulative_counts") : nullptr;
  if (matched.lacks_state && iters >= (counts ? counts->as_int() : 1)) {
    fail<CheckpointError>(
        "optimizer: it contains no state of any parameter after {} iterations; {}", iters,
        owner.without_state);
  }
  return std::move(matched.state);
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
    const bool unknown = is_foreign_type(before) && optimizer.type().empty();
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
    if (const Value* scale = checkpoint.at("optimizer").find("loss_scaler")) {
      state.set("loss_scaler", *scale);
    }
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
