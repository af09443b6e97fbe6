// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/merge.h"

namespace polyak {
namespace {

bool deletes(const Node& mapping) {
  const Node* flag = mapping.find(kDeleteKey);
  return flag && flag->as_bool();
}

std::string where(const Place& place) {
  return fmt::format("{}:{}:{}", place.file, place.line, place.column);
}

// A value that replaces the base's, without `_delete_`.
Node cleaned(const Node& node) {
  Node result = node;
  if (node.is_sequence()) {
    for (Node& item : result.items()) item = cleaned(item);
  } else if (node.is_mapping()) {
    deletes(node);  // throws unless it is a boolean
    result = node.without({kDeleteKey});
    for (const auto& [key, value] : node.entries()) {
      if (key == kBaseKey) value.fail("is only allowed at the top level of a file");
      if (key != kDeleteKey) result.set(key, cleaned(value));
    }
  }
  return result;
}

Node merged_value(const Node& base, const Node& child) {
  if (!child.is_mapping() || deletes(child)) return cleaned(child);
  if (!base.is_mapping()) {
    child.fail(fmt::format(
        "a mapping cannot be merged into {} (at {}); to replace it, add '{}: true' to the mapping",
        base.kind_name(), where(base.place()), kDeleteKey));
  }
  return merge(base, child);
}

}  // namespace

Node merge(const Node& base, const Node& child) {
  if (deletes(child)) return cleaned(child);
  Node result = base;
  result.set_place(child.place());
  for (const auto& [key, value] : child.entries()) {
    if (key == kDeleteKey) continue;
    const Node* present = base.find(key);
    result.set(key, present ? merged_value(*present, value) : cleaned(value));
  }
  return result;
}

}  // namespace polyak
