// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/weight_curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace polyak::cli {
namespace {

constexpr int64_t kSamples = 1000;

}  // namespace

AveragingUpdates averaging_updates(const AveragedModel& average, int64_t count) {
  const Node options = average.rule_options();
  const Node* const interval = options.find("interval");
  const Node* const start = options.find("start");
  AveragingUpdates updates{average.begins_after(), 0, interval ? interval->as_int() : 1};
  // The first update copies, unless the average has begun with the initial weights.
  if (!start || start->text() != "initial") updates.first += updates.interval;
  updates.last = updates.first < count ? updates.first + (count - 1 - updates.first) /
                                                             updates.interval * updates.interval
                                       : updates.first - 1;
  return updates;
}

std::vector<Point> weight_curve(const AveragedModel& average, const AveragingUpdates& updates) {
  std::vector<Point> points;
  if (updates.empty()) return points;
  const int64_t count = (updates.last - updates.first) / updates.interval;
  for (int64_t i = 0; i <= std::min(count, kSamples); ++i) {
    const int64_t nth =
        count <= kSamples
            ? i
            : std::llround(static_cast<double>(count) * static_cast<double>(i) / kSamples);
    const int64_t k = updates.first + nth * updates.interval;
    points.push_back({static_cast<double>(k), average.weight(k)});
  }
  return points;
}

TerminalPlot weight_plot(std::vector<Point> points, Scale scale, int columns, int rows) {
  const auto [lowest, highest] = std::minmax_element(
      points.begin(), points.end(), [](const Point& a, const Point& b) { return a.y < b.y; });
  TerminalPlot plot;
  plot.x_label = "update";
  plot.columns = columns;
  plot.rows = rows;
  const double begin = points.front().x < 0.05 * points.back().x ? 0 : points.front().x;
  plot.x = make_axis(begin, points.back().x + 1, Scale::linear, columns / 9, 1);
  const double low = scale == Scale::linear && lowest->y < highest->y / 2 ? 0 : lowest->y;
  plot.y = make_axis(low, highest->y, scale, std::max(rows * 2 / 3, 3));
  plot.points = std::move(points);
  return plot;
}

std::string weight_range(const std::vector<Point>& points, int64_t length) {
  const Point &first = points.front(), &last = points.back();
  return fmt::format(
      "from {:.4g} at update {} to {:.4g} at update {}{}", first.y, first.x, last.y, last.x,
      last.y * static_cast<double>(length) > 1
          ? fmt::format(", where it follows the last {:.4g} updates (1 / weight)", 1 / last.y)
          : "");
}

}  // namespace polyak::cli
