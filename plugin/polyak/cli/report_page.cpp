// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/report_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "polyak/cli/file_summary.h"
#include "polyak/cli/report_figures.h"
#include "polyak/cli/svg_chart.h"
#include "polyak/version.h"

namespace polyak::cli {
namespace {

constexpr size_t kMostMetrics = 3;  // of the table that compares runs

const char* const kStyle =
    "*{box-sizing:border-box}"
    "html{color-scheme:light dark}"
    "body{margin:0 auto;max-width:1120px;padding:20px 16px 60px;background:var(--paper);"
    "color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "h1{font-size:1.6rem;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2em 0 "
    ".6em}"
    "h3{font-size:1rem;margin:1.6em 0 .4em}"
    "p{margin:.4em 0;max-width:46em}.quiet,figcaption,footer{color:var(--quiet);font-size:.875rem}"
    ".verdict{font-size:1.05rem}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px;"
    "margin:16px 0;padding:0}"
    ".tiles div{border:1px solid var(--grid);border-radius:8px;padding:8px 12px}"
    ".tiles dt{color:var(--quiet);font-size:.8rem}.tiles dd{margin:0;font-size:1.25rem;"
    "font-variant-numeric:tabular-nums;overflow-wrap:anywhere}.tiles "
    "small{display:block;font-size:.78rem;"
    "color:var(--quiet)}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr));"
    "gap:22px}"
    "figure{margin:0;min-width:0}figure h3{margin:0 0 2px}svg.chart{display:block;width:100%;"
    "height:auto}"
    "figcaption ul{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:2px 0;padding:0}"
    "figcaption i{display:inline-block;width:20px;border-top:3px solid;margin-right:6px;"
    "vertical-align:middle}"
    "figcaption i.dashed{border-top-style:dashed;border-top-width:2px}"
    "figcaption i.thin{border-top-width:1px}"
    ".bad{color:var(--c4)}.good{color:var(--c2)}"
    ".scroll{overflow-x:auto}"
    "table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--grid);text-align:left;"
    "vertical-align:top;white-space:nowrap}"
    "th{color:var(--quiet);font-weight:500}td.number,th.number{text-align:right}"
    "td.wrap{white-space:normal;overflow-wrap:anywhere;min-width:9em}"
    "td.words{white-space:normal;min-width:9em}a{color:inherit}"
    "details{border-top:1px solid var(--grid);padding:8px 0}summary{cursor:pointer;font-weight:500}"
    "pre{overflow-x:auto;font-size:.82rem;line-height:1.45;padding:12px;border-radius:8px;"
    "border:1px solid var(--grid)}"
    ".dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.5em}"
    "@media print{details>*{display:block}}\n";

// ---- texts

std::string metric_text(double value) {
  if (!std::isfinite(value)) return "NaN";
  return fmt::format("{:.{}f}", value, std::abs(value) >= 10 ? 2 : 4);
}

std::string difference_text(double a, double b) {
  const double value = a - b;
  const int digits = std::max(std::abs(a), std::abs(b)) >= 10 ? 2 : 4;
  if (!std::isfinite(value)) return "NaN";
  return (value > 0   ? "+"
          : value < 0 ? "−"
                      : "±") +
         fmt::format("{:.{}f}", std::abs(value), digits);
}

std::string duration_text(double seconds) {
  if (seconds <= 0) return "unknown";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 1) return fmt::format("{:.2g} s", seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string milliseconds_text(const RunRecord& run) {
  const double seconds = run.training_seconds();
  if (seconds <= 0 || run.iterations() == 0) return "unknown";
  return fmt::format("{:.3g} ms", 1000 * seconds / static_cast<double>(run.iterations()));
}

const char* unit_name(const RunRecord& run) {
  return run.validations_count_epochs ? "epoch" : "iteration";
}

// ---- numbers of a run

const Point* last_of(const std::vector<Point>& points) {
  return points.empty() ? nullptr : &points.back();
}

/// The best finite value, by the metric's direction; null if that is unknown.
const Point* best_of(const MeasuredMetric& metric, const std::vector<Point>& points) {
  if (!metric.larger_is_better) return nullptr;
  const Point* best = nullptr;
  for (const Point& point : points) {
    if (!std::isfinite(point.y)) continue;
    if (!best || (*metric.larger_is_better ? point.y > best->y : point.y < best->y)) best = &point;
  }
  return best;
}

/// What the averaged weights have over the raw ones at the last validation that measured both.
struct Gap {
  double averaged, raw, at;
};

std::optional<Gap> gap_of(const MeasuredMetric& metric) {
  const MeasuredMetric::Curve* const raw = metric.raw();
  const MeasuredMetric::Curve* const averaged = metric.averaged();
  if (!raw || !averaged) return std::nullopt;
  for (auto point = averaged->points.rbegin(); point != averaged->points.rend(); ++point) {
    for (const Point& other : raw->points) {
      if (other.x == point->x) return Gap{point->y, other.y, point->x};
    }
  }
  return std::nullopt;
}

/// Empty where it is unknown which is better.
std::optional<bool> helps(const MeasuredMetric& metric, const Gap& gap) {
  if (!metric.larger_is_better || gap.averaged == gap.raw) return std::nullopt;
  return (gap.averaged > gap.raw) == *metric.larger_is_better;
}

std::string gap_cell(const MeasuredMetric& metric, const Gap& gap) {
  const std::optional<bool> good = helps(metric, gap);
  return fmt::format("<span class=\"{}\">{}</span>",
                     !good   ? "quiet"
                     : *good ? "good"
                             : "bad",
                     difference_text(gap.averaged, gap.raw));
}

void collect_rules(const Node& block, std::vector<std::string>& rules) {
  const Node* averages = block.find("averages");
  if (averages && averages->is_sequence()) {
    for (const Node& entry : averages->items()) {
      const Node* type = entry.is_mapping() ? entry.find("type") : nullptr;
      rules.push_back(type && type->is_scalar() ? type->text() : "ExponentialMovingAverage");
    }
    return;
  }
  const Node* type = block.find("ema_type");
  const Node* name = block.find("name");
  std::string rule = type && type->is_scalar() ? type->text() : "ExponentialMovingAverage";
  if (name && name->is_scalar()) rule += " (" + name->text() + ")";
  rules.push_back(std::move(rule));
}

/// The rules of a run's averages by its config; where that is unknown, whether there were any.
std::string rules_of(const RunRecord& run) {
  std::vector<std::string> rules;
  const Node* hooks = run.config.is_mapping() ? run.config.find("custom_hooks") : nullptr;
  if (hooks && hooks->is_sequence()) {
    for (const Node& hook : hooks->items()) {
      const Node* type = hook.is_mapping() ? hook.find("type") : nullptr;
      if (type && type->is_scalar() && type->text() == "EMAHook") collect_rules(hook, rules);
    }
  }
  if (!rules.empty()) return fmt::format("{}", fmt::join(rules, ", "));
  return run.keys("ema_momentum").empty() ? "none" : "unknown";
}

/// "Averaging helps: ..." of the first metric.
std::string verdict(const RunRecord& run) {
  const std::vector<MeasuredMetric> metrics = run.metrics();
  if (metrics.empty()) {
    return run.validations.empty() ? "The run has not validated yet." : "";
  }
  for (const MeasuredMetric& metric : metrics) {
    const std::optional<Gap> gap = gap_of(metric);
    if (!gap) continue;
    const std::optional<bool> good = helps(metric, *gap);
    const bool finite = std::isfinite(gap->averaged) && std::isfinite(gap->raw);
    return fmt::format(
        "{}{} {} with the averaged weights against {} with the raw ones at {} {:.0f} ({}).",
        !finite ? "Not finite: "
        : !good ? "No difference: "
        : *good ? "Averaging helps: "
                : "Averaging does not help here: ",
        escaped(metric.name), metric_text(gap->averaged), metric_text(gap->raw), unit_name(run),
        gap->at, gap_cell(metric, *gap));
  }
  if (run.keys("ema_momentum").empty()) return "The run averages no weights.";
  return "Only one kind of weights was measured; <code>evaluate_on_origin: true</code> of EMAHook "
         "measures the raw ones, too.";
}

// ---- parts of the page

std::string tile(const std::string& name, const std::string& value, const std::string& more = "") {
  return fmt::format("<div><dt>{}</dt><dd>{}{}</dd></div>\n", escaped(name), escaped(value),
                     more.empty() ? "" : "<small>" + escaped(more) + "</small>");
}

std::string tiles(const RunRecord& run) {
  std::string text = "<dl class=\"tiles\">\n";
  size_t count = 0;
  for (const MeasuredMetric& metric : run.metrics()) {
    if (++count > kMostMetrics) break;
    for (const MeasuredMetric::Curve& curve : metric.curves) {
      const Point* last = last_of(curve.points);
      const Point* best = best_of(metric, curve.points);
      if (!last) continue;
      text += tile(
          metric.name + ", " + curve.weights, metric_text(last->y),
          best ? fmt::format("best {} at {} {:.0f}", metric_text(best->y), unit_name(run), best->x)
               : "");
    }
  }
  const std::vector<Point> loss = run.curve("loss");
  if (const Point* last = last_of(loss)) text += tile("training loss", metric_text(last->y));
  text += tile("iterations", fmt::format("{}", run.iterations()));
  text += tile("training time", duration_text(run.training_seconds()),
               milliseconds_text(run) + " an iteration");
  return text + tile("average", rules_of(run)) + "</dl>\n";
}

std::string figure_text(const Figure& figure) {
  std::string legend;
  if (figure.chart.series.size() > 1) {
    for (const ChartSeries& series : figure.chart.series) {
      legend +=
          fmt::format("<li><i style=\"border-color:var(--c{})\"{}></i>{}</li>", series.color % 8,
                      series.stroke == Stroke::dashed ? " class=\"dashed\""
                      : series.stroke == Stroke::thin ? " class=\"thin\""
                                                      : "",
                      escaped(series.name));
    }
    legend = "<ul>" + legend + "</ul>";
  }
  for (const std::string& note : figure.notes) {
    legend += fmt::format("<p class=\"bad\">{}</p>", escaped(note));
  }
  return fmt::format("<figure><h3>{}</h3>\n{}<figcaption>{}</figcaption></figure>\n",
                     escaped(figure.chart.title), svg_element(figure.chart), legend);
}

std::string charts(const std::vector<Figure>& figures) {
  std::string text = "<div class=\"charts\">\n";
  for (const Figure& figure : figures) text += figure_text(figure);
  return text + "</div>\n";
}

std::string details(const std::string& summary, const std::string& content, bool open = false) {
  return fmt::format("<details{}><summary>{}</summary>\n{}</details>\n",
                     open ? " open=\"open\"" : "", escaped(summary), content);
}

std::string pairs_table(const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::string text = "<div class=\"scroll\"><table>\n";
  for (const auto& [name, value] : pairs) {
    text += fmt::format("<tr><th>{}</th><td class=\"wrap\">{}</td></tr>\n", escaped(name),
                        escaped(value));
  }
  return text + "</table></div>\n";
}

std::string validations_table(const RunRecord& run) {
  const std::vector<MeasuredMetric> metrics = run.metrics();
  std::string head = fmt::format("<tr><th class=\"number\">{}</th>", unit_name(run));
  for (const MeasuredMetric& metric : metrics) {
    for (const MeasuredMetric::Curve& curve : metric.curves) {
      head += fmt::format("<th class=\"number\">{}, {}</th>", escaped(metric.name),
                          escaped(curve.weights));
    }
  }
  std::string text = "<div class=\"scroll\"><table>\n" + head + "</tr>\n";
  for (const LoggedLine& line : run.validations) {
    text += fmt::format("<tr><td class=\"number\">{}</td>", line.step);
    for (const MeasuredMetric& metric : metrics) {
      for (const MeasuredMetric::Curve& curve : metric.curves) {
        const auto found = line.values.find(curve.key);
        text += fmt::format("<td class=\"number\">{}</td>",
                            found == line.values.end() ? "" : metric_text(found->second));
      }
    }
    text += "</tr>\n";
  }
  return text + "</table></div>\n";
}

/// The value of its metric that a file such as best_accuracy_epoch_2.pth was saved for.
std::string score_of(const RunRecord& run, const std::string& name) {
  for (const MeasuredMetric& metric : run.metrics()) {
    for (const MeasuredMetric::Curve& curve : metric.curves) {
      std::string key = curve.key;
      std::replace(key.begin(), key.end(), '/', '_');
      for (const LoggedLine& line : run.validations) {
        for (const char* unit : {"epoch", "iter"}) {
          const std::string start = fmt::format("best_{}_{}_{}.", key, unit, line.step);
          const auto found = line.values.find(curve.key);
          if (name.rfind(start, 0) == 0 && found != line.values.end()) {
            return fmt::format("{} {}", curve.key, metric_text(found->second));
          }
        }
      }
    }
  }
  return "";
}

std::string checkpoints_table(const RunRecord& run) {
  std::string text =
      "<div class=\"scroll\"><table>\n<tr><th>file</th><th class=\"number\">size</th>"
      "<th>what it is</th></tr>\n";
  for (const CheckpointFile& file : run.checkpoints) {
    std::vector<std::string> notes;
    if (file.is_best) {
      const std::string score = score_of(run, file.name);
      notes.push_back(score.empty() ? "the best" : "the best: " + score);
    }
    if (file.is_last) notes.emplace_back("the newest, from which --resume continues");
    text +=
        fmt::format("<tr><td>{}</td><td class=\"number\">{}</td><td class=\"words\">{}</td></tr>\n",
                    escaped(file.name), size_text(file.bytes),
                    escaped(fmt::format("{}", fmt::join(notes, "; "))));
  }
  return text + "</table></div>\n";
}

std::string parts_of(const RunRecord& run) {
  std::string text;
  if (!run.checkpoints.empty()) text += "<h3>Checkpoints</h3>\n" + checkpoints_table(run);
  if (!run.validations.empty()) text += details("All validations", validations_table(run));
  if (!run.warnings.empty()) {
    std::string lines;
    for (const std::string& line : run.warnings) lines += escaped(line) + "\n";
    text += details(fmt::format("Warnings of the log ({})", run.warnings.size()),
                    "<pre>" + lines + "</pre>\n");
  }
  if (!run.environment.empty()) text += details("Environment", pairs_table(run.environment));
  if (!run.config_text.empty()) {
    text += details("Config " + run.config_file, "<pre>" + escaped(run.config_text) + "</pre>\n");
  }
  return text;
}

std::string origin_of(const RunRecord& run) {
  std::string text = fmt::format("{}, run {}", run.folder, run.timestamp);
  if (run.older_runs > 0) {
    text += fmt::format("; {} older run{} in this folder {} not shown", run.older_runs,
                        run.older_runs == 1 ? "" : "s", run.older_runs == 1 ? "is" : "are");
  }
  if (run.unreadable_lines > 0) {
    text += fmt::format("; {} line{} of scalars.json could not be read", run.unreadable_lines,
                        run.unreadable_lines == 1 ? "" : "s");
  }
  return text;
}

// ---- several runs

std::string dot(size_t run) {
  return fmt::format("<span class=\"dot\" style=\"background:var(--c{})\"></span>", run % 8);
}

std::string comparison(const std::vector<RunRecord>& runs) {
  std::vector<std::string> names;
  std::vector<std::vector<MeasuredMetric>> measured;
  for (const RunRecord& run : runs) {
    measured.push_back(run.metrics());
    for (const MeasuredMetric& metric : measured.back()) {
      const bool known = std::find(names.begin(), names.end(), metric.name) != names.end();
      if (!known && names.size() < kMostMetrics) names.push_back(metric.name);
    }
  }
  std::string text = "<div class=\"scroll\"><table>\n<tr><th>run</th><th>averages</th>";
  for (const std::string& name : names) {
    for (const char* what : {"averaged", "raw", "gap", "best"}) {
      text += fmt::format("<th class=\"number\">{}, {}</th>", escaped(name), what);
    }
  }
  text +=
      "<th class=\"number\">loss</th><th class=\"number\">iterations</th>"
      "<th class=\"number\">time</th><th class=\"number\">an iteration</th></tr>\n";
  const auto cell = [](const std::string& content) {
    return "<td class=\"number\">" + content + "</td>";
  };
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunRecord& run = runs[i];
    text += fmt::format("<tr><td>{}<a href=\"#run{}\">{}</a></td><td class=\"words\">{}</td>",
                        dot(i), i, escaped(run.name), escaped(rules_of(run)));
    for (const std::string& name : names) {
      const auto metric =
          std::find_if(measured[i].begin(), measured[i].end(),
                       [&](const MeasuredMetric& item) { return item.name == name; });
      if (metric == measured[i].end()) {
        for (int j = 0; j < 4; ++j) text += cell("");
        continue;
      }
      const auto last_value = [&](const MeasuredMetric::Curve* curve) {
        const Point* last = curve ? last_of(curve->points) : nullptr;
        return last ? metric_text(last->y) : std::string();
      };
      const MeasuredMetric::Curve* const averaged = metric->averaged();
      const std::optional<Gap> gap = gap_of(*metric);
      const Point* best = best_of(*metric, (averaged ? averaged : metric->raw())->points);
      text += cell(last_value(averaged)) + cell(last_value(metric->raw())) +
              cell(gap ? gap_cell(*metric, *gap) : "") + cell(best ? metric_text(best->y) : "");
    }
    const std::vector<Point> loss = run.curve("loss");
    const Point* last = last_of(loss);
    text += cell(last ? metric_text(last->y) : "") + cell(fmt::format("{}", run.iterations())) +
            cell(duration_text(run.training_seconds())) + cell(milliseconds_text(run)) + "</tr>\n";
  }
  return text + "</table></div>\n";
}

void flatten(const Node& node, const std::string& path,
             std::map<std::string, std::string>& values) {
  if (node.is_mapping() && !node.entries().empty()) {
    for (const auto& [key, value] : node.entries()) {
      flatten(value, path.empty() ? key : path + "." + key, values);
    }
  } else if (node.is_sequence() &&
             std::any_of(node.items().begin(), node.items().end(),
                         [](const Node& item) { return !item.is_scalar(); })) {
    for (size_t i = 0; i < node.items().size(); ++i) {
      flatten(node.items()[i], fmt::format("{}[{}]", path, i), values);
    }
  } else {
    std::string text = node.is_null() ? "null" : node.is_scalar() ? node.text() : node.dump();
    while (!text.empty() && text.back() == '\n') text.pop_back();
    values[path] = std::move(text);
  }
}

/// The keys whose values differ between the runs.
std::string config_differences(const std::vector<RunRecord>& runs) {
  std::vector<std::map<std::string, std::string>> configs(runs.size());
  std::set<std::string> keys;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].config.is_mapping()) flatten(runs[i].config, "", configs[i]);
    for (const auto& [key, value] : configs[i]) keys.insert(key);
  }
  std::string rows;
  for (const std::string& key : keys) {
    if (key == "work_dir") continue;
    std::set<std::string> values;
    std::string row = fmt::format("<tr><th>{}</th>", escaped(key));
    for (const auto& config : configs) {
      const auto found = config.find(key);
      const bool known = found != config.end();
      values.insert(known ? "=" + found->second : "");
      row += known ? fmt::format("<td class=\"wrap\">{}</td>", escaped(found->second))
                   : "<td class=\"quiet\">–</td>";
    }
    if (values.size() > 1) rows += row + "</tr>\n";
  }
  if (rows.empty()) return "<p>The configs are the same.</p>\n";
  std::string head = "<tr><th>key</th>";
  for (size_t i = 0; i < runs.size(); ++i) {
    head += fmt::format("<th>{}{}</th>", dot(i), escaped(runs[i].name));
  }
  return "<div class=\"scroll\"><table>\n" + head + "</tr>\n" + rows + "</table></div>\n";
}

