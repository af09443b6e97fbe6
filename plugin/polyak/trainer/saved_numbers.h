// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"

// Internal to the trainer: numbers of optimizers and schedules in checkpoints.
namespace polyak {

/// A bool, a number, a tensor of one element, or a list of these.
bool is_number(const Value& value);
/// Whether two numbers are equal, even if their kinds differ; false for other values.
bool same_number(const Value& a, const Value& b);
/// As shown in messages: "0.1", "true", "[0.9, 0.999]"; for other values the kind.
std::string text_of(const Value& value);

}  // namespace polyak
