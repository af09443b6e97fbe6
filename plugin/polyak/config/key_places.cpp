// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/key_places.h"

#include "polyak/config/options.h"

namespace polyak {

void KeyPlaces::keep(const Node& block) {
  places_.clear();
  if (!block.is_mapping()) return;
  for (const auto& [name, value] : block.entries()) places_[name] = value.place();
}

void KeyPlaces::fail_for_two(const char* key, const char* other) const {
  const auto found = places_.find(other);
  const bool in_file = found != places_.end() && found->second.line > 0;
  fail_option(key, "says the same as '{}'{}; set one of them", other,
              in_file ? fmt::format(" at {}:{}:{}", found->second.file, found->second.line,
                                    found->second.column)
                      : std::string());
}

}  // namespace polyak
