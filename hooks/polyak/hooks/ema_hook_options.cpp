// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/ema_hook.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace polyak {
namespace {

constexpr const char* kDefaultType = "ExponentialMovingAverage";

UpdateCount parse_update_count(const std::string& name) {
  if (name == "iterations") return UpdateCount::iterations;
  if (name == "optimizer_steps") return UpdateCount::optimizer_steps;
  fail_option("count", "must be optimizer_steps or iterations, got '{}'", name);
}

Rest rest_of_type(const char* type_key, const char* doc) {
  Rest rest{doc};
  rest.kind = AveragedModel::kKind;
  rest.type_key = type_key;
  rest.type = kDefaultType;
  return rest;
}

/// An entry of `averages`.
struct AverageEntry : Options {
  std::string type = kDefaultType;
  std::string name;
  bool own_file = false;
  Node average = Node::mapping();

  void visit(OptionVisitor& visitor) override {
    visitor.key("type", &type, "The average to keep.");
    visitor.key("name", &name, "Distinguishes the averages; one may have none.");
    visitor.key("own_file", &own_file, "Write the average into a file of its own.");
    visitor.rest(&average, rest_of_type("type", "The keys of the average that type names."));
  }
};

}  // namespace

std::string update_count_name(UpdateCount count) {
  return count == UpdateCount::iterations ? "iterations" : "optimizer_steps";
}

EMAHookOptions& EMAHookOptions::count(const std::string& name) {
  return count(parse_update_count(name));
}

void EMAHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("ema_type", &ema_type_, "The average to keep; its own keys go next to this one.");
  visitor.key("begin_iter", &begin_iter_,
              "The first iteration that counts, from 1; 0 and 1 are the same.", steps_from(0));
  visitor.key("begin_epoch", &begin_epoch_,
              "The first epoch that counts, from 1; not with begin_iter.", steps_from(0));
  visitor.text<update_count_name, parse_update_count>(
      "count", &count_, {"optimizer_steps", "iterations"},
      "What counts as an update; iterations, as in MMEngine, is wrong with accumulative_counts.");
  visitor.key("evaluate_on_ema", &evaluate_on_ema_, "Validate and test the averaged weights.");
  visitor.key(
      "evaluate_on_origin", &evaluate_on_origin_,
      "Validate and test the raw weights; with evaluate_on_ema their metrics end in _origin.");
  visitor.key(
      "strict_load", &strict_load_,
      "Refuse a checkpoint whose names or shapes differ from the model's, instead of warning.");
  visitor.key("name", &name_,
              "Distinguishes several averages over one model; the first has no name.");
  visitor.key("own_file", &own_file_,
              "Write the average into a file of its own beside each checkpoint: epoch_3_NAME.pth.");
  visitor.block<AverageEntry>(
      "averages", &averages_,
      "Several averages instead of one: a list of mappings with an average's keys, its type "
      "(ExponentialMovingAverage by default) and its name.",
      Blocks::Form::list, "an entry of averages");
  visitor.key("evaluate", &evaluate_,
              "Names of the averages to evaluate, 'ema' for the one without a name; empty: all.");
  visitor.rest(&average_, rest_of_type("ema_type", "The keys of the average that ema_type names."));
}

void EMAHookOptions::validate() const {
  if (begin_iter_ != 0 && begin_epoch_ != 0) {
    fail_option(
        "begin_epoch",
        "begin_iter and begin_epoch cannot both be set; begin_iter is {}, begin_epoch is {}",
        begin_iter_, begin_epoch_);
  }
  if (name_.find_first_of(" \t/") != std::string::npos || name_ == "ema") {
    fail_option("name", "'{}' cannot name an average; use letters, digits and '_', but not 'ema'",
                name_);
  }
  split();  // for its errors
}

std::vector<EMAHookOptions> EMAHookOptions::of_each_average() const {
  try {
    return split();
  } catch (const OptionError& error) {
    fail_at(block_, error, "EMAHook");
  }
}

std::vector<EMAHookOptions> EMAHookOptions::split() const {
  if (averages_.is_null()) {
    if (!evaluate_.empty()) {
      fail_option("evaluate", "chooses among 'averages', which this block does not have");
    }
    return {*this};
  }
  if (!averages_.is_sequence() || averages_.items().empty()) {
    averages_.fail(
        "must be a list of averages, such as [{decay: 0.999}, {decay: 0.9999, name: b}]");
  }
  for (const auto& [key, value] : average_.entries()) {
    value.fail("belongs into an entry of 'averages', which this block has");
  }
  if (type_place_.line > 0 || !type_place_.file.empty()) {
    fail_option("ema_type", "is the 'type' of an entry of 'averages', which this block has");
  }
  if (!name_.empty()) fail_option("name", "belongs into an entry of 'averages'");
  std::vector<EMAHookOptions> all;
  std::vector<std::string> names;
  for (const Node& item : averages_.items()) {
    if (!item.is_mapping()) {
      item.fail(
          fmt::format("must be a mapping such as {{decay: 0.999}}, got {}", item.kind_name()));
    }
    EMAHookOptions options = *this;
    options.averages_ = Node();
    options.is_of_a_list_ = true;
    options.evaluate_.clear();
    options.average_ = item.without({"type", "name", "own_file"});
    if (const Node* own_file = item.find("own_file")) options.own_file_ = own_file->as_bool();
    if (const Node* type = item.find("type")) {
      options.ema_type_ = type->as_string();
      options.type_place_ = type->place();
    }
    options.type_key_ = "type";
    const Node* const name = item.find("name");
    if (name) options.name_ = name->as_string();
    try {
      options.validate();
    } catch (const OptionError& error) {
      (name ? *name : item).fail(error.problem());
    }
    const std::string title = options.name_.empty() ? "ema" : options.name_;
    if (std::find(names.begin(), names.end(), title) != names.end()) {
      (name ? *name : item)
          .fail(name ? fmt::format("is the name of an earlier average: '{}'", title)
                     : "is the second average without a name; give it a 'name'");
    }
    if (!evaluate_.empty()) {
      const bool wanted = std::find(evaluate_.begin(), evaluate_.end(), title) != evaluate_.end();
      options.evaluate_on_ema_ = evaluate_on_ema_ && wanted;
    }
    names.push_back(title);
    all.push_back(std::move(options));
  }
  for (size_t i = 0; i < evaluate_.size(); ++i) {
    if (std::find(names.begin(), names.end(), evaluate_[i]) != names.end()) continue;
    throw OptionError(fmt::format("evaluate[{}]", i),
                      fmt::format("'{}' is not an average of this block; they are: {}",
                                  evaluate_[i], fmt::join(names, ", ")));
  }
  return all;
}

void EMAHookOptions::keep_places(const Node& block) {
  block_ = block;
  if (const Node* type = block.find("ema_type")) type_place_ = type->place();
}

Node EMAHookOptions::average_node() const {
  Node type(ema_type_);
  const bool is_written = type_place_.line > 0 || !type_place_.file.empty();
  type.set_place(is_written ? type_place_ : average_.place());
  Node node = average_;
  node.set("type", type).set_path(node.path_of(type_key_));
  return node;
}

}  // namespace polyak
