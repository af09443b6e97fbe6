// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/ema_hook.h"

namespace polyak {
namespace {

UpdateCount parse_update_count(const std::string& name) {
  if (name == "iterations") return UpdateCount::iterations;
  if (name == "optimizer_steps") return UpdateCount::optimizer_steps;
  fail_option("count", "must be optimizer_steps or iterations, got '{}'", name);
}

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
  visitor.rest(&average_, "The keys of the average that ema_type names.");
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
}

void EMAHookOptions::keep_places(const Node& block) {
  if (const Node* type = block.find("ema_type")) type_place_ = type->place();
}

Node EMAHookOptions::average_node() const {
  Node type(ema_type_);
  const bool is_written = type_place_.line > 0 || !type_place_.file.empty();
  type.set_place(is_written ? type_place_ : average_.place());
  Node node = average_;
  node.set("type", type).set_path(node.path_of("ema_type"));
  return node;
}

}  // namespace polyak
