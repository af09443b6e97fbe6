// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/report_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <utility>

namespace polyak::cli {
namespace {

constexpr int kRawColor = 1;
constexpr size_t kMostOthers = 12;  // charts of what no other chart shows

/// Says what a line leaves out.
void note_gaps(Figure& figure, const ChartSeries& series) {
  const auto is_bad = [](const Point& point) { return !std::isfinite(point.y); };
  const auto bad = std::count_if(series.points.begin(), series.points.end(), is_bad);
  if (bad == 0) return;
  const auto first = std::find_if(series.points.begin(), series.points.end(), is_bad);
  figure.notes.push_back(fmt::format("{} of {} values of {} are not finite, the first at {} {:.0f}",
                                     bad, series.points.size(), series.name, figure.chart.x_label,
                                     first->x));
}

void add_line(Figure& figure, ChartSeries series) {
  if (series.points.empty()) return;
  note_gaps(figure, series);
  figure.chart.series.push_back(std::move(series));
}

Figure figure_of(const std::string& title, const std::string& x_label, const std::string& unit) {
  Figure figure;
  figure.chart.title = title;
  figure.chart.x_label = x_label;
  figure.chart.y_label = unit;
  return figure;
}

void keep(std::vector<Figure>& figures, Figure figure) {
  if (!figure.chart.series.empty()) figures.push_back(std::move(figure));
}

/// Both curves at the places that both have.
ChartBand band_between(const MeasuredMetric::Curve& a, const MeasuredMetric::Curve& b, int color) {
  std::map<double, double> others;
  for (const Point& point : b.points) others[point.x] = point.y;
  ChartBand band;
  band.color = color;
  for (const Point& point : a.points) {
    const auto other = others.find(point.x);
    if (other == others.end()) continue;
    band.upper.push_back(point);
    band.lower.push_back({point.x, other->second});
  }
  return band;
}

const char* unit_of(const RunRecord& run) {
  return run.validations_count_epochs ? "epoch" : "iteration";
}

std::string title_of_average(const std::string& name) {
  return name.empty() ? "the average" : name;
}

std::vector<Point> in_milliseconds(std::vector<Point> points) {
  for (Point& point : points) point.y *= 1000;
  return points;
}

std::vector<std::string> losses_of(const RunRecord& run) {
  std::vector<std::string> names;
  for (const std::string& key : run.keys("")) {
    if (key.find("loss") != std::string::npos) names.push_back(key);
  }
  // The total first.
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name == "loss"; });
  return names;
}

Figure metric_figure(const RunRecord& run, const MeasuredMetric& metric) {
  Figure figure = figure_of(metric.name, unit_of(run), "");
  figure.chart.y_scale = Scale::linear;
  const MeasuredMetric::Curve* const raw = metric.raw();
  const MeasuredMetric::Curve* const averaged = metric.averaged();
  if (raw && averaged) figure.chart.bands.push_back(band_between(*averaged, *raw, 0));
  int color = 0;
  for (const MeasuredMetric::Curve& curve : metric.curves) {
    if (color == kRawColor) ++color;
    const int own = curve.is_raw() ? kRawColor : color++;
    add_line(figure,
             {curve.weights == "raw" || curve.weights == "averaged" ? curve.weights + " weights"
                                                                    : "average " + curve.weights,
              curve.points, own, Stroke::solid, true});
  }
  return figure;
}

}  // namespace

