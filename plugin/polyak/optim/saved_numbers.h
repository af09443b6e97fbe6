// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

// Numbers of optimizers and schedules in checkpoints.
namespace polyak {

/// A bool, a number, a tensor of one element, or a list of these.
POLYAK_API bool is_number(const Value& value);
/// Whether two numbers are equal, even if their kinds differ; false for other values.
POLYAK_API bool same_number(const Value& a, const Value& b);
/// A count, also one that a file has as a floating-point number or as a tensor of one element;
/// nothing if the value is none: negative, with a fraction, or above 2^53.
POLYAK_API std::optional<int64_t> count_of(const Value& value);
/// As shown in messages: "0.1", "true", "[0.9, 0.999]"; for other values the kind.
POLYAK_API std::string text_of(const Value& value);

}  // namespace polyak
