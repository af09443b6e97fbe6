// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "polyak/config/json.h"

namespace polyak {
namespace {

/// Keys of an average's block that need what a compiled program does not tell.
void refuse_unknown(const Node& block) {
  if (!block.is_mapping()) return;  // EMAHook itself says what is wrong
  if (const Node* samples = block.find("base_batch_size"); samples && !samples->is_null()) {
    samples->fail("attach does not see the samples of a step; remove the key");
  }
  const Node* const write_back = block.find("write_back");
  const Node* const reset =
      write_back && write_back->is_mapping() ? write_back->find("optimizer_state") : nullptr;
  if (reset && reset->is_scalar() && reset->text() == "reset") {
    reset->fail("attach cannot reset a program's optimizer; remove the key");
  }
  for (const char* key : {"include", "exclude", "keep", "buffers"}) {
    const Node* patterns = block.find(key);
    if (!patterns || patterns->is_null()) continue;
    patterns->fail(
        "the names of a compiled program's tensors are known only when it saves them, so patterns "
        "cannot choose among them; remove the key");
  }
}

}  // namespace

void AttachConfig::visit(OptionVisitor& visitor) {
  visitor.required_component("custom_hooks", &custom_hooks, "hook", "A list of EMAHooks.",
                             Blocks::Form::list);
  visitor.key("output_dir", &output_dir,
              "Folder for the averages; null: ./work_dirs/<name of the config>.");
  visitor.key("every", &every,
              "Optimizer steps between two writes of the averages; 0: write only at program exit.",
              steps_from(0));
  visitor.key(
      "max_iters", &max_iters,
      "Optimizer steps of the whole run. CosineEMA requires it, as programs do not state it.",
      steps_from(1));
  visitor.key("names", &names,
              "Names of the averages, in the order in which the program creates its optimizers.");
  visitor.key("siblings", &siblings,
              "Where to write the averaged version of a file that the program saves: beside it, or "
              "in a folder.");
  visitor.any("streams", &streams, "{keep: N}, none, all or null",
              "How many averaged copies of saves to streams to keep: {keep: N}, none or all; null: "
              "{keep: 2}.");
  visitor.choice("format", &format, {"pth", "pt"},
                 "pt: also write averages*.pt, which torch::load reads.");
  visitor.key("every_rank", &every_rank,
              "With several processes, all of them write, the others than the first into "
              "output_dir/rank_N; off: only the first.");
}

std::optional<int64_t> AttachConfig::streams_kept() const {
  constexpr int64_t kDefault = 2;
  if (streams.is_null()) return kDefault;
  if (streams.is_scalar()) {
    const std::string text = streams.text();
    if (text == "all") return std::nullopt;
    if (text == "none") return 0;
  }
  if (streams.is_mapping() && streams.entries().size() == 1 && streams.find("keep") &&
      streams.find("keep")->is_int() && streams.find("keep")->as_int() >= 1) {
    return streams.find("keep")->as_int();
  }
  fail_option("streams", "must be {{keep: N}} with N at least 1, none, or all");
}

void AttachConfig::validate() const {
  if (output_dir && output_dir->empty()) {
    fail_option("output_dir", "must not be empty; set a folder, or omit the key");
  }
  if (siblings.empty()) fail_option("siblings", "must be 'beside' or the name of a folder");
  streams_kept();
  std::set<std::string> known;
  for (const std::string& name : names) {
    const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
    });
    if (!plain) {
      fail_option("names",
                  "'{}' is not valid in a file name; use letters, digits, '_', '-' and '.'", name);
    }
    if (!known.insert(name).second) fail_option("names", "'{}' is listed twice", name);
  }
  if (custom_hooks.items().empty()) custom_hooks.fail("is empty; list at least one EMAHook");
  for (const Node& hook : custom_hooks.items()) {
    const Node& type = hook.at("type");
    if (type.as_string() != "EMAHook") {
      type.fail(fmt::format(
          "'{}' does not work in a compiled program, whose data and epochs are unknown; attach "
          "supports EMAHook",
          type.text()));
    }
    refuse_unknown(hook);
    if (const Node* averages = hook.find("averages"); averages && averages->is_sequence()) {
      for (const Node& average : averages->items()) refuse_unknown(average);
    }
    const Node* epoch = hook.find("begin_epoch");
    if (epoch && epoch->as_int() != 0) {
      epoch->fail("attach sees no epochs; use begin_iter, which counts optimizer steps");
    }
  }
}

AttachConfig read_attach_config(const Node& config) {
  AttachConfig options;
  read_options(config, options, "attach");
  return options;
}

std::string to_json(const AttachConfig& config) {
  return json_of(options_to_node(config)).dump();
}

AttachConfig attach_config_from(const std::string& json) {
  return read_attach_config(node_of(nlohmann::ordered_json::parse(json)));
}

}  // namespace polyak
