// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/optimizer_state.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

#include "polyak/runtime/tensor_names.h"
#include "polyak/trainer/saved_numbers.h"

namespace polyak {
namespace {

/// Keys of groups that do not change the results of an optimizer.
const std::set<std::string> kHarmless = {
    "params",         "param_names",  "initial_lr",
    "foreach",        "fused",        "capturable",
    "differentiable", "lars_exclude", "decoupled_weight_decay"};

/// A parameter of the file.
struct Saved {
  int64_t index;  // its key in `state`
  size_t group;
  std::string name;  // "": unknown
};

const std::vector<Value>& groups_of(const Value& saved) {
  if (!saved.is_dict() || !saved.contains("state") || !saved.contains("param_groups")) {
    std::vector<std::string> keys;
    if (saved.is_dict()) {
      for (const auto& [key, value] : saved.entries()) {
        keys.push_back(key.kind() == Value::Kind::string ? key.as_string()
                                                         : std::to_string(key.as_int()));
      }
    }
    fail<CheckpointError>("optimizer: must contain 'state' and 'param_groups'; it {}",
                          saved.is_dict() ? "contains " + list_names(keys)
                                          : fmt::format("is a {}", saved.kind_name()));
  }
  const std::vector<Value>& groups = saved.at("param_groups").items();
  if (groups.empty()) fail<CheckpointError>("optimizer: its param_groups are empty");
  return groups;
}

/// The names of the parameters in the file that an optimizer updates, in the file's order, each
/// tied tensor once.
std::vector<std::string> order_in_file(const Value& checkpoint,
                                       const std::set<std::string>& names) {
  std::vector<std::string> order;
  std::unordered_map<const void*, size_t> place_of;  // of a tensor in `order`
  for (const auto& [key, value] : checkpoint.at("state_dict").entries()) {
    if (!value.is_tensor()) continue;
    const std::string& name = key.as_string();
    const at::Tensor& tensor = value.as_tensor();
    size_t place = order.size();
    if (tensor.numel() > 0) place = place_of.emplace(tensor.data_ptr(), place).first->second;
    if (place == order.size()) order.emplace_back();
    if (names.count(name)) order[place] = name;
  }
  order.erase(std::remove(order.begin(), order.end(), ""), order.end());
  return order;
}

std::vector<Saved> parameters_of(const std::vector<Value>& groups) {
  std::vector<Saved> parameters;
  std::set<int64_t> seen;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Value* names = groups[i].find("param_names");
    const std::vector<Value>& params = groups[i].at("params").items();
    if (names && names->items().size() != params.size()) {
      fail<CheckpointError>("optimizer: group {} has {} params and {} param_names", i,
                            params.size(), names->items().size());
    }
    for (size_t j = 0; j < params.size(); ++j) {
      if (!seen.insert(params[j].as_int()).second) {
        fail<CheckpointError>("optimizer: parameter {} is in its groups twice", params[j].as_int());
      }
      parameters.push_back({params[j].as_int(), i, names ? names->items()[j].as_string() : ""});
    }
  }
  return parameters;
}

/// Names the file's parameters, if the file has the names.
void name_parameters(std::vector<Saved>& parameters, const std::vector<Value>& groups,
                     const std::vector<std::string>& order) {
  const bool has_names = std::all_of(parameters.begin(), parameters.end(),
                                     [](const Saved& saved) { return !saved.name.empty(); });
  if (has_names) return;
  for (Saved& saved : parameters) saved.name.clear();
  const bool one_each = groups.size() == parameters.size();  // MMEngine's paramwise_cfg
  if ((groups.size() > 1 && !one_each) || order.size() != parameters.size()) return;
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i].name = order[i];
}

/// The file's parameter for each of the optimizer's, by name.
std::vector<const Saved*> match_by_name(const std::vector<Saved>& parameters,
                                        const std::vector<std::string>& names) {
  std::map<std::string, const Saved*> by_name;
  for (const Saved& saved : parameters) by_name[saved.name] = &saved;
  const std::string prefix = "module.";
  const bool wrapped = std::all_of(parameters.begin(), parameters.end(), [&](const Saved& saved) {
    return saved.name.compare(0, prefix.size(), prefix) == 0;
  });
  std::vector<const Saved*> result;
  std::vector<std::string> missing;
  std::set<std::string> used;
  for (const std::string& name : names) {
    auto found = by_name.find(name);
    if (found == by_name.end() && wrapped) found = by_name.find(prefix + name);
    if (found == by_name.end()) {
      missing.push_back(name);
      continue;
    }
    used.insert(found->first);
    result.push_back(found->second);
  }
  std::vector<std::string> unexpected;
  for (const auto& [name, saved] : by_name) {
    if (!used.count(name)) unexpected.push_back(name);
  }
  if (missing.empty() && unexpected.empty() && used.size() == parameters.size()) return result;
  fail<CheckpointError>(
      "optimizer: its parameters do not match the model's{}{}{}{}",
      missing.empty() ? "" : "; only the model has: ", list_names(missing),
      unexpected.empty() ? "" : "; only the checkpoint has: ", list_names(unexpected));
}

