// SPDX-License-Identifier: Apache-2.0
#include "polyak/embed/loop_config.h"

namespace polyak {
namespace {

void check_length(const char* name, std::optional<int64_t> value) {
  if (value && *value < 1) {
    fail<ConfigError>("LoopHooksSettings: {}: must be at least 1, got {}", name, *value);
  }
  if (value && !steps_from(1).contains(static_cast<double>(*value))) {
    fail<ConfigError>("LoopHooksSettings: {}: must be {}, got {}", name, steps_from(1).text(),
                      *value);
  }
}

}  // namespace

void LoopConfig::visit(OptionVisitor& visitor) {
  visitor.component("custom_hooks", &custom_hooks, "hook", "List of hooks.", Blocks::Form::list);
  visitor.component("default_hooks", &default_hooks, "hook",
                    "More hooks by name, before the others.", Blocks::Form::by_name);
  visitor.key("plugins", &plugins, "Paths or names of shared libraries with more hooks.");
  visitor.key("work_dir", &work_dir, "Folder for output files; null: none.");
  visitor.key("max_epochs", &max_epochs, "Epochs of the run, if the loop states no length.",
              steps_from(1));
  visitor.key("max_iters", &max_iters, "Iterations of the run, if the loop states no length.",
              steps_from(1));
}

std::vector<Node> LoopConfig::hooks() const {
  std::vector<Node> nodes;
  if (!default_hooks.is_null()) {
    for (const auto& [name, node] : default_hooks.entries()) {
      if (!node.is_null()) nodes.push_back(node);
    }
  }
  if (!custom_hooks.is_null()) {
    for (const Node& node : custom_hooks.items()) nodes.push_back(node);
  }
  return nodes;
}

RunLength length_of_loop(const StatedLength& stated, const LoopConfig& config, const Node& node) {
  check_length("max_epochs", stated.max_epochs);
  check_length("epoch_length", stated.epoch_length);
  check_length("max_iters", stated.max_iters);
  check_length("batch_size", stated.batch_size);
  check_length("accumulative_counts", stated.accumulative_counts);
  std::optional<int64_t> epochs = stated.max_epochs, iters = stated.max_iters;
  if (epochs || iters) {
    for (const char* key : {"max_epochs", "max_iters"}) {
      const Node* given = node.find(key);
      if (!given || given->is_null()) continue;
      given->fail(
          "the training loop states its own length; leave this out (an average has "
          "its own max_iters)");
    }
  } else {
    epochs = config.max_epochs;
    iters = config.max_iters;
  }
  if (epochs && stated.epoch_length) {
    const int64_t length = *stated.epoch_length;
    const double all = static_cast<double>(*epochs) * static_cast<double>(length);
    if (!steps_from(1).contains(all)) {
      fail<ConfigError>("LoopHooks: {} epochs of {} iterations are {:.3g}; a run has at most 2^53",
                        *epochs, length, all);
    }
    if (iters && *iters != *epochs * length) {
      fail<ConfigError>(
          "LoopHooksSettings: max_iters is {}, but {} epochs of {} iterations are {}; leave "
          "max_iters out",
          *iters, *epochs, length, *epochs * length);
    }
    iters = *epochs * length;
  }
  RunLength length;
  length.by_epoch = epochs || !iters;
  length.max_epochs = epochs.value_or(length.by_epoch ? 0 : 1);
  length.max_iters = iters.value_or(0);
  length.epoch_length = stated.epoch_length.value_or(0);
  length.accumulative_counts = stated.accumulative_counts;
  length.batch_size = stated.batch_size.value_or(0);
  return length;
}

}  // namespace polyak