std::string body_of_one(const RunRecord& run) {
  return fmt::format("<h1>{}</h1>\n<p class=\"quiet\">{}</p>\n<p class=\"verdict\">{}</p>\n",
                     escaped(run.name), escaped(origin_of(run)), verdict(run)) +
         tiles(run) + charts(figures_of(run)) + "<h2>The run</h2>\n" + parts_of(run);
}

std::string body_of_several(const std::vector<RunRecord>& runs) {
  std::string text = fmt::format("<h1>{} runs</h1>\n", runs.size()) + comparison(runs) +
                     "<h2>Curves</h2>\n<p class=\"quiet\">Solid lines are averaged weights, dashed "
                     "ones raw weights.</p>\n" +
                     charts(figures_of_all(runs)) + "<h2>What differs in the configs</h2>\n" +
                     config_differences(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    text += fmt::format(
        "<h2 id=\"run{}\">{}{}</h2>\n<p class=\"quiet\">{}</p>\n<p class=\"verdict\">{}</p>\n", i,
        dot(i), escaped(runs[i].name), escaped(origin_of(runs[i])), verdict(runs[i]));
    text += tiles(runs[i]) + details("Curves", charts(figures_of(runs[i]))) + parts_of(runs[i]);
  }
  return text;
}

}  // namespace

std::string report_page(const std::vector<RunRecord>& runs) {
  const std::string title =
      runs.size() == 1 ? runs.front().name : fmt::format("{} runs", runs.size());
  return fmt::format(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
      "<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{} - Polyak report</title>\n<style>\n{}"
      ":root{{--paper:#fff}}\n@media (prefers-color-scheme:dark){{:root{{--paper:#14181d}}}}\n{}"
      "</style>\n</head>\n<body>\n{}<footer><p>Made by Polyak {} from scalars.json, the config, "
      "the "
      "log and the checkpoints of {}.</p></footer>\n</body>\n</html>\n",
      escaped(title), chart_style(), kStyle,
      runs.size() == 1 ? body_of_one(runs.front()) : body_of_several(runs), POLYAK_VERSION,
      runs.size() == 1 ? "the run" : "the runs");
}

}  // namespace polyak::cli
