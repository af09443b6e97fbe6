// SPDX-License-Identifier: Apache-2.0
#include "polyak/optim/saved_numbers.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace polyak {

bool is_number(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::boolean:
    case Value::Kind::integer:
    case Value::Kind::real:
      return true;
    case Value::Kind::tensor:
      return value.as_tensor().numel() == 1;
    case Value::Kind::list:
    case Value::Kind::tuple:
      return std::all_of(value.items().begin(), value.items().end(), is_number);
    default:
      return false;
  }
}

bool same_number(const Value& a, const Value& b) {
  const auto is_list = [](const Value& value) {
    return value.kind() == Value::Kind::list || value.kind() == Value::Kind::tuple;
  };
  if (is_list(a) && is_list(b)) {
    return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                      same_number);
  }
  if (is_list(a) || is_list(b) || !is_number(a) || !is_number(b)) return false;
  const auto number = [](const Value& value) {
    return value.kind() == Value::Kind::boolean ? static_cast<double>(value.as_bool())
                                                : value.as_real();
  };
  return number(a) == number(b);
}

std::optional<int64_t> count_of(const Value& value) {
  constexpr double kLargest = 9007199254740992;  // 2^53
  double number = -1;
  if (value.is_tensor()) {
    const at::Tensor& tensor = value.as_tensor();
    if (tensor.numel() == 1 && !tensor.is_complex()) number = tensor.item<double>();
  } else if (value.kind() == Value::Kind::integer || value.kind() == Value::Kind::real) {
    number = value.as_real();
  }
  const bool valid = number >= 0 && number <= kLargest && std::floor(number) == number;
  return valid ? std::optional(static_cast<int64_t>(number)) : std::nullopt;
}

std::string text_of(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::boolean:
      return value.as_bool() ? "true" : "false";
    case Value::Kind::integer:
    case Value::Kind::real:
      return fmt::format("{}", value.as_real());
    case Value::Kind::tensor:
      return value.as_tensor().numel() == 1 ? fmt::format("{}", value.as_tensor().item<double>())
                                            : value.kind_name();
    case Value::Kind::list:
    case Value::Kind::tuple: {
      std::vector<std::string> items;
      for (const Value& item : value.items()) items.push_back(text_of(item));
      return fmt::format("[{}]", fmt::join(items, ", "));
    }
    case Value::Kind::string:
      return value.as_string();
    default:
      return value.kind_name();
  }
}

}  // namespace polyak