/// The same by position, for files without names.
std::vector<const Saved*> match_by_place(const std::vector<Saved>& parameters,
                                         const std::vector<Value>& groups,
                                         const std::vector<Value>& own_groups,
                                         const std::vector<std::string>& names,
                                         const std::vector<std::string>& order) {
  const bool alike =
      std::equal(groups.begin(), groups.end(), own_groups.begin(), own_groups.end(),
                 [](const Value& theirs, const Value& ours) {
                   return theirs.at("params").items().size() == ours.at("params").items().size();
                 });
  if (!alike) {
    fail<CheckpointError>(
        "optimizer: the checkpoint splits the parameters into {} groups, but this run splits them "
        "differently, into {}; set paramwise_cfg as it was",
        groups.size(), own_groups.size());
  }
  // Within a group, positions in the file follow the order of its own model.
  std::map<std::string, size_t> place_in_file;
  for (size_t i = 0; i < order.size(); ++i) place_in_file[order[i]] = i;
  for (size_t i = 1; i < names.size() && order.size() == names.size(); ++i) {
    if (parameters[i].group != parameters[i - 1].group) continue;
    if (place_in_file.at(names[i - 1]) < place_in_file.at(names[i])) continue;
    fail<CheckpointError>(
        "optimizer: the checkpoint does not name its parameters, and its model has {} before {}, "
        "but this model has them in the opposite order; their states cannot be matched",
        names[i], names[i - 1]);
  }
  std::vector<const Saved*> result(parameters.size());
  std::transform(parameters.begin(), parameters.end(), result.begin(),
                 [](const Saved& saved) { return &saved; });
  return result;
}

void check_state_keys(const Value& state, const std::vector<Saved>& parameters) {
  std::set<int64_t> indices;
  for (const Saved& saved : parameters) indices.insert(saved.index);
  for (const auto& [key, entry] : state.entries()) {
    if (key.kind() == Value::Kind::integer && indices.count(key.as_int())) continue;
    fail<CheckpointError>("optimizer: its state has the key {}, but its param_groups list {}",
                          key.kind() == Value::Kind::integer ? std::to_string(key.as_int())
                                                             : fmt::format("'{}'", key.as_string()),
                          indices.empty() ? "no parameter"
                                          : fmt::format("the integers {} to {}", *indices.begin(),
                                                        *indices.rbegin()));
  }
}

/// Checks that the required state is present, under this optimizer's names.
void check_entry(const Value& entry, const std::vector<std::string>& needed,
                 const std::string& parameter) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : entry.entries()) keys.push_back(key.as_string());
  for (const std::string& name : needed) {
    const Value* value = entry.find(name);
    if (!value) {
      fail<CheckpointError>("optimizer: the state of {} has no '{}'; it has: {}", parameter, name,
                            keys.empty() ? "nothing" : list_names(keys));
    }
    if (name == "step") {
      const double step = is_number(*value) ? value->as_real() : -1;
      if (!(step >= 0) || std::floor(step) != step) {
        fail<CheckpointError>("optimizer: the step of {} is not a count", parameter);
      }
    } else if (value->is_tensor() && !value->as_tensor().is_floating_point() &&
               !value->as_tensor().is_complex()) {
      fail<CheckpointError>("optimizer: {} of {} is {}, expected floating-point numbers", name,
                            parameter, at::toString(value->as_tensor().scalar_type()));
    }
  }
}

/// Refuses keys of the groups that this optimizer does not support and that may change its results.
void check_group(const Value& theirs, const Value& ours, const std::string& type) {
  if (const Value* maximize = theirs.find("maximize"); maximize && maximize->as_bool()) {
    fail<CheckpointError>(
        "optimizer: it maximizes, but this run minimizes; load only the weights, by load_from "
        "without resume");
  }
  for (const auto& [key, value] : theirs.entries()) {
    const std::string& name = key.as_string();
    if (name == "maximize" || kHarmless.count(name) || ours.contains(name) || !is_number(value)) {
      continue;
    }
    fail<CheckpointError>(
        "optimizer: its groups have '{}' ({}), which {} does not support; load only the weights, "
        "by load_from without resume",
        name, text_of(value), type.empty() ? "this run's optimizer" : type);
  }
}

