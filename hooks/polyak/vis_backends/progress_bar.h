// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// What a bar shows.
struct Progressing {
  std::string title;                // before the bar: "epoch 2/12"; may be empty
  int64_t done = 0;                 // of `all`
  int64_t all = 1;                  // at least 1
  std::vector<std::string> fields;  // behind the bar, the most important first
};

/// The line of a bar, shorter than `columns`: "epoch 2/12 [####......] 40/100  eta 0:01:10". The
/// fields that do not fit are left out, the last ones first; in narrow terminals the bar is
/// shorter.
POLYAK_API std::string bar_text(const Progressing& progressing, int columns);

/// A bar on standard error that is drawn over itself, if that is a terminal. It takes the width
/// that the terminal has at that time, and is drawn at most ten times a second.
class ProgressBar {
 public:
  /// Whether there is a terminal.
  static bool is_possible();
  /// Whether it is time to draw again. Costs a reading of the clock.
  bool is_due() const;
  void draw(const Progressing& progressing);
  /// Removes it, so that a line can be written in its place.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point drawn_at_;
  bool is_drawn_ = false;
};

}  // namespace polyak
