// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/config_schema.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/config/json.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak::cli {
namespace {

using Json = nlohmann::ordered_json;
using Form = Blocks::Form;

// A block of a file without bases has all that it needs; one of a file with bases is merged into
// theirs. Elements of lists are never merged.
enum class Extent { whole, part };

Json string_type() {
  return {{"type", "string"}};
}

Json integer_type() {
  return {{"type", "integer"}};
}

Json list_of(const Json& items) {
  return {{"type", "array"}, {"items", items}};
}

Json any_of(const std::vector<Json>& schemas) {
  return {{"anyOf", schemas}};
}

Json or_null(const Json& schema) {
  return {{"if", {{"type", "null"}}}, {"else", schema}};
}

void add_bounds(Json& schema, const Bounds& bounds) {
  const auto number = [](double value) {
    return value == std::floor(value) && std::abs(value) <= kMaxSteps
               ? Json(static_cast<int64_t>(value))
               : Json(value);
  };
  constexpr double kLargest = std::numeric_limits<double>::max();
  if (bounds.low > -kLargest)
    schema[bounds.low_open ? "exclusiveMinimum" : "minimum"] = number(bounds.low);
  if (bounds.high < kLargest)
    schema[bounds.high_open ? "exclusiveMaximum" : "maximum"] = number(bounds.high);
}

// Keys whose values are of several types, by what the documentation calls these.
Json of_type_text(const Key& key) {
  constexpr const char* kLength =
      R"(^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?(ep|%|samples)?$)";
  const Json length = {{"type", {"number", "string"}}, {"minimum", 0}, {"pattern", kLength}};
  Json integer = integer_type();
  add_bounds(integer, key.bounds);
  const Json integers = any_of({integer, list_of(integer)});
  Json pair = list_of(integer_type());
  pair["minItems"] = pair["maxItems"] = 2;
  Json rule = {{"type", "object"},
               {"properties", {{"match", true}, {"mode", {{"enum", {"average", "copy", "keep"}}}}}},
               {"required", {"match", "mode"}},
               {"additionalProperties", false}};
  const std::vector<std::pair<std::string, Json>> known = {
      {"length", length},
      {"length or null", or_null(length)},
      {"string", string_type()},
      {"integer or list of integers", integers},
      {"list of pairs of integers or null", or_null(list_of(pair))},
      {"mapping of strings or null",
       or_null({{"type", "object"}, {"additionalProperties", string_type()}})},
      {"name or integer or null",
       {{"type", {"string", "integer", "null"}}, {"minimum", 0}, {"maximum", 100}}},
      {"list of mappings", or_null(any_of({rule, list_of(rule)}))},
  };
  for (const auto& [name, schema] : known) {
    if (name == key.type) return schema;
  }
  return Json::object();
}

// ---- the schema of a value, by the member that it sets

Json of_member(const bool*, const Key&) {
  return {{"type", "boolean"}};
}

Json of_member(const int64_t*, const Key& key) {
  Json schema = integer_type();
  add_bounds(schema, key.bounds);
  return schema;
}

Json of_member(const double*, const Key& key) {
  Json schema = {{"type", "number"}};
  add_bounds(schema, key.bounds);
  return schema;
}

Json of_member(const std::string*, const Key& key) {
  return key.choices.empty() ? string_type() : Json{{"enum", key.choices}};
}

Json of_member(const Node*, const Key& key) {
  return key.type ? of_type_text(key) : Json::object();
}

template <class T>
Json of_member(const std::optional<T>*, const Key& key) {
  Json schema = of_member(static_cast<const T*>(nullptr), key);
  if (schema.contains("enum")) {
    schema["enum"].push_back(nullptr);
  } else {
    schema["type"] = {schema["type"], "null"};
  }
  return schema;
}

// One value stands for a list of one, and null for none.
template <class T>
Json of_member(const std::vector<T>*, const Key& key) {
  const Json one = of_member(static_cast<const T*>(nullptr), key);
  return or_null(Json{{"if", {{"type", "array"}}}, {"then", {{"items", one}}}, {"else", one}});
}

// "mmengine.EMAHook" is EMAHook, as in configs for MMEngine.
std::string pattern_of(const std::string& name) {
  return fmt::format(R"(^(.*\.)?{}$)", name);
}

Json has_type(const std::string& key, const std::string& name) {
  return {{"properties", {{key, {{"pattern", pattern_of(name)}}}}}};
}

// ---- the schemas of blocks

class Schemas {
 public:
  explicit Schemas(const Catalog& catalog) : catalog_(catalog) {}

