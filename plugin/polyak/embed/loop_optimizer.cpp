// SPDX-License-Identifier: Apache-2.0
#include "polyak/embed/loop_optimizer.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/embed/optimizer_archive.h"
#include "polyak/optim/python_class.h"
#include "polyak/optim/saved_numbers.h"
#include "polyak/optim/saved_state.h"
#include "polyak/optim/saved_type.h"

namespace polyak {
namespace {

using torch::optim::Optimizer;

std::vector<at::Tensor> parameters_of(const Optimizer& optimizer) {
  std::vector<at::Tensor> parameters;
  for (const auto& group : optimizer.param_groups()) {
    parameters.insert(parameters.end(), group.params().begin(), group.params().end());
  }
  return parameters;
}

/// Parameters by their names in the model; "" for those outside it.
std::vector<std::string> names_of(const std::vector<at::Tensor>& parameters,
                                  const ModelRef& model) {
  std::unordered_map<const void*, std::string> names;
  for (const NamedTensor& item : model.tensors()) {
    names.emplace(item.tensor.unsafeGetTensorImpl(), item.name);
  }
  std::vector<std::string> found;
  for (const at::Tensor& parameter : parameters) {
    const auto known = names.find(parameter.unsafeGetTensorImpl());
    found.push_back(known == names.end() ? "" : known->second);
  }
  return found;
}

/// The class of an optimizer whose state Python's layout can hold; null if there is none.
const PythonClass* layout_of(const Optimizer& optimizer) {
  const std::vector<at::Tensor> parameters = parameters_of(optimizer);
  std::unordered_set<const void*> different;
  for (const at::Tensor& parameter : parameters) different.insert(parameter.unsafeGetTensorImpl());
  // The layout numbers the parameters, and each has one number.
  if (parameters.empty() || different.size() != parameters.size()) return nullptr;
  return python_class_of(optimizer);
}

/// For `param_names`: a tensor outside the model has a name that says so and that no other has.
std::vector<std::string> layout_names(std::vector<std::string> names) {
  int64_t outside = 0;
  for (std::string& name : names) {
    if (name.empty()) name = fmt::format("(outside the model: {})", ++outside);
  }
  return names;
}

/// The layout, with or without the parameters' states.
Value save_layout(const Optimizer& optimizer, const PythonClass& type,
                  const std::vector<std::string>& names, bool with_states) {
  std::vector<SavedGroup> groups;
  size_t next = 0;
  for (const auto& group : optimizer.param_groups()) {
    SavedGroup saved{type.group(group.options()), {}, {}};
    const Value defaults = type.defaults();
    for (const auto& [key, value] : defaults.entries()) saved.numbers.set(key, value);
    for (const at::Tensor& parameter : group.params()) {
      const auto found = optimizer.state().find(state_key(parameter));
      const bool has_state = with_states && found != optimizer.state().end();
      saved.states.push_back(has_state ? type.state(*found->second) : Value::dict());
      saved.names.push_back(names[next++]);
    }
    groups.push_back(std::move(saved));
  }
  return state_dict_of(std::move(groups));
}

/// "torch::optim::" is left out: a file has no names of C++.
std::string short_type(const Optimizer& optimizer) {
  const std::string type = type_of(optimizer), prefix = "torch::optim::";
  return type.compare(0, prefix.size(), prefix) == 0 ? type.substr(prefix.size()) : type;
}

void check_layout_type(const Optimizer& optimizer, const PythonClass* type,
                       const Value& checkpoint) {
  const std::string saved = saved_type(checkpoint);
  const std::string ours = type ? type->name() : short_type(optimizer);
  const bool unsure = saved == "Adam or AdamW" && (ours == "Adam" || ours == "AdamW");
  if (type && saved == ours) return;
  if (type && unsure) {
    log_info(
        "resume: the checkpoint does not say whether its optimizer is Adam or AdamW; it is "
        "resumed as {}",
        ours);
    return;
  }
  if (saved == ours || unsure) {
    fail<CheckpointError>(
        "holds the optimizer state of {} in Python's layout, which the loop's optimizer of that "
        "class cannot take (its parameters, options or states are not as LibTorch makes them); "
        "pass no optimizer to continue without its state",
        saved);
  }
  fail<CheckpointError>(
      "holds the optimizer state of {}, but the loop's optimizer is {}; pass the previous "
      "optimizer, or none to continue without its state",
      saved, ours);
}

MatchedState match_layout(const Optimizer& optimizer, const PythonClass& type,
                          const std::vector<std::string>& names, const Value& checkpoint) {
  StateOwner owner;
  owner.type = type.name();
  owner.groups =
      save_layout(optimizer, type, names, /*with_states=*/false).at("param_groups").items();
  owner.names = names;
  owner.state_names = [&](const Value& group) { return type.state_names(group); };
  owner.may_split = false;
  owner.owner = "loop";
  owner.regroup = "give the optimizer its parameters in the groups of before";
  owner.renumber = owner.regroup;
  owner.without_state = "pass no optimizer to continue without its state";
  return match_state(owner, checkpoint);
}

/// States and options that are ready to be moved into the optimizer.
struct Prepared {
  TorchStates states;
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options;  // of each group
};

std::shared_ptr<Prepared> read_layout(const Optimizer& optimizer, const PythonClass& type,
                                      const Value& saved) {
  auto prepared = std::make_shared<Prepared>();
  const std::vector<Value>& groups = saved.at("param_groups").items();
  int64_t index = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    prepared->options.push_back(type.read_group(groups[i]));
    for (const at::Tensor& parameter : optimizer.param_groups()[i].params()) {
      const Value* entry = saved.at("state").find(index++);
      std::unique_ptr<torch::optim::OptimizerParamState> state;
      if (entry) state = type.read_state(parameter, *entry, *prepared->options.back());
      if (!state) state = type.new_state(parameter, *prepared->options.back());
      if (state) prepared->states[state_key(parameter)] = std::move(state);
    }
  }
  return prepared;
}

/// "lr 0.01 (the program set 0.5)" for each number that the file changes, the learning rate first.
std::vector<std::string> changed_numbers(const Optimizer& optimizer, const PythonClass& type,
                                         const Prepared& prepared) {
  std::vector<std::string> changes;
  for (size_t i = 0; i < prepared.options.size(); ++i) {
    const Value ours = type.group(optimizer.param_groups()[i].options());
    const Value theirs = type.group(*prepared.options[i]);
    for (const auto& [key, value] : ours.entries()) {
      const Value& saved = theirs.at(key);
      if (same_number(value, saved)) continue;
      std::string change = fmt::format("{} {} (the program set {})", key.as_string(),
                                       text_of(saved), text_of(value));
      if (std::find(changes.begin(), changes.end(), change) == changes.end()) {
        changes.push_back(std::move(change));
      }
    }
  }
  return changes;
}

/// A file of another program that should have states and has none lost them. Polyak's own has none
/// if the program made no step yet.
void check_has_states(const MatchedState& matched, const Value& checkpoint) {
  if (!matched.lacks_state || checkpoint.contains("polyak")) return;
  const int64_t iters = checkpoint.at("meta").at("iter").as_int();
  if (iters < 1) return;
  fail<CheckpointError>(
      "optimizer: it contains no state of any parameter after {} iterations; pass no optimizer to "
      "continue without its state",
      iters);
}

std::function<void()> prepare_layout(Optimizer& optimizer, const ModelRef& model,
                                     const Value& checkpoint) {
  groups_of(checkpoint.at("optimizer"));  // that it is a state dict at all
  const PythonClass* type = layout_of(optimizer);
  check_layout_type(optimizer, type, checkpoint);
  const std::vector<at::Tensor> parameters = parameters_of(optimizer);
  const std::vector<std::string> names = layout_names(names_of(parameters, model));
  const MatchedState matched = match_layout(optimizer, *type, names, checkpoint);
  check_has_states(matched, checkpoint);
  std::vector<Value> indices;
  for (size_t i = 0; i < parameters.size(); ++i) indices.emplace_back(static_cast<int64_t>(i));
  check_shapes(matched.state.at("state"), indices, parameters, names);
  try {
    const std::shared_ptr<Prepared> prepared = read_layout(optimizer, *type, matched.state);
    return [&optimizer, type, prepared] {
      const std::vector<std::string> changes = changed_numbers(optimizer, *type, *prepared);
      optimizer.state() = std::move(prepared->states);
      for (size_t i = 0; i < prepared->options.size(); ++i) {
        // In place: a program may hold references to the options, as schedules do.
        type->assign(optimizer.param_groups()[i].options(), *prepared->options[i]);
      }
      if (!changes.empty()) {
        log_info("resume: continuing with the checkpoint's {}", list_names(changes));
      }
    };
  } catch (const c10::Error& error) {
    fail<CheckpointError>("its optimizer state does not fit: {}", first_line(error));
  }
}

std::function<void()> prepare_archive(Optimizer& optimizer, const ModelRef& model,
                                      const Value& state) {
  check_archive(optimizer, names_of(parameters_of(optimizer), model), state);
  return [&optimizer, state] {
    const std::optional<double> given = learning_rate_of(optimizer);
    load_archive(optimizer, state);
    const std::optional<double> now = learning_rate_of(optimizer);
    if (given && now && now != given) {
      log_info("resume: continuing with the checkpoint's lr {} (the program set {})", *now, *given);
    }
  };
}

}  // namespace

std::optional<double> learning_rate_of(const Optimizer& optimizer) {
  if (optimizer.param_groups().empty()) return std::nullopt;
  try {
    return optimizer.param_groups().front().options().get_lr();
  } catch (const c10::Error&) {  // a user's own options may have none
    return std::nullopt;
  }
}

Value save_optimizer(const Optimizer& optimizer, const ModelRef& model) {
  std::vector<std::string> names = names_of(parameters_of(optimizer), model);
  const PythonClass* type = layout_of(optimizer);
  if (!type) return save_archive(optimizer, names);
  return save_layout(optimizer, *type, layout_names(std::move(names)), /*with_states=*/true);
}

std::function<void()> prepare_optimizer(Optimizer& optimizer, const ModelRef& model,
                                        const Value& checkpoint) {
  const Value* state = checkpoint.find("optimizer");
  if (!state || state->is_none()) {
    fail<CheckpointError>(
        "holds no state of an optimizer; pass no optimizer to continue without one");
  }
  return is_archive(*state) ? prepare_archive(optimizer, model, *state)
                            : prepare_layout(optimizer, model, checkpoint);
}

}  // namespace polyak
