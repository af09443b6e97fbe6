// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace polyak::cli {
namespace {

constexpr int kColors = 8;
constexpr const char* kLight[kColors] = {"#0b62c4", "#c2410c", "#15803d", "#9333ea",
                                         "#be123c", "#0f766e", "#a16207", "#475569"};
constexpr const char* kDark[kColors] = {"#6cb2ff", "#ff9d5c", "#5ed68a", "#c79bff",
                                        "#ff8098", "#5fd6c8", "#e3bf4e", "#a9b6c8"};
constexpr double kLowPart = 0.1;    // of an axis, where a line cannot be told from 0
constexpr double kLowest = 1e-3;    // of the median, on an axis of powers of ten
constexpr size_t kMostMarks = 120;  // more would hide the line

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

Range range_of_y(const std::vector<ChartSeries>& series) {
  Range range;
  for (const ChartSeries& item : series) {
    for (const Point& point : item.points) range.add(point.y);
  }
  return range;
}

/// The median of the finite values; 0 without any.
double median_of(const std::vector<ChartSeries>& series) {
  std::vector<double> values;
  for (const ChartSeries& item : series) {
    for (const Point& point : item.points) {
      if (std::isfinite(point.y)) values.push_back(point.y);
    }
  }
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The lowest and the highest point of each column of pixels, in their order.
std::vector<Point> thinned(const std::vector<Point>& points, const Axis& x, int columns) {
  if (points.size() <= 2 * static_cast<size_t>(columns)) return points;
  std::vector<Point> kept;
  size_t begin = 0;
  while (begin < points.size()) {
    const auto column = [&](size_t i) {
      return static_cast<int>(std::floor(x.position(points[i].x) * columns));
    };
    size_t end = begin + 1, low = begin, high = begin;
    while (end < points.size() && column(end) == column(begin)) {
      if (points[end].y < points[low].y) low = end;
      if (points[end].y > points[high].y) high = end;
      ++end;
    }
    kept.push_back(points[std::min(low, high)]);
    if (low != high) kept.push_back(points[std::max(low, high)]);
    begin = end;
  }
  return kept;
}

std::string number_text(double value) {
  return std::isfinite(value) ? fmt::format("{:.6g}", value) : "not a finite number";
}

/// The bytes of the character of UTF-8 that begins there; 0: none does.
size_t utf8_length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(at);
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (byte(at + i) >> 6 != 2) return 0;
  }
  const unsigned second = byte(at + 1);  // longer than needed, half of a pair, or beyond Unicode
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  const bool is_noncharacter = first == 0xef && second == 0xbf && byte(at + 2) >= 0xbe;
  return is_noncharacter ? 0 : length;
}

class Drawing {
 public:
  explicit Drawing(const Chart& chart) : chart_(chart) {
    const Scale scale = chart.y_scale.value_or(scale_for(chart.series));
    Range x, y = range_of_y(chart.series);
    for (const ChartSeries& item : chart.series) {
      for (const Point& point : item.points) x.add(point.x);
    }
    if (x.empty()) x = {0, 1};
    if (y.empty()) y = {0, 1};
    if (x.low > 0 && x.low < kLowPart * x.high) x.low = 0;
    if (scale == Scale::log) {
      y.low = std::max(y.low, median_of(chart.series) * kLowest);
    } else if (y.low >= 0 && y.low < 0.25 * y.high) {
      y.low = 0;
    }
    const double room = scale == Scale::log || y.low == 0 ? 0 : (y.high - y.low) * 0.05;
    x_ = make_axis(x.low, x.high, Scale::linear, 7, 1);
    y_ = make_axis(y.low - room, y.high + (scale == Scale::log ? 0 : (y.high - y.low) * 0.05),
                   scale, 6);
    size_t longest = 1;
    for (const Tick& tick : y_.ticks) longest = std::max(longest, tick.label.size());
    left_ = 16 + 7.5 * static_cast<double>(longest);
  }

  std::string text() const {
    std::string text = grid();
    for (const ChartBand& band : chart_.bands) text += area(band);
    for (const ChartSeries& item : chart_.series) text += line(item);
    return text;
  }

 private:
  double right() const { return chart_.width - 14; }
  double top() const { return chart_.y_label.empty() ? 12 : 28; }
  double bottom() const { return chart_.height - 42; }
  double to_x(double value) const { return left_ + x_.position(value) * (right() - left_); }
  double to_y(double value) const {
    return bottom() - std::max(y_.position(value), 0.0) * (bottom() - top());
  }