/// The numbers of one of the optimizer's groups, which must be the same for all of its parameters
/// in the file.
const Value& numbers_for(const std::vector<const Saved*>& members,
                         const std::vector<std::string>& names, const std::vector<Value>& groups,
                         const Value& ours) {
  const Value& first = groups[members.front()->group];
  for (size_t i = 1; i < members.size(); ++i) {
    const Value& other = groups[members[i]->group];
    for (const auto& [key, value] : ours.entries()) {
      if (kHarmless.count(key.as_string())) continue;
      const Value *a = first.find(key), *b = other.find(key);
      if ((!a && !b) || (a && b && same_number(*a, *b))) continue;
      fail<CheckpointError>(
          "optimizer: {} is {} for {} and {} for {} in the checkpoint, but this optimizer has both "
          "in one group; set optim_wrapper.paramwise_cfg as it was, or resume_options: config",
          key.as_string(), a ? text_of(*a) : "missing", names.empty() ? "one" : names.front(),
          b ? text_of(*b) : "missing", names.empty() ? "another" : names[i]);
    }
  }
  return first;
}

void check_one_rate(const std::vector<Value>& groups) {
  for (const Value& group : groups) {
    for (const char* key : {"lr", "initial_lr"}) {
      const Value *first = groups.front().find(key), *other = group.find(key);
      if (!first || !other || same_number(*first, *other)) continue;
      fail<CheckpointError>(
          "optimizer: its groups have the learning rates {} and {}, but this run has one for all; "
          "resume_options: config uses the config's",
          text_of(*first), text_of(*other));
    }
  }
}

}  // namespace

std::string type_of_groups(const Value& saved) {
  const Value& group = groups_of(saved).front();
  const auto has = [&](std::initializer_list<const char*> keys) {
    return std::all_of(keys.begin(), keys.end(),
                       [&](const char* key) { return group.contains(key); });
  };
  if (has({"momentum", "dampening", "nesterov"})) return has({"eta"}) ? "LARS" : "SGD";
  if (!has({"betas", "eps", "amsgrad"})) return "another optimizer";
  const Value* decoupled = group.find("decoupled_weight_decay");
  if (!decoupled) return "Adam or AdamW";
  return decoupled->as_bool() ? "AdamW" : "Adam";
}

Value match_optimizer_state(const Optimizer& optimizer, const Value& checkpoint, bool own_numbers) {
  const Value& saved = checkpoint.at("optimizer");
  const std::vector<Value>& groups = groups_of(saved);
  const Value& state = saved.at("state");
  const Value own = optimizer.state_dict();
  const std::vector<Value>& own_groups = own.at("param_groups").items();
  const std::vector<std::string>& names = optimizer.names();
  const size_t count = optimizer.parameters().size();

  std::vector<Saved> parameters = parameters_of(groups);
  if (parameters.size() != count) {
    fail<CheckpointError>("optimizer: the checkpoint has {} parameters, the model {}",
                          parameters.size(), count);
  }
  check_state_keys(state, parameters);
  for (const Value& group : groups) check_group(group, own_groups.front(), optimizer.type());

  const std::vector<std::string> order =
      order_in_file(checkpoint, std::set<std::string>(names.begin(), names.end()));
  name_parameters(parameters, groups, order);
  const bool named = !names.empty() && !parameters.front().name.empty();
  const std::vector<const Saved*> matched =
      named ? match_by_name(parameters, names)
            : match_by_place(parameters, groups, own_groups, names, order);
  if (!own_numbers) check_one_rate(groups);

  Value own_state = Value::dict();
  std::vector<Value> result_groups;
  bool needs_state = false;
  size_t next = 0;
  for (const Value& own_group : own_groups) {
    const size_t size = own_group.at("params").items().size();
    const auto begin = static_cast<std::ptrdiff_t>(next),
               end = static_cast<std::ptrdiff_t>(next + size);
    const std::vector<const Saved*> members(matched.begin() + begin, matched.begin() + end);
    std::vector<std::string> member_names;
    if (!names.empty()) member_names.assign(names.begin() + begin, names.begin() + end);
    Value group = own_numbers ? groups[members.front()->group]
                              : numbers_for(members, member_names, groups, own_group);
    const std::vector<std::string> needed = optimizer.state_names(group);
    needs_state = needs_state || !needed.empty();
    group.set("params", own_group.at("params"));
    group.erase("param_names");
    result_groups.push_back(std::move(group));
    for (const Saved* member : members) {
      const Value* entry = state.find(member->index);
      if (entry && !entry->entries().empty()) {
        check_entry(*entry, needed,
                    names.empty() ? fmt::format("parameter {}", next) : names[next]);
        own_state.set(static_cast<int64_t>(next), *entry);
      }
      ++next;
    }
  }
  // Before the first step, no parameter has a state.
  const int64_t iters = checkpoint.at("meta").at("iter").as_int();
  const Value* extra = checkpoint.find("polyak");
  const Value* counts = extra ? extra->find("accumulative_counts") : nullptr;
  if (needs_state && own_state.entries().empty() && iters >= (counts ? counts->as_int() : 1)) {
    fail<CheckpointError>(
        "optimizer: it contains no state of any parameter after {} iterations; load only the "
        "weights, by load_from without resume",
        iters);
  }
  Value result = Value::dict();
  result.set("state", std::move(own_state));
  result.set("param_groups", Value::list(std::move(result_groups)));
  return result;
}

}  // namespace polyak
