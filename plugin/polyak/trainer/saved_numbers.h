// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"

// Internal to the trainer: numbers of optimizers and schedules as files hold them.
namespace polyak {

/// A bool, a number, a tensor of one element, or a list of such.
bool is_number(const Value& value);
/// Whether two numbers are equal, whatever kinds they are of; false for what is none.
bool same_number(const Value& a, const Value& b);
/// As a message shows it: "0.1", "true", "[0.9, 0.999]"; the kind of what is no number or str.
std::string text_of(const Value& value);

}  // namespace polyak
