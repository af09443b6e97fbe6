// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "polyak/config/key.h"
#include "polyak/config/node.h"

// Internal to config: the same check for values from files and from C++.
namespace polyak {

/// What is wrong with a key's value, as in "must be in (0, 1), got 3", or "".
std::string problem_of(bool value, const Key& key);
std::string problem_of(int64_t value, const Key& key);
std::string problem_of(double value, const Key& key);
std::string problem_of(const std::string& value, const Key& key);
std::string problem_of(const Node& value, const Key& key);

}  // namespace polyak
