// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/cli/axis.h"
#include "polyak/cli/terminal_plot.h"

namespace polyak::cli {

/// Updates that average, of a run of `count` calls: those that only count or copy are left out.
struct AveragingUpdates {
  int64_t first, last, interval;
  bool empty() const { return last < first; }
};
AveragingUpdates averaging_updates(const AveragedModel& average, int64_t count);

/// The weight of the new value at up to a thousand of those updates.
std::vector<Point> weight_curve(const AveragedModel& average, const AveragingUpdates& updates);

/// The plot of such a curve. @param scale of the weights
TerminalPlot weight_plot(std::vector<Point> points, Scale scale, int columns, int rows);

/// "from 0.004 at update 1 to 1e-5 at update 99, where it follows the last 1e+05 updates"
std::string weight_range(const std::vector<Point>& points, int64_t length);

}  // namespace polyak::cli
