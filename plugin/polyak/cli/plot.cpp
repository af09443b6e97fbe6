// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/checkpoint/file.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/streams.h"
#include "polyak/cli/svg_chart.h"
#include "polyak/cli/terminal.h"
#include "polyak/cli/terminal_plot.h"
#include "polyak/cli/weight_curve.h"
#include "polyak/config/load.h"
#include "polyak/core/error.h"
#include "polyak/rules/bema.h"
#include "polyak/rules/sliding_window_average.h"

namespace polyak::cli {
namespace {

constexpr int64_t kUsualUpdates = 10'000;
constexpr int64_t kMostUpdates = 10'000'000;  // whose shares are computed in a moment

struct PlotArguments {
  std::string name;
  std::vector<std::string> settings;  // key=value
  std::string svg;
  std::string scale = "auto";
  std::optional<int64_t> updates;
  std::optional<int64_t> epoch;
  std::optional<int64_t> batch_size;
  std::optional<int> width;
  int height = 12;
  bool ascii = false;
};

/// The rule's block, as a config would hold it.
Node rule_block(const PlotArguments& arguments) {
  Node rule = Node::mapping();
  for (const std::string& setting : arguments.settings) {
    apply_override(rule, setting, "plot average");
  }
  if (const Node* type = rule.find("type")) {
    type->fail("the type is the name of the average; remove it");
  }
  Node type(arguments.name);
  type.set_place({"plot average", 0, 0});
  rule.set("type", std::move(type));
  return rule;
}

int64_t updates_of(const PlotArguments& arguments, const Node& rule) {
  if (arguments.updates) return *arguments.updates;
  const Node* length = rule.find("max_iters");
  if (length && length->is_int() && length->as_int() >= 2) {
    return std::min(length->as_int(), kMostUpdates);
  }
  return kUsualUpdates;
}

/// What the weights make of the average at the end: from how many of its last updates half of it
/// comes, and what is left of the weights that it began with.
std::string shares(const AveragedModel& average, const AveragingUpdates& updates) {
  const std::string rule = average.rule_name();
  if (rule == SlidingWindowAverageOptions::kName) return "";  // snapshots leave it again
  const char* const of = rule == BEMAOptions::kName ? "the running average, before its correction,"
                                                    : "the average at the end";
  double left = 1;  // what the updates so far, from the last one on, leave for those before
  std::optional<int64_t> half;
  for (int64_t k = updates.last; k >= updates.first; k -= updates.interval) {
    left *= 1 - average.weight(k);
    if (!half && left <= 0.5) half = updates.last - k + updates.interval;
  }
  const std::string percent = left < 1e-4 ? "less than 0.01" : fmt::format("{:.3g}", 100 * left);
  const int64_t all = updates.last - updates.first + updates.interval;
  return half
             ? fmt::format(
                   "half of {} comes from its last {} of {} updates; its first weights are {} % of "
                   "it\n",
                   of, std::min(*half, all), all, percent)
             : fmt::format("{} % of {} are still its first weights\n", percent, of);
}

std::string title_of(const PlotArguments& arguments) {
  return fmt::format("{}{}", arguments.name,
                     arguments.settings.empty()
                         ? ""
                         : " " + fmt::format("{}", fmt::join(arguments.settings, " ")));
}

int plot_average(const PlotArguments& arguments) {
  const Node rule = rule_block(arguments);
  const int64_t length = updates_of(arguments, rule);
  const ModelRef model({{"weight", at::zeros({1}), false}});
  AveragedModel::Context context;
  context.model = model;
  context.max_iters = length;
  context.lengths = {length, static_cast<double>(arguments.epoch.value_or(0)),
                     arguments.batch_size.value_or(0)};
  const std::shared_ptr<AveragedModel> average =
      registered().of<AveragedModel>().build(rule, context);

  const AveragingUpdates updates = averaging_updates(*average, length);
  if (updates.empty()) {
    fail<ConfigError>("{}: none of the first {} updates averages; --updates N shows more of them",
                      arguments.name, length);
  }

  Chart chart;
  chart.title = title_of(arguments) + ": weight of the new value";
  chart.x_label = "update";
  chart.y_label = "weight";
  chart.series.push_back(
      {arguments.name, weight_curve(*average, updates), 0, Stroke::solid, false});
  if (arguments.scale != "auto") {
    chart.y_scale = arguments.scale == "log" ? Scale::log : Scale::linear;
  }
  const std::vector<Point>& points = chart.series.front().points;
  const auto lowest = std::min_element(points.begin(), points.end(),
                                       [](const Point& a, const Point& b) { return a.y < b.y; });
  if (arguments.scale == "log" && lowest->y <= 0) {
    fail<ConfigError>("--scale log: the weight becomes {:g}, which has no logarithm", lowest->y);
  }

  if (!arguments.svg.empty()) {
    replace_text_file(arguments.svg, svg_file(chart));
    print("{}: {}\n", arguments.svg, chart.title);
    return 0;
  }
  Terminal terminal = output_terminal();
  if (arguments.ascii) terminal.unicode = false;
  const Scale scale = chart.y_scale.value_or(scale_for(chart.series));
  const int columns =
      std::clamp(arguments.width.value_or(std::min(terminal.columns, 100)), 30, 500);
  const TerminalPlot plot = weight_plot(points, scale, columns, arguments.height);
  print("{}{}\n{}\n", chart.title, scale == Scale::log ? " (log scale)" : "", draw(plot, terminal));
  print("{}\n", weight_range(points, length));
  print("{}", shares(*average, updates));
  return 0;
}

}  // namespace

void add_plot(CLI::App& app, int& status) {
  CLI::App* plot = app.add_subcommand("plot", "Draw what a config would do");
  plot->require_subcommand(1);
  CLI::App* command =
      plot->add_subcommand("average", "Draw the weight of an average over a run, as it falls");
  auto arguments = std::make_shared<PlotArguments>();
  command->add_option("name", arguments->name, "A registered average, e.g. CosineEMA")
      ->type_name(kAverage)
      ->required();
  command->add_option("settings", arguments->settings,
                      "Its keys as in a config: key=value, e.g. momentum=0.004 max_iters=10000");
  command->add_option("--svg", arguments->svg, "Write the curve to this file instead")
      ->type_name(kFile);
  command
      ->add_option("--updates", arguments->updates,
                   "Updates of the run; default: max_iters, or 10000")
      ->check(CLI::Range(int64_t{2}, kMostUpdates));
  command->add_option("--epoch", arguments->epoch, "Updates of an epoch, for lengths such as 2ep")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--batch-size", arguments->batch_size,
                   "Samples of an update, for base_batch_size and lengths such as 100000samples")
      ->check(CLI::PositiveNumber);
  command->add_option("--scale", arguments->scale, "auto, linear or log")
      ->check(CLI::IsMember({"auto", "linear", "log"}));
  command->add_option("--width", arguments->width, "Columns; default: the terminal's, 100 at most")
      ->check(CLI::Range(30, 500));
  command->add_option("--height", arguments->height, "Lines of the curve")
      ->check(CLI::Range(4, 100));
  command->add_flag("--ascii", arguments->ascii, "Draw without Unicode");
  command->callback([arguments, &status] { status = plot_average(*arguments); });
}

}  // namespace polyak::cli
