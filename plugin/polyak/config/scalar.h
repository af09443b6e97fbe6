// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

// Internal to config: how the text of a plain (unquoted) YAML scalar is understood.
namespace polyak {

enum class ScalarType { null, boolean, integer, number, string };

/// The YAML 1.2 core schema, less octal: a leading 0 means nothing, `010` is ten.
ScalarType scalar_type(const std::string& text);

/// The value of a text of type integer; nothing when it does not fit into 64 bits.
std::optional<int64_t> parse_integer(const std::string& text);

/// The value of a text of type integer or number; nothing when a double cannot hold it.
std::optional<double> parse_number(const std::string& text);

/// A spelling that every YAML reader takes for a number: `1.0`, `1.0e-07`, `.inf`.
std::string number_text(double value);

}  // namespace polyak
