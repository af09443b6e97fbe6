// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/class_names.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "polyak/core/log.h"

namespace polyak {
namespace {

/// The names that are missing in `others`.
std::vector<std::string> without(const std::vector<std::string>& names,
                                 const std::vector<std::string>& others) {
  std::vector<std::string> rest;
  std::copy_if(names.begin(), names.end(), std::back_inserter(rest), [&](const std::string& name) {
    return std::find(others.begin(), others.end(), name) == others.end();
  });
  return rest;
}

}  // namespace

std::string name_list(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    shown.push_back(fmt::format("'{}'", names[i]));
  }
  return fmt::format(
      "{}{}", fmt::join(shown, ", "),
      names.size() > kShown ? fmt::format(" and {} more", names.size() - kShown) : "");
}

std::vector<std::string> classes_to_learn(const Dataset& training) {
  return training.num_labelled() > 0 ? training.classes() : std::vector<std::string>();
}

Value make_dataset_meta(const std::vector<std::string>& classes) {
  Value dataset_meta = Value::dict();
  dataset_meta.set("classes", Value::list(std::vector<Value>(classes.begin(), classes.end())));
  return dataset_meta;
}

std::vector<std::string> classes_of_checkpoint(const Value& checkpoint) {
  const Value* value = &checkpoint;
  for (const char* key : {"meta", "dataset_meta", "classes"}) {
    value = value->is_dict() ? value->find(key) : nullptr;
    if (value == nullptr) return {};
  }
  if (value->kind() != Value::Kind::list && value->kind() != Value::Kind::tuple) return {};
  std::vector<std::string> classes;
  for (const Value& name : value->items()) {
    if (name.kind() != Value::Kind::string) return {};
    classes.push_back(name.as_string());
  }
  return classes;
}

bool named_otherwise(const Value& checkpoint, const std::vector<std::string>& classes) {
  const std::vector<std::string> names = classes_of_checkpoint(checkpoint);
  return !checkpoint.contains("polyak") && names.size() == classes.size() &&
         without(names, classes).size() == names.size();
}

void check_same_classes(const Value& checkpoint, const std::string& file,
                        const std::vector<std::string>& classes) {
  const std::vector<std::string> before = classes_of_checkpoint(checkpoint);
  if (before.empty() || classes.empty() || before == classes) return;
  if (named_otherwise(checkpoint, classes)) {
    log_warning(
        "{}: its class names differ from the training data's ({}; {}); assuming the same classes "
        "in the same order",
        file, name_list(before), name_list(classes));
    return;
  }
  const std::vector<std::string> gone = without(before, classes), added = without(classes, before);
  std::vector<std::string> parts;
  if (!gone.empty()) parts.push_back("without " + name_list(gone));
  if (!added.empty()) parts.push_back("with the new " + name_list(added));
  if (parts.empty()) parts.push_back("in a different order");
  fail<CheckpointError>(
      "{}: was trained on {} classes, but the training data has {}: {}; labels would mean "
      "different classes. Only a run with the same classes can be resumed; load_from without "
      "resume loads the weights",
      file, before.size(), classes.size(), fmt::join(parts, ", "));
}

}  // namespace polyak
