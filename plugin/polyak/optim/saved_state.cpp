// SPDX-License-Identifier: Apache-2.0
#include "polyak/optim/saved_state.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "polyak/core/text.h"
#include "polyak/optim/saved_numbers.h"
#include "polyak/optim/saved_type.h"

namespace polyak {
namespace {

/// Keys of groups that do not change the results of an optimizer.
const std::set<std::string> kHarmless = {
    "params", "param_names", "initial_lr",     "initial_momentum", "foreach",
    "fused",  "capturable",  "differentiable", "lars_exclude",     "decoupled_weight_decay"};

/// A parameter of the file.
struct Saved {
  int64_t index;  // its key in `state`
  size_t group;
  std::string name;  // "": unknown
};

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
                                        const StateOwner& owner) {
  std::map<std::string, const Saved*> by_name;
  for (const Saved& saved : parameters) by_name[saved.name] = &saved;
  const std::string prefix = "module.";
  const bool wrapped = std::all_of(parameters.begin(), parameters.end(), [&](const Saved& saved) {
    return saved.name.compare(0, prefix.size(), prefix) == 0;
  });
  std::vector<const Saved*> result;
  std::vector<std::string> missing;
  std::set<std::string> used;
  for (const std::string& name : owner.names) {
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
      "optimizer: its parameters do not match the {0}'s{1}{2}{3}{4}", owner.owner,
      missing.empty() ? "" : fmt::format("; only the {} has: ", owner.owner), list_names(missing),
      unexpected.empty() ? "" : "; only the checkpoint has: ", list_names(unexpected));
}

/// The same by position, for files without names.
std::vector<const Saved*> match_by_place(const std::vector<Saved>& parameters,
                                         const std::vector<Value>& groups, const StateOwner& owner,
                                         const std::vector<std::string>& order) {
  const std::vector<Value>& own_groups = owner.groups;
  const std::vector<std::string>& names = owner.names;
  const bool alike =
      std::equal(groups.begin(), groups.end(), own_groups.begin(), own_groups.end(),
                 [](const Value& theirs, const Value& ours) {
                   return theirs.at("params").items().size() == ours.at("params").items().size();
                 });
  if (!alike) {
    fail<CheckpointError>(
        "optimizer: the checkpoint splits the parameters into {} groups, but this run splits them "
        "differently, into {}; {}",
        groups.size(), own_groups.size(), owner.regroup);
  }
  // Within a group, positions in the file follow the order of its own model.
  std::map<std::string, size_t> place_in_file;
  for (size_t i = 0; i < order.size(); ++i) place_in_file[order[i]] = i;
  for (size_t i = 1; i < names.size() && place_in_file.size() == names.size(); ++i) {
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
      if (!count_of(*value)) {
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
void check_group(const Value& theirs, const StateOwner& owner) {
  const Value& ours = owner.groups.front();
  if (const Value* maximize = theirs.find("maximize"); maximize && maximize->as_bool()) {
    fail<CheckpointError>("optimizer: it maximizes, but this run minimizes; {}",
                          owner.without_state);
  }
  const bool has_betas = theirs.contains("betas");
  for (const auto& [key, value] : theirs.entries()) {
    const std::string& name = key.as_string();
    if (name == "momentum" && has_betas) continue;  // the first of them, kept by a schedule
    if (name == "maximize" || kHarmless.count(name) || ours.contains(name) || !is_number(value)) {
      continue;
    }
    fail<CheckpointError>(
        "optimizer: its groups have '{}' ({}), which {} does not support; {}", name, text_of(value),
        owner.type.empty() ? "this run's optimizer" : owner.type, owner.without_state);
  }
}

/// The numbers of one of the optimizer's groups, which must be the same for all of its parameters
/// in the file.
const Value& numbers_for(const std::vector<const Saved*>& members,
                         const std::vector<std::string>& names, const std::vector<Value>& groups,
                         const Value& ours, const StateOwner& owner) {
  const Value& first = groups[members.front()->group];
  for (size_t i = 1; i < members.size(); ++i) {
    const Value& other = groups[members[i]->group];
    for (const auto& [key, value] : ours.entries()) {
      if (kHarmless.count(key.as_string())) continue;
      const Value *a = first.find(key), *b = other.find(key);
      if ((!a && !b) || (a && b && same_number(*a, *b))) continue;
      fail<CheckpointError>(
          "optimizer: {} is {} for {} and {} for {} in the checkpoint, but this optimizer has both "
          "in one group; {}",
          key.as_string(), a ? text_of(*a) : "missing", names.empty() ? "one" : names.front(),
          b ? text_of(*b) : "missing", names.empty() ? "another" : names[i], owner.renumber);
    }
  }
  return first;
}

void check_one_rate(const std::vector<Value>& groups, const std::string& advice) {
  for (const Value& group : groups) {
    for (const char* key : {"lr", "initial_lr"}) {
      const Value *first = groups.front().find(key), *other = group.find(key);
      if (!first || !other || same_number(*first, *other)) continue;
      fail<CheckpointError>(
          "optimizer: its groups have the learning rates {} and {}, but this run has one for all; "
          "{}",
          text_of(*first), text_of(*other), advice);
    }
  }
}

/// Refuses a group of the file that the owner has split.
/// @param group_of the owner's group of each matched parameter
void check_not_split(const std::vector<const Saved*>& matched, const std::vector<size_t>& group_of,
                     const StateOwner& owner) {
  std::map<size_t, size_t> first_of;  // of the file's groups: a place in `matched`
  for (size_t i = 0; i < matched.size(); ++i) {
    const size_t first = first_of.emplace(matched[i]->group, i).first->second;
    if (group_of[first] == group_of[i]) continue;
    const auto name = [&](size_t place) {
      return owner.names.empty() ? fmt::format("parameter {}", place) : owner.names[place];
    };
    fail<CheckpointError>(
        "optimizer: {} and {} are in one group in the checkpoint, but in groups {} and {} of the "
        "{}'s optimizer; {}",
        name(first), name(i), group_of[first] + 1, group_of[i] + 1, owner.owner, owner.regroup);
  }
}

}  // namespace

Value state_dict_of(std::vector<SavedGroup> groups) {
  Value state = Value::dict();
  std::vector<Value> saved_groups;
  int64_t index = 0;
  for (SavedGroup& group : groups) {
    std::vector<Value> indices;
    for (Value& entry : group.states) {
      if (!entry.entries().empty()) state.set(index, std::move(entry));
      indices.emplace_back(index++);
    }
    Value saved = std::move(group.numbers);
    saved.set("params", Value::list(std::move(indices)));
    if (!group.names.empty()) {
      saved.set("param_names", Value::list({group.names.begin(), group.names.end()}));
    }
    saved_groups.push_back(std::move(saved));
  }
  Value result = Value::dict();
  result.set("state", std::move(state));
  result.set("param_groups", Value::list(std::move(saved_groups)));
  return result;
}

MatchedState match_state(const StateOwner& owner, const Value& checkpoint) {
  const Value& saved = checkpoint.at("optimizer");
  const std::vector<Value>& groups = groups_of(saved);
  const Value& state = saved.at("state");
  const std::vector<std::string>& names = owner.names;
  std::vector<size_t> group_of;  // of each of the owner's parameters
  for (size_t i = 0; i < owner.groups.size(); ++i) {
    group_of.insert(group_of.end(), owner.groups[i].at("params").items().size(), i);
  }

  std::vector<Saved> parameters = parameters_of(groups);
  if (parameters.size() != group_of.size()) {
    fail<CheckpointError>("optimizer: the checkpoint has {} parameters, the {} {}",
                          parameters.size(), owner.owner, group_of.size());
  }
  check_state_keys(state, parameters);
  for (const Value& group : groups) check_group(group, owner);

  const std::vector<std::string> order =
      order_in_file(checkpoint, std::set<std::string>(names.begin(), names.end()));
  name_parameters(parameters, groups, order);
  const bool named = !names.empty() && !parameters.empty() && !parameters.front().name.empty();
  const std::vector<const Saved*> matched =
      named ? match_by_name(parameters, owner) : match_by_place(parameters, groups, owner, order);
  if (!owner.may_split) check_not_split(matched, group_of, owner);
  if (!owner.one_rate.empty()) check_one_rate(groups, owner.one_rate);

  Value own_state = Value::dict();
  std::vector<Value> result_groups;
  bool needs_state = false;
  size_t next = 0;
  for (const Value& own_group : owner.groups) {
    const size_t size = own_group.at("params").items().size();
    const auto begin = static_cast<std::ptrdiff_t>(next),
               end = static_cast<std::ptrdiff_t>(next + size);
    const std::vector<const Saved*> members(matched.begin() + begin, matched.begin() + end);
    std::vector<std::string> member_names;
    if (!names.empty()) member_names.assign(names.begin() + begin, names.begin() + end);
    Value group = own_group;
    if (owner.own_numbers && !members.empty()) group = groups[members.front()->group];
    if (!owner.own_numbers && !members.empty()) {
      group = numbers_for(members, member_names, groups, own_group, owner);
    }
    const std::vector<std::string> needed = owner.state_names(group);
    needs_state = needs_state || (!needed.empty() && !members.empty());
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
  MatchedState result{Value::dict(), needs_state && own_state.entries().empty()};
  result.state.set("state", std::move(own_state));
  result.state.set("param_groups", Value::list(std::move(result_groups)));
  return result;
}

void check_shapes(const Value& state, const std::vector<Value>& indices,
                  const std::vector<at::Tensor>& parameters,
                  const std::vector<std::string>& names) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Value* entry = state.find(indices[i]);
    if (!entry) continue;
    for (const auto& [name, value] : entry->entries()) {
      if (!value.is_tensor() || name.as_string() == "step") continue;
      if (value.as_tensor().sizes() == parameters[i].sizes()) continue;
      fail<CheckpointError>(
          "optimizer: {} of {} has {} dimensions and {} elements in the checkpoint, which does not "
          "fit the model's parameter",
          name.as_string(), names.empty() ? fmt::format("parameter {}", i) : names[i],
          value.as_tensor().dim(), value.as_tensor().numel());
    }
  }
}

}  // namespace polyak