  Json make() {
    const std::unique_ptr<Options> config = make_train_config();
    Json whole = of_options(*config, Extent::whole);
    Json part = of_options(*config, Extent::part);
    for (Json* of : {&whole, &part}) {
      Json& properties = (*of)["properties"];
      properties["_base_"] = or_null(any_of({string_type(), list_of(string_type())}));
    }
    definitions_["config"] = std::move(whole);
    definitions_["part of a config"] = std::move(part);
    return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
            {"title", "A training config of Polyak"},
            {"if", {{"type", "object"}, {"required", {"_base_"}}}},
            {"then", reference("part of a config")},
            {"else", reference("config")},
            {"$defs", std::move(definitions_)}};
  }

 private:
  // Makes the properties of one Options struct.
  class Properties : public OptionReader {
   public:
    Properties(Schemas& schemas, Extent extent) : schemas_(schemas), extent_(extent) {}

    Json properties = Json::object();
    std::vector<std::string> required;
    Json all_of = Json::array();  // of keys that belong to a component

    void key(const Key& key, ConstOptionValue value) override {
      Json schema = Json::object();
      schema["description"] = key.doc;
      Json of_value =
          key.blocks.form == Form::none
              ? std::visit([&](const auto* member) { return of_member(member, key); }, value)
              : schemas_.of_blocks(key, extent_);
      schema.update(of_value);
      if (key.required) {
        required.emplace_back(key.name);
      } else {
        schema["default"] = std::visit([](const auto* member) { return json(*member); }, value);
      }
      properties[key.name] = std::move(schema);
    }

    void rest(const Rest& rest, const Node&) override {
      const RegistryBase* const registry = rest.kind ? schemas_.catalog_.find(rest.kind) : nullptr;
      if (!registry) {
        all_of.push_back({{"additionalProperties", true}});
      } else if (!rest.type_key) {
        for (const char* key : rest.refused) properties[key] = false;
        all_of.push_back(schemas_.of_entry(*registry, rest.type, extent_));
      } else {
        for (const std::string& name : registry->names()) {
          Json condition = has_type(rest.type_key, name);
          // Which average a part of a block has, may stand in its base.
          if (extent_ == Extent::part || name != rest.type) condition["required"] = {rest.type_key};
          all_of.push_back(
              {{"if", condition}, {"then", schemas_.of_entry(*registry, name, extent_)}});
        }
        if (extent_ == Extent::part) {
          all_of.push_back({{"if", {{"required", {rest.type_key}}}},
                            {"else", {{"additionalProperties", true}}}});
        }
        properties[rest.type_key].update(type_names(*registry));
      }
    }

   private:
    template <class T>
    static Json json(const T& value) {
      return value;
    }
    template <class T>
    static Json json(const std::optional<T>& value) {
      return value ? Json(*value) : Json();
    }
    static Json json(const Node& value) { return json_of(value); }

    Schemas& schemas_;
    Extent extent_;
  };

  static Json reference(const std::string& name) { return {{"$ref", "#/$defs/" + name}}; }

  static Json type_names(const RegistryBase& registry) {
    const std::vector<std::string> names = registry.names();
    return any_of(
        {{{"enum", names}},
         {{"type", "string"}, {"pattern", fmt::format(R"(^.*\.({})$)", fmt::join(names, "|"))}}});
  }

  /// An object with these keys and no others.
  static Json object(Properties& made, Extent extent) {
    Json schema = {{"type", "object"}};
    if (extent == Extent::part) made.properties["_delete_"] = {{"type", "boolean"}};
    schema["properties"] = made.properties;
    if (extent == Extent::whole && !made.required.empty()) schema["required"] = made.required;
    const bool is_open = !made.all_of.empty();
    if (is_open) schema["allOf"] = made.all_of;
    schema[is_open ? "unevaluatedProperties" : "additionalProperties"] = false;
    return schema;
  }

  Json of_options(const Options& options, Extent extent) {
    Properties made(*this, extent);
    options.inspect(made);
    return object(made, extent);
  }

  Json of_blocks(const Key& key, Extent extent) {
    const auto one = [&](Extent how) {
      return key.blocks.kind ? of_kind(key.blocks.kind, how) : of_options(*key.blocks.make(), how);
    };
    Json schema;
    switch (key.blocks.form) {
      case Form::list:
        schema = list_of(one(Extent::whole));
        break;
      case Form::list_of_lists:
        schema = list_of(list_of(one(Extent::whole)));
        break;
      case Form::by_name:
        schema = {{"type", "object"}, {"additionalProperties", or_null(one(extent))}};
        if (extent == Extent::part) schema["properties"]["_delete_"] = {{"type", "boolean"}};
        break;
      case Form::one_or_list:
        schema = {{"if", {{"type", "array"}}},
                  {"then", {{"items", one(Extent::whole)}}},
                  {"else", one(extent)}};
        break;
      case Form::one_or_text:
        schema = {{"if", {{"type", "string"}}}, {"else", one(extent)}};
        break;
      default:
        schema = one(extent);
    }
    return key.required ? schema : or_null(schema);
  }

