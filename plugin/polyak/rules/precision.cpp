// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/precision.h"

#include "polyak/config/options.h"

namespace polyak {

std::string precision_name(Precision precision) {
  switch (precision) {
    case Precision::compensated:
      return "compensated";
    case Precision::float64:
      return "float64";
    default:
      return "default";
  }
}

Precision parse_precision(const std::string& name) {
  for (const Precision precision :
       {Precision::standard, Precision::compensated, Precision::float64}) {
    if (precision_name(precision) == name) return precision;
  }
  fail_option("precision", "must be one of default, compensated, float64, got '{}'", name);
}

}  // namespace polyak
