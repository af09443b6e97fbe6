// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/cli/axis.h"
#include "polyak/cli/terminal.h"

namespace polyak::cli {

/// A place in a plot. A `y` that is not finite is a gap in the line.
struct Point {
  double x;
  double y;
};

/// A line in a terminal, of braille dots, or of `*` where the terminal has no Unicode.
struct TerminalPlot {
  std::string x_label;
  std::vector<Point> points;  // by ascending x
  Axis x, y;
  int columns = 80;  // of the whole plot, labels included
  int rows = 12;     // of the line's area
};

/// The plot as lines of text, each with its end of line.
std::string draw(const TerminalPlot& plot, const Terminal& terminal);

}  // namespace polyak::cli
