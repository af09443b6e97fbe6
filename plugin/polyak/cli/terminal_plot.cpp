// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/terminal_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace polyak::cli {
namespace {

constexpr const char* kLineColor = "\x1b[36m";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kPlain = "\x1b[0m";

std::string colored(const std::string& text, const char* color, const Terminal& terminal) {
  return terminal.color ? color + text + kPlain : text;
}

/// Dots, of which a character holds two columns and four rows; without Unicode, one.
class Canvas {
 public:
  Canvas(int columns, int rows, bool unicode)
      : across_(unicode ? 2 : 1),
        down_(unicode ? 4 : 1),
        columns_(columns),
        cells_(static_cast<size_t>(columns * rows)) {}

  int width() const { return columns_ * across_; }
  int height() const { return static_cast<int>(cells_.size()) / columns_ * down_; }
  /// @param y from the top
  void set(int x, int y) {
    if (x < 0 || x >= width() || y < 0 || y >= height()) return;
    // The dots of a braille character in the order of its bits: both columns, then their last row.
    constexpr uint8_t kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    cells_[static_cast<size_t>(y / down_ * columns_ + x / across_)] |=
        kBits[y % down_][x % across_];
  }
  std::string character(int column, int row) const {
    const uint8_t dots = cells_[static_cast<size_t>(row * columns_ + column)];
    if (dots == 0) return " ";
    if (across_ == 1) return "*";
    return {'\xe2', static_cast<char>(0xa0 | dots >> 6), static_cast<char>(0x80 | (dots & 0x3f))};
  }

 private:
  int across_, down_, columns_;
  std::vector<uint8_t> cells_;  // row by row; bits are dots
};

void draw_line(const TerminalPlot& plot, Canvas& canvas) {
  bool connected = false;
  double last_x = 0, last_y = 0;
  for (const Point& point : plot.points) {
    if (!std::isfinite(point.y)) {
      connected = false;
      continue;
    }
    const double x = plot.x.position(point.x) * (canvas.width() - 1);
    const double y = (1 - plot.y.position(point.y)) * (canvas.height() - 1);
    const double far = connected ? std::max(std::abs(x - last_x), std::abs(y - last_y)) : 0;
    const int steps = std::max(static_cast<int>(std::ceil(far)), 1);
    for (int i = connected ? 0 : steps; i <= steps; ++i) {
      const double part = static_cast<double>(i) / steps;
      const double from_x = connected ? last_x : x, from_y = connected ? last_y : y;
      canvas.set(static_cast<int>(std::lround(from_x + part * (x - from_x))),
                 static_cast<int>(std::lround(from_y + part * (y - from_y))));
    }
    connected = true;
    last_x = x;
    last_y = y;
  }
}

/// The labels below the axis, without those that would touch the one before.
std::string label_row(const Axis& axis, int columns, int indent) {
  std::string row;
  for (const Tick& tick : axis.ticks) {
    const int center =
        indent + static_cast<int>(std::lround(axis.position(tick.value) * (columns - 1)));
    const auto length = static_cast<int>(tick.label.size());
    const int begin = std::clamp(center - length / 2, 0, std::max(indent + columns - length, 0));
    if (!row.empty() && begin <= static_cast<int>(row.size())) continue;
    row.append(static_cast<size_t>(begin) - row.size(), ' ');
    row += tick.label;
  }
  return row;
}

}  // namespace

std::string draw(const TerminalPlot& plot, const Terminal& terminal) {
  size_t margin = 0;
  for (const Tick& tick : plot.y.ticks) margin = std::max(margin, tick.label.size());
  const int indent = static_cast<int>(margin) + 2;
  const int columns = std::max(plot.columns - indent, 10);
  Canvas canvas(columns, plot.rows, terminal.unicode);
  draw_line(plot, canvas);

  std::vector<std::string> labels(static_cast<size_t>(plot.rows));
  for (const Tick& tick : plot.y.ticks) {
    const double row = (1 - plot.y.position(tick.value)) * (plot.rows - 1);
    labels[static_cast<size_t>(std::clamp<long>(std::lround(row), 0, plot.rows - 1))] = tick.label;
  }
  const bool unicode = terminal.unicode;
  std::string text;
  for (int row = 0; row < plot.rows; ++row) {
    const std::string& label = labels[static_cast<size_t>(row)];
    std::string line;
    for (int column = 0; column < columns; ++column) line += canvas.character(column, row);
    line.erase(line.find_last_not_of(' ') + 1);
    const char* edge = unicode ? (label.empty() ? "│" : "┤") : (label.empty() ? "|" : "+");
    text += colored(fmt::format("{:>{}} {}", label, margin, edge), kDim, terminal) +
            (line.empty() ? "" : colored(line, kLineColor, terminal)) + "\n";
  }
  std::string axis = unicode ? "└" : "+";
  for (int column = 0; column < columns; ++column) {
    const bool is_tick =
        std::any_of(plot.x.ticks.begin(), plot.x.ticks.end(), [&](const Tick& tick) {
          return std::lround(plot.x.position(tick.value) * (columns - 1)) == column;
        });
    axis += unicode ? (is_tick ? "┬" : "─") : (is_tick ? "+" : "-");
  }
  text += colored(std::string(margin + 1, ' ') + axis, kDim, terminal) + "\n";
  text += colored(label_row(plot.x, columns, indent), kDim, terminal) + "\n";
  const int middle = indent + (columns - static_cast<int>(plot.x_label.size())) / 2;
  return text + std::string(static_cast<size_t>(std::max(middle, 0)), ' ') + plot.x_label + "\n";
}

}  // namespace polyak::cli
