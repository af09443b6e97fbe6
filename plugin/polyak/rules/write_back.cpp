// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/write_back.h"

namespace polyak {

std::string optimizer_state_after_name(OptimizerStateAfter value) {
  return value == OptimizerStateAfter::reset ? "reset" : "keep";
}

OptimizerStateAfter parse_optimizer_state_after(const std::string& name) {
  if (name == "keep") return OptimizerStateAfter::keep;
  if (name == "reset") return OptimizerStateAfter::reset;
  fail_option("optimizer_state", "must be keep or reset, got '{}'", name);
}

bool WriteBackOptions::is_due(int64_t updates, int64_t since_start) const {
  if (since_start <= 0 || since_start % every() != 0) return false;
  const auto now = static_cast<double>(updates);
  return now >= begin_.value && (!end_ || now <= end_->value);
}

void WriteBackOptions::visit(OptionVisitor& visitor) {
  visitor.number_or_text<length_text, parse_length>(
      "every", &every_, "Write back after every so many updates; also 1ep, 5%, 1000samples.");
  visitor.number_or_text<length_text, parse_length>("begin", &begin_,
                                                    "The first update that may, from 1.");
  visitor.number_or_text<length_text, parse_length>("end", &end_,
                                                    "The last one; null: that of the run.");
  visitor.key("weight", &weight_, "model += weight * (average - model); 1 copies.",
              Bounds{0, 1, /*low_open=*/true, /*high_open=*/false});
  visitor.key("restart", &restart_, "Start the average anew afterwards.");
  visitor.text<optimizer_state_after_name, parse_optimizer_state_after>(
      "optimizer_state", &optimizer_state_, {"keep", "reset"},
      "What happens to the optimizer's state, such as momentum buffers.");
}

void WriteBackOptions::validate() const {
  if (!every_) fail_option("every", "is missing; write_back requires it");
  check_length(*every_, "every", 1);
  check_length(begin_, "begin", 0);
  if (end_) check_length(*end_, "end", 1);
  if (end_ && end_->unit == begin_.unit && end_->value < begin_.value) {
    fail_option("end", "is {}, before begin, which is {}", length_text(*end_), length_text(begin_));
  }
}

void WriteBackOptions::resolve(const RunLengths& run) {
  if (every_) resolve_length(*every_, run, /*least=*/1);
  resolve_length(begin_, run);
  if (end_) resolve_length(*end_, run);
}

void WriteBackOptions::check_lengths() const {
  const auto check = [](const Length& length, const char* key) {
    if (length.unit == Length::Unit::updates) return;
    fail<ConfigError>("write_back.{}: {}", key, why_unresolved(length, key));
  };
  check(every_.value_or(Length()), "every");
  check(begin_, "begin");
  if (!end_) return;
  check(*end_, "end");
  if (end_->value < begin_.value) {
    fail<ConfigError>("write_back.end: is update {}, before begin, which is {}", length_text(*end_),
                      length_text(begin_));
  }
}

}  // namespace polyak