  std::string grid() const {
    std::string text;
    for (const Tick& tick : y_.ticks) {
      const double y = to_y(tick.value);
      text += fmt::format(
          "<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>"
          "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"end\">{}</text>\n",
          left_, y, right(), left_ - 6, y + 4, escaped(tick.label));
    }
    for (const Tick& tick : x_.ticks) {
      const double x = to_x(tick.value);
      text += fmt::format(
          "<path class=\"tick\" d=\"M{:.1f} {:.1f}v5\"/>"
          "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"mid\">{}</text>\n",
          x, bottom(), x, bottom() + 19, escaped(tick.label));
    }
    text += fmt::format("<path class=\"axis\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n", left_, bottom(),
                        right());
    text += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"mid\">{}</text>\n",
                        (left_ + right()) / 2, bottom() + 37, escaped(chart_.x_label));
    if (!chart_.y_label.empty()) {
      text += fmt::format("<text x=\"8\" y=\"16\">{}{}</text>\n", escaped(chart_.y_label),
                          y_.scale == Scale::log ? " (log scale)" : "");
    }
    return text;
  }

  std::string line(const ChartSeries& item) const {
    const std::vector<Point> points = thinned(item.points, x_, chart_.width);
    std::string path;
    bool connected = false;
    size_t drawn = 0;
    for (const Point& point : points) {
      if (!std::isfinite(point.y) || (y_.scale == Scale::log && point.y <= 0)) {
        connected = false;
        continue;
      }
      path += fmt::format("{}{:.1f} {:.1f}", connected ? "L" : "M", to_x(point.x), to_y(point.y));
      connected = true;
      ++drawn;
    }
    if (drawn == 0) return "";
    const char* const stroke = item.stroke == Stroke::thin     ? " thin"
                               : item.stroke == Stroke::dashed ? " dashed"
                                                               : "";
    std::string text = fmt::format("<path class=\"line s{}{}\" d=\"{}\"><title>{}</title></path>\n",
                                   item.color % kColors, stroke, path, escaped(item.name));
    if (!(item.marks && drawn <= kMostMarks) && drawn > 1) return text;
    for (const Point& point : points) {  // also where a single point makes no line
      if (!std::isfinite(point.y)) continue;
      text += fmt::format(
          "<circle class=\"f{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}: {} at {} "
          "{}</title></circle>\n",
          item.color % kColors, to_x(point.x), to_y(point.y), drawn > 40 ? "2" : "3.2",
          escaped(item.name), number_text(point.y), escaped(chart_.x_label), number_text(point.x));
    }
    return text;
  }

  std::string area(const ChartBand& band) const {
    std::string text, there, back;
    const size_t size = std::min(band.upper.size(), band.lower.size());
    const auto close = [&] {
      if (!there.empty()) {
        text += fmt::format("<path class=\"band f{}\" d=\"M{}L{}Z\"/>\n", band.color % kColors,
                            there.substr(1), back);
      }
      there.clear();
      back.clear();
    };
    for (size_t i = 0; i < size; ++i) {
      const Point &upper = band.upper[i], &lower = band.lower[i];
      if (!std::isfinite(upper.y) || !std::isfinite(lower.y)) {
        close();
        continue;
      }
      there += fmt::format("L{:.1f} {:.1f}", to_x(upper.x), to_y(upper.y));
      back = fmt::format("{:.1f} {:.1f}{}", to_x(lower.x), to_y(lower.y),
                         back.empty() ? "" : "L" + back);
    }
    close();
    return text;
  }

  const Chart& chart_;
  Axis x_, y_;
  double left_ = 0;
};

std::string colors(const char* const (&palette)[kColors], const char* ink, const char* quiet,
                   const char* grid) {
  std::string text = fmt::format("--ink:{};--quiet:{};--grid:{};", ink, quiet, grid);
  for (int i = 0; i < kColors; ++i) text += fmt::format("--c{}:{};", i, palette[i]);
  return text;
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const char letter = text[i];
    const auto code = static_cast<unsigned char>(letter);
    if (letter == '&') {
      result += "&amp;";
    } else if (letter == '<') {
      result += "&lt;";
    } else if (letter == '>') {
      result += "&gt;";
    } else if (letter == '"') {
      result += "&quot;";
    } else if (code < 0x20 && letter != '\n' && letter != '\t') {
      result += ' ';  // XML cannot hold it
    } else if (code >= 0x80) {
      const size_t length = utf8_length(text, i);
      result += length == 0 ? "\xef\xbf\xbd" : text.substr(i, length);  // U+FFFD
      i += std::max<size_t>(length, 1) - 1;
    } else {
      result += letter;
    }
  }
  return result;
}

Scale scale_for(const std::vector<ChartSeries>& series) {
  const Range range = range_of_y(series);
  if (range.empty() || range.low <= 0) return Scale::linear;
  return median_of(series) < kLowPart * range.high ? Scale::log : Scale::linear;
}

std::string chart_style() {
  std::string text =
      ":root{" + colors(kLight, "#1b1f24", "#57606a", "#d9dee4") + "}\n" +
      "@media (prefers-color-scheme:dark){:root{" + colors(kDark, "#e6edf3", "#9aa5b1", "#333b44") +
      "}}\n" +
      "svg.chart text{fill:var(--quiet);font:13px system-ui,sans-serif}"
      "svg.chart .end{text-anchor:end}svg.chart .mid{text-anchor:middle}"
      "svg.chart .title{fill:var(--ink);font-weight:600}"
      "svg.chart .grid{stroke:var(--grid);stroke-width:1}"
      "svg.chart .axis,svg.chart .tick{stroke:var(--quiet);stroke-width:1}"
      "svg.chart .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
      "svg.chart .thin{stroke-width:1}svg.chart .dashed{stroke-dasharray:5 4;stroke-width:1.6}"
      "svg.chart .band{opacity:.18}\n";
  for (int i = 0; i < kColors; ++i) {
    text += fmt::format(".s{0}{{stroke:var(--c{0})}}.f{0}{{fill:var(--c{0})}}", i);
  }
  return text + "\n";
}

std::string svg_element(const Chart& chart) {
  return fmt::format(
      "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" "
      "role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
      chart.width, chart.height, escaped(chart.title), Drawing(chart).text());
}

std::string svg_file(const Chart& chart) {
  constexpr int kTitle = 30;
  return fmt::format(
      "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 {} {} {}\" "
      "width=\"{}\" height=\"{}\" role=\"img\">\n<title>{}</title>\n<style>\n{}</style>\n"
      "<text class=\"title\" x=\"8\" y=\"-10\">{}</text>\n{}</svg>\n",
      -kTitle, chart.width, chart.height + kTitle, chart.width, chart.height + kTitle,
      escaped(chart.title), chart_style(), escaped(chart.title), Drawing(chart).text());
}

}  // namespace polyak::cli