  /// A block that a kind's registry builds.
  Json of_kind(const std::string& kind, Extent extent) {
    const RegistryBase* const registry = catalog_.find(kind);
    if (!registry) return Json::object();
    const std::string name = extent == Extent::whole ? kind : "part of a " + kind;
    if (definitions_.contains(name)) return reference(name);
    definitions_[name] = nullptr;  // in case that a block of this kind has another in it
    Json common = Json::object();
    if (const std::unique_ptr<Options> options = registry->common_keys()) {
      Properties made(*this, extent);
      options->inspect(made);
      common = made.properties;
    }
    Json properties = {{"type", type_names(*registry)}};
    properties.update(common);
    if (extent == Extent::part) properties["_delete_"] = {{"type", "boolean"}};
    Json cases = Json::array();
    std::vector<std::string> all_keys = {"type", "_delete_"};
    for (const auto& [key, schema] : common.items()) all_keys.push_back(key);
    for (const std::string& entry : registry->names()) {
      Json condition = has_type("type", entry);
      condition["required"] = {"type"};
      Json then = of_entry(*registry, entry, extent);
      std::vector<std::string> required;
      bool takes_rest = false;
      for (const KeyDescription& key : registry->describe(entry).keys) {
        if (key.required) required.push_back(key.name);
        takes_rest = takes_rest || key.rest;
        if (!key.rest) all_keys.push_back(key.name);
      }
      if (takes_rest) {
        for (const std::string& average : rest_keys()) all_keys.push_back(average);
      }
      if (extent == Extent::whole && !required.empty()) then["required"] = required;
      cases.push_back({{"if", condition}, {"then", then}});
    }
    Json schema = {{"type", "object"},
                   {"required", {"type"}},
                   {"properties", properties},
                   {"allOf", cases},
                   {"unevaluatedProperties", false}};
    if (extent == Extent::part) {  // without a type, any key of any type may be meant
      std::sort(all_keys.begin(), all_keys.end());
      all_keys.erase(std::unique(all_keys.begin(), all_keys.end()), all_keys.end());
      schema = {{"type", "object"},
                {"if", {{"required", {"type"}}}},
                {"then", schema},
                {"else", {{"propertyNames", {{"enum", all_keys}}}}}};
    }
    definitions_[name] = std::move(schema);
    return reference(name);
  }

  /// The keys of one entry of a registry, without refusing others.
  Json of_entry(const RegistryBase& registry, const std::string& name, Extent extent) {
    const std::string whole = fmt::format("{}.{}", registry.kind(), name);
    const std::string part = "part of " + whole;
    if (extent == Extent::part && definitions_.contains(part)) return reference(part);
    if (!definitions_.contains(whole)) {
      definitions_[whole] = nullptr;
      definitions_[whole] = entry(registry, name, Extent::whole);
    }
    if (extent == Extent::whole) return reference(whole);
    definitions_[part] = nullptr;
    Json schema = entry(registry, name, Extent::part);
    if (schema == definitions_[whole]) {
      definitions_.erase(part);
      return reference(whole);
    }
    definitions_[part] = std::move(schema);
    return reference(part);
  }

  Json entry(const RegistryBase& registry, const std::string& name, Extent extent) {
    Properties made(*this, extent);
    registry.options_of(name)->inspect(made);
    Json schema = {{"description", registry.describe(name).doc}, {"properties", made.properties}};
    if (!made.all_of.empty()) schema["allOf"] = made.all_of;
    return schema;
  }

  /// All keys of averages, which the blocks of hooks take.
  std::vector<std::string> rest_keys() const {
    std::vector<std::string> keys;
    const RegistryBase* const averages = catalog_.find(AveragedModel::kKind);
    if (!averages) return keys;
    for (const std::string& name : averages->names()) {
      for (const KeyDescription& key : averages->describe(name).keys) keys.push_back(key.name);
    }
    return keys;
  }

  const Catalog& catalog_;
  Json definitions_ = Json::object();
};

}  // namespace

Json config_schema(const Catalog& catalog) {
  return Schemas(catalog).make();
}

}  // namespace polyak::cli
