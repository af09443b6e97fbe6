#include "polyak/attach/config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace polyak {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Node& node) {
  if (node.is_null()) return nullptr;
  if (node.is_bool()) return node.as_bool();
  if (node.is_int()) return node.as_int();
  if (node.is_number()) return node.as_double();
  if (node.is_scalar()) return node.text();
  Json json = node.is_sequence() ? Json::array() : Json::object();
  if (node.is_sequence()) {
    for (const Node& item : node.items()) json.push_back(json_of(item));
  } else {
    for (const auto& [key, value] : node.entries()) json[key] = json_of(value);
  }
  return json;
}

Node node_of(const Json& json) {
  if (json.is_null()) return {};
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  Node node = json.is_array() ? Node::sequence() : Node::mapping();
  for (const auto& [key, value] : json.items()) {
    json.is_array() ? node.append(node_of(value)) : void(node.set(key, node_of(value)));
  }
  return node;
}

}  // namespace

void AttachConfig::visit(OptionVisitor& visitor) {
  visitor.required("custom_hooks", &custom_hooks, "A list of EMAHooks.");
  visitor.key("output_dir", &output_dir,
              "Where the averages are written; null: ./work_dirs/<name of the config>.");
  visitor.key("every", &every,
              "Optimizer steps between two writes of the averages; 0: only when the program ends.",
              steps_from(0));
  visitor.key("max_iters", &max_iters,
              "Optimizer steps of the whole run; CosineEMA needs it, as a program does not say.",
              steps_from(1));
}

void AttachConfig::validate() const {
  if (output_dir && output_dir->empty()) {
    fail<ConfigError>("output_dir: must not be empty; name a folder, or leave it out");
  }
  if (custom_hooks.items().empty()) custom_hooks.fail("is empty; name at least one EMAHook");
  for (const Node& hook : custom_hooks.items()) {
    const Node& type = hook.at("type");
    if (type.as_string() != "EMAHook") {
      type.fail(fmt::format(
          "'{}' cannot work in a compiled program, which shows neither data nor epochs; attach "
          "takes EMAHook",
          type.text()));
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
  return read_attach_config(node_of(Json::parse(json)));
}

}  // namespace polyak