std::vector<Figure> figures_of(const RunRecord& run) {
  std::vector<Figure> figures;
  for (const MeasuredMetric& metric : run.metrics()) keep(figures, metric_figure(run, metric));

  std::set<std::string> shown;
  const auto add = [&](Figure figure, const std::vector<std::string>& keys,
                       const std::function<std::string(const std::string&)>& name,
                       bool milliseconds = false) {
    int color = 0;
    for (const std::string& key : keys) {
      shown.insert(key);
      std::vector<Point> points = run.curve(key);
      if (milliseconds) points = in_milliseconds(std::move(points));
      add_line(figure, {name(key), std::move(points), color++, Stroke::solid, false});
    }
    keep(figures, std::move(figure));
  };
  const auto as_logged = [](const std::string& key) { return key; };
  const auto of_average = [&](const char* scalar) {
    return [scalar](const std::string& key) {
      return title_of_average(RunRecord::average_of(key, scalar));
    };
  };
  add(figure_of("training loss", "iteration", ""), losses_of(run), as_logged);
  add(figure_of("weight of the new value in each average", "iteration", "weight"),
      run.keys("ema_momentum"), of_average("ema_momentum"));
  add(figure_of("distance of each average from the weights", "iteration", "relative distance"),
      run.keys("ema_distance"), of_average("ema_distance"));
  add(figure_of("learning rate", "iteration", ""), {"lr"}, as_logged);
  add(
      figure_of("time of an iteration", "iteration", "ms"), {"time", "data_time"},
      [](const std::string& key) { return key == "time" ? "iteration" : "waiting for data"; },
      /*milliseconds=*/true);
  add(figure_of("time of an update of the averages", "iteration", "ms"), {"ema_time_ms"},
      [](const std::string&) { return "all averages"; });
  for (const std::string& key : run.keys("ema_horizon")) shown.insert(key);  // 1 / weight
  size_t others = 0;
  for (const std::string& key : run.keys("")) {
    if (shown.count(key) || ++others > kMostOthers) continue;
    add(figure_of(key, "iteration", ""), {key}, as_logged);
  }
  return figures;
}

std::vector<Figure> figures_of_all(const std::vector<RunRecord>& runs) {
  std::vector<Figure> figures;
  std::set<std::pair<std::string, std::string>> metrics;  // and what they are counted by
  std::vector<std::vector<MeasuredMetric>> measured;
  for (const RunRecord& run : runs) {
    measured.push_back(run.metrics());
    for (const MeasuredMetric& metric : measured.back()) {
      metrics.emplace(metric.name, unit_of(run));
    }
  }
  for (const auto& [name, unit] : metrics) {
    Figure figure = figure_of(name, unit, "");
    figure.chart.y_scale = Scale::linear;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (unit_of(runs[i]) != unit) continue;
      const int color = static_cast<int>(i);
      for (const MeasuredMetric& metric : measured[i]) {
        if (metric.name != name) continue;
        const MeasuredMetric::Curve* const raw = metric.raw();
        const MeasuredMetric::Curve* const averaged = metric.averaged();
        if (raw && averaged) figure.chart.bands.push_back(band_between(*averaged, *raw, color));
        for (const MeasuredMetric::Curve& curve : metric.curves) {
          const bool is_first = &curve == &metric.curves.front();
          add_line(figure, {fmt::format("{}, {}", runs[i].name, curve.weights), curve.points, color,
                            curve.is_raw() ? Stroke::dashed
                            : is_first     ? Stroke::solid
                                           : Stroke::thin,
                            is_first});
        }
      }
    }
    keep(figures, std::move(figure));
  }
  const auto add = [&](Figure figure, const std::string& prefix, bool all, bool milliseconds) {
    for (size_t i = 0; i < runs.size(); ++i) {
      std::vector<std::string> keys = runs[i].keys(prefix);
      if (!all) keys = {prefix};
      for (const std::string& key : keys) {
        std::vector<Point> points = runs[i].curve(key);
        if (milliseconds) points = in_milliseconds(std::move(points));
        const std::string average = RunRecord::average_of(key, prefix);
        add_line(figure,
                 {runs[i].name + (average.empty() ? "" : ", " + average), std::move(points),
                  static_cast<int>(i), average.empty() ? Stroke::solid : Stroke::thin, false});
      }
    }
    keep(figures, std::move(figure));
  };
  add(figure_of("training loss", "iteration", ""), "loss", false, false);
  add(figure_of("weight of the new value in each average", "iteration", "weight"), "ema_momentum",
      true, false);
  add(figure_of("distance of each average from the weights", "iteration", "relative distance"),
      "ema_distance", true, false);
  add(figure_of("learning rate", "iteration", ""), "lr", false, false);
  add(figure_of("time of an iteration", "iteration", "ms"), "time", false, true);
  return figures;
}

}  // namespace polyak::cli
