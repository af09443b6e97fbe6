// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace polyak::cli {

/// How an axis divides its range: evenly, or by powers of ten.
enum class Scale { linear, log };

/// A place on an axis that has a label.
struct Tick {
  double value;
  std::string label;
};

/// An axis of a plot, in a terminal or in an image.
struct Axis {
  double low = 0;
  double high = 1;
  Scale scale = Scale::linear;
  std::vector<Tick> ticks;  // within the range, ascending

  /// Where a value lies: 0 at `low`, 1 at `high`; outside of that range for values outside.
  double position(double value) const;
};

/// An axis for values from `low` to `high`, both finite, with up to `most_ticks` labels at round
/// numbers; a little longer where that gives it one more. For Scale::log, both must be positive.
/// @param least_step between labels: 1 for what only has whole numbers
Axis make_axis(double low, double high, Scale scale, int most_ticks, double least_step = 0);

/// A number as short as its label can be: 0.004, 10k, 1.5M, 1e-5.
/// @param step between labels, which tells how many digits they need; 0: up to six
/// @param largest of the labels, whose unit all have; 0: this value
std::string number_label(double value, double step = 0, double largest = 0);

}  // namespace polyak::cli
