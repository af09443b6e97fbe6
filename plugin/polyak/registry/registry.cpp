// SPDX-License-Identifier: Apache-2.0
#include "polyak/registry/registry.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "polyak/config/nearest.h"

namespace polyak {

RegistryBase::~RegistryBase() = default;
Catalog::Catalog() = default;
Catalog::~Catalog() = default;

std::vector<std::string> RegistryBase::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : descriptions_) names.push_back(name);
  return names;
}

RegistryBase::Description RegistryBase::describe(const std::string& name) const {
  const std::unique_ptr<Options> options = options_of(name);
  return {descriptions_.at(name).doc, describe_options(*options)};
}

std::unique_ptr<Options> RegistryBase::options_of(const std::string& name) const {
  const auto found = descriptions_.find(name);
  if (found == descriptions_.end()) fail<ConfigError>("no {} is named '{}'", kind_, name);
  return found->second.make();
}

void RegistryBase::add_description(const std::string& name, const std::string& doc,
                                   MakeOptions make) {
  if (!descriptions_.emplace(name, Entry{doc, make}).second) {
    fail<ConfigError>("{} '{}' is already registered; choose another name", kind_, name);
  }
}

std::string RegistryBase::type_of(const Node& node) const {
  if (!node.is_mapping())
    node.fail(fmt::format("must be a mapping with a 'type', got {}", node.kind_name()));
  const Node* type = node.find("type");
  if (!type) {
    node.fail(fmt::format("'type' is missing; the {}s are: {}", kind_, fmt::join(names(), ", ")));
  }
  // Configs for MMEngine have scopes ("mmpretrain.CosineEMA"), which have no meaning here.
  std::string name = type->as_string();
  if (contains(name)) return name;
  name = name.substr(name.rfind('.') + 1);
  if (contains(name)) return name;
  const std::string near = nearest_name(name, names());
  type->fail(fmt::format("no {} is named '{}'; {}the {}s are: {}", kind_, name,
                         near.empty() ? "" : fmt::format("did you mean '{}'? ", near), kind_,
                         fmt::join(names(), ", ")));
}

void RegistryBase::refuse_unknown_keys(const Node& node, const std::vector<KeyDescription>& keys,
                                       const std::string& owner,
                                       const std::vector<KeyDescription>& owner_keys,
                                       const std::string& reason) {
  std::set<std::string> of_both;
  for (const auto* descriptions : {&keys, &owner_keys}) {
    for (const KeyDescription& key : *descriptions) {
      if (!key.rest) of_both.insert(key.name);
    }
  }
  const std::vector<std::string> names(of_both.begin(), of_both.end());
  Problems problems;
  for (const auto& entry : node.entries()) {
    const std::string& name = entry.first;
    const bool known = std::any_of(keys.begin(), keys.end(), [&](const KeyDescription& key) {
      return key.rest || key.name == name;
    });
    if (known || name == "type") continue;
    const std::string near = nearest_name(name, names);
    problems.attempt([&] {
      entry.second.fail(fmt::format("unknown key; {}{} takes: {} (with {})",
                                    near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                                    owner, fmt::join(names, ", "), reason));
    });
  }
  problems.throw_all();
}

void RegistryBase::refuse_size(const Node& node, const std::exception& error) {
  const Node* type = node.is_mapping() ? node.find("type") : nullptr;
  const std::string name = type && type->is_scalar() ? type->text() : "it";
  if (dynamic_cast<const SizeError*>(&error)) node.fail(fmt::format("{}: {}", name, error.what()));
  if (is_out_of_memory(error)) {
    node.fail(fmt::format("{} needs more memory than is available ({}); choose smaller sizes", name,
                          first_line(error)));
  }
}

void Catalog::absorb(Catalog& other) {
  for (const auto& [type, registry] : other.registries_) {
    auto mine = registries_.find(type);
    if (mine == registries_.end()) continue;
    for (const std::string& name : registry->names()) {
      if (mine->second->contains(name)) {
        fail<ConfigError>("{} '{}' is already registered; choose another name", registry->kind(),
                          name);
      }
    }
  }
  for (auto& [type, registry] : other.registries_) {
    std::unique_ptr<RegistryBase>& mine = registries_[type];
    mine ? mine->absorb(*registry) : mine.swap(registry);
  }
  other.registries_.clear();
}

const RegistryBase* Catalog::find(const std::string& kind) const {
  for (const auto& [type, registry] : registries_) {
    if (registry->kind() == kind) return registry.get();
  }
  return nullptr;
}

std::vector<const RegistryBase*> Catalog::all() const {
  std::vector<const RegistryBase*> all;
  for (const auto& [type, registry] : registries_) all.push_back(registry.get());
  std::sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->kind() < b->kind(); });
  return all;
}

}  // namespace polyak
