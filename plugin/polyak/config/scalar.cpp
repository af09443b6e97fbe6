// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/scalar.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

namespace polyak {
namespace {

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> spellings) {
  for (std::string_view spelling : spellings) {
    if (text == spelling) return true;
  }
  return false;
}

std::string_view without_sign(std::string_view text) {
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) text.remove_prefix(1);
  return text;
}

bool is_hexadecimal(std::string_view unsigned_text) {
  return unsigned_text.size() > 2 && unsigned_text.substr(0, 2) == "0x" &&
         unsigned_text.find_first_not_of("0123456789abcdefABCDEF", 2) == std::string_view::npos;
}

bool is_infinity(std::string_view unsigned_text) {
  return is_one_of(unsigned_text, {".inf", ".Inf", ".INF"});
}

bool is_nan(std::string_view text) {
  return is_one_of(text, {".nan", ".NaN", ".NAN"});
}

// Removes the leading digits and returns their number.
size_t take_digits(std::string_view& text) {
  const size_t count = std::min(text.find_first_not_of("0123456789"), text.size());
  text.remove_prefix(count);
  return count;
}

ScalarType decimal_type(std::string_view text) {
  size_t digits = take_digits(text);
  if (digits > 0 && text.empty()) return ScalarType::integer;
  if (!text.empty() && text[0] == '.') {
    text.remove_prefix(1);
    digits += take_digits(text);
  }
  if (digits == 0) return ScalarType::string;
  if (!text.empty() && (text[0] == 'e' || text[0] == 'E')) {
    text = without_sign(text.substr(1));
    if (take_digits(text) == 0) return ScalarType::string;
  }
  return text.empty() ? ScalarType::number : ScalarType::string;
}

}  // namespace

ScalarType scalar_type(const std::string& text) {
  if (is_one_of(text, {"", "~", "null", "Null", "NULL"})) return ScalarType::null;
  if (is_one_of(text, {"true", "True", "TRUE", "false", "False", "FALSE"})) {
    return ScalarType::boolean;
  }
  const std::string_view digits = without_sign(text);
  if (is_hexadecimal(digits)) return ScalarType::integer;
  if (is_infinity(digits) || is_nan(text)) return ScalarType::number;
  return decimal_type(digits);
}

std::optional<int64_t> parse_integer(const std::string& text) {
  const std::string_view digits = without_sign(text);
  const bool hexadecimal = is_hexadecimal(digits);
  // from_chars supports neither '+' nor '0x'. The '-' is kept so that the smallest integer fits.
  const std::string plain =
      fmt::format("{}{}", text[0] == '-' ? "-" : "", hexadecimal ? digits.substr(2) : digits);
  int64_t value = 0;
  const auto result =
      std::from_chars(plain.data(), plain.data() + plain.size(), value, hexadecimal ? 16 : 10);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

std::optional<double> parse_number(const std::string& text) {
  const std::string_view digits = without_sign(text);
  double value = 0;
  if (is_nan(text)) {
    value = std::numeric_limits<double>::quiet_NaN();
  } else if (is_infinity(digits)) {
    value = std::numeric_limits<double>::infinity();
  } else {
    const bool hexadecimal = is_hexadecimal(digits);
    const std::string_view plain = hexadecimal ? digits.substr(2) : digits;
    const auto result =
        std::from_chars(plain.data(), plain.data() + plain.size(), value,
                        hexadecimal ? std::chars_format::hex : std::chars_format::general);
    if (result.ec != std::errc()) return std::nullopt;
  }
  return text[0] == '-' ? -value : value;
}

std::string number_text(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::string text = fmt::format("{}", value);
  if (text.find('.') == std::string::npos) {
    text.insert(std::min(text.find('e'), text.size()), ".0");  // PyYAML parses `1e-07` as a string
  }
  return text;
}

size_t closing_quote(const std::string& text, size_t start) {
  const char quote = text[start];
  for (size_t i = start + 1; i < text.size(); ++i) {
    const bool doubled = quote == '\'' && text.compare(i, 2, "''") == 0;
    if (doubled || (quote == '"' && text[i] == '\\')) {
      ++i;
    } else if (text[i] == quote) {
      return i;
    }
  }
  return std::string::npos;
}

}  // namespace polyak
