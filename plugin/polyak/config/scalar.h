// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

// Internal to config: the meaning of YAML scalars.
namespace polyak {

enum class ScalarType { null, boolean, integer, number, string };

/// The YAML 1.2 core schema without octal: leading zeros have no meaning, `010` is ten.
ScalarType scalar_type(const std::string& text);

/// The value of a text of type integer, or nullopt if it does not fit in 64 bits.
std::optional<int64_t> parse_integer(const std::string& text);

/// The value of a text of type integer or number, or nullopt if a double cannot hold it.
std::optional<double> parse_number(const std::string& text);

/// A spelling that every YAML reader parses as a number: `1.0`, `1.0e-07`, `.inf`.
std::string number_text(double value);

/// The index of the quote that closes the one at `start`, by YAML's rules, or npos.
size_t closing_quote(const std::string& text, size_t start);

}  // namespace polyak
