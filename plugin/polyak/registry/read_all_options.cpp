// SPDX-License-Identifier: Apache-2.0
#include "polyak/registry/read_all_options.h"

#include <memory>
#include <vector>

#include "polyak/config/problems.h"

namespace polyak {
namespace {

class KeyNames : public OptionReader {
 public:
  std::vector<std::string> names;

  void key(const Key& key, ConstOptionValue) override { names.push_back(key.name); }
  void rest(const Rest&, const Node&) override {}
};

/// Reads a block, then, as a reader of its options, the blocks below.
class Reading : public OptionReader {
 public:
  Reading(const Node& node, Options& options, std::string owner, const Catalog& catalog,
          Problems& problems)
      : node_(node),
        options_(options),
        owner_(std::move(owner)),
        catalog_(catalog),
        problems_(problems) {}

  void read() {
    problems_.attempt([&] { read_options(node_, options_, owner_); });
    if (node_.is_mapping()) options_.inspect(*this);
  }

  void key(const Key& key, ConstOptionValue) override {
    using Form = Blocks::Form;
    const Node* const value = node_.find(key.name);
    if (key.blocks.form == Form::none || !value || value->is_null()) return;
    const std::string owner = key.blocks.owner ? key.blocks.owner : key.name;
    const auto read_one = [&](const Node& block) { read_block(block, key.blocks, owner); };
    const auto read_list = [&](const Node& list) {
      problems_.attempt([&] {
        for (const Node& block : list.items()) read_one(block);
      });
    };
    switch (key.blocks.form) {
      case Form::list:
        return read_list(*value);
      case Form::list_of_lists:
        problems_.attempt([&] {
          for (const Node& list : value->items()) read_list(list);
        });
        return;
      case Form::by_name:
        problems_.attempt([&] {
          for (const auto& [name, block] : value->entries()) {
            if (!block.is_null()) read_one(block);
          }
        });
        return;
      case Form::one_or_list:
        return value->is_sequence() ? read_list(*value) : read_one(*value);
      case Form::one_or_text:
        return value->is_scalar() ? void() : read_one(*value);
      default:
        return read_one(*value);
    }
  }

  void rest(const Rest& rest, const Node& value) override {
    const RegistryBase* const registry = rest.kind ? catalog_.find(rest.kind) : nullptr;
    if (!registry || !value.is_mapping()) return;
    Node block = value;
    const Node* const given = rest.type_key ? node_.find(rest.type_key) : nullptr;
    Node type = given ? *given : Node(rest.type);
    if (!given) type.set_place(block.place());
    block.set("type", std::move(type))
        .set_path(block.path_of(rest.type_key ? rest.type_key : "type"));
    if (rest.complete) rest.complete(block);
    std::string name;
    if (!problems_.attempt([&] { name = registry->type_of(block); })) return;
    const std::string reason = rest.reason ? rest.reason : rest.type_key;
    problems_.attempt([&] {
      RegistryBase::refuse_unknown_keys(block, registry->describe(name).keys, owner_,
                                        describe_options(options_), reason + " " + name);
    });
    read_component(block, *registry, name);
  }

 private:
  void read_block(const Node& block, const Blocks& blocks, const std::string& owner) {
    if (!blocks.kind) {
      const std::unique_ptr<Options> options = blocks.make();
      return Reading(block, *options, owner, catalog_, problems_).read();
    }
    const RegistryBase* const registry = catalog_.find(blocks.kind);
    if (!registry) return;  // a host without such things says so where it uses them
    std::string name;
    if (!problems_.attempt([&] { name = registry->type_of(block); })) return;
    const std::unique_ptr<Options> common = registry->common_keys();
    if (!common) return read_component(block, *registry, name);
    KeyNames of_all;
    common->inspect(of_all);
    Node shared = Node::mapping();
    shared.set_place(block.place());
    shared.set_path(block.path());
    for (const std::string& key : of_all.names) {
      if (const Node* value = block.find(key)) shared.set(key, *value);
    }
    problems_.attempt([&] { read_options(shared, *common, name); });
    read_component(block.without(of_all.names), *registry, name);
  }

  void read_component(const Node& block, const RegistryBase& registry, const std::string& name) {
    const std::unique_ptr<Options> options = registry.options_of(name);
    const Node keys = block.without({"type"});
    Reading(keys, *options, name, catalog_, problems_).read();
  }

  const Node& node_;
  Options& options_;
  const std::string owner_;
  const Catalog& catalog_;
  Problems& problems_;
};

}  // namespace

void read_all_options(const Node& node, Options& options, const std::string& owner,
                      const Catalog& catalog) {
  Problems problems;
  Reading(node, options, owner, catalog, problems).read();
  problems.throw_all();
}

}  // namespace polyak
