// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "polyak/config/key.h"
#include "polyak/config/node.h"

// Internal to config: one rule for values from a file and for values from C++.
namespace polyak {

/// What is wrong with a value of a key ("must be in (0, 1), got 3"), or "".
std::string problem_of(bool value, const Key& key);
std::string problem_of(int64_t value, const Key& key);
std::string problem_of(double value, const Key& key);
std::string problem_of(const std::string& value, const Key& key);
std::string problem_of(const Node& value, const Key& key);

}  // namespace polyak
