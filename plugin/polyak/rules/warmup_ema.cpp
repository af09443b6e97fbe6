// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/warmup_ema.h"

namespace polyak {

std::string warmup_form_name(WarmupForm form) {
  return form == WarmupForm::ratio ? "ratio" : "power";
}

WarmupForm parse_warmup_form(const std::string& name) {
  if (name == "power") return WarmupForm::power;
  if (name == "ratio") return WarmupForm::ratio;
  fail_option("form", "must be power or ratio, got '{}'", name);
}

}  // namespace polyak
