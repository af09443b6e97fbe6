// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "polyak/cli/axis.h"
#include "polyak/cli/terminal_plot.h"

namespace polyak::cli {

/// How a line of a chart is drawn.
enum class Stroke { solid, thin, dashed };

/// A line of a chart. Points with a `y` that is not finite are left out and counted.
struct ChartSeries {
  std::string name;
  std::vector<Point> points;  // by ascending x
  int color = 0;              // of the palette, any number from 0
  Stroke stroke = Stroke::solid;
  bool marks = false;  // a dot with its value at each point
};

/// The area between two lines with points at the same places.
struct ChartBand {
  std::vector<Point> upper, lower;
  int color = 0;
};

/// A chart of lines over a common axis.
struct Chart {
  std::string title;
  std::string x_label, y_label;  // `x` has whole numbers
  std::vector<ChartSeries> series;
  std::vector<ChartBand> bands;
  std::optional<Scale> y_scale;  // empty: scale_for()
  int width = 460;               // as wide as a phone shows without making texts too small
  int height = 270;
};

/// The chart as an SVG element, whose colors are those of chart_style(). Names, labels and titles
/// may be any text. A line has no more points than can be seen.
std::string svg_element(const Chart& chart);
/// A file of its own, with its colors.
std::string svg_file(const Chart& chart);
/// CSS of all charts of a page, for light and dark.
std::string chart_style();
/// A text where HTML or XML has one, attributes included.
std::string escaped(const std::string& text);

/// Scale::log where all values are positive and most of them lie in the lowest tenth.
Scale scale_for(const std::vector<ChartSeries>& series);

}  // namespace polyak::cli
