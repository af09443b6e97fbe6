// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/run_arguments.h"
#include "polyak/cli/run_warnings.h"
#include "polyak/cli/streams.h"
#include "polyak/cli/terminal.h"
#include "polyak/cli/weight_curve.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/read_all_options.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {
namespace {

constexpr int kRows = 6;
constexpr int64_t kMostUpdates = 10'000'000;  // whose weights are computed in a moment

/// The weight of an average over the run.
void log_curve(const NamedAverage& item) {
  const AveragingUpdates updates = averaging_updates(*item.average, item.updates);
  if (item.updates < 1 || item.updates > kMostUpdates) return;
  const std::string name = fmt::format("{}{}", item.average->rule_name(),
                                       item.name.empty() ? "" : fmt::format(" '{}'", item.name));
  if (updates.empty()) {
    log_warning("{}: none of its {} updates averages: the average is a copy of the weights", name,
                item.updates);
    return;
  }
  const Terminal terminal = error_terminal();
  const std::vector<Point> points = weight_curve(*item.average, updates);
  log_info(
      "{}: weight of the new value, {}\n{}", name, weight_range(points, item.updates),
      draw(weight_plot(points, Scale::linear, std::min(terminal.columns, 80), kRows), terminal));
}

int check(const RunArguments& arguments, bool is_static) {
  const ConsoleLog log;
  Catalog& catalog = registered();
  if (is_static) {
    Node config = read_config(arguments);
    const std::unique_ptr<Options> options = make_train_config();
    read_all_options(config, *options, "a training config", catalog);
    make_plugin_paths_absolute(config);
    print("{}", config.dump());
    return 0;
  }
  TrainRunner runner(read_config(arguments), catalog, TrainRunner::Purpose::check);
  runner.hooks().call([&](Hook& hook) {
    if (hook.name() == "EMAHook") hook.before_run(runner);  // builds its average
  });
  for (const std::string& line : runner.summary()) log_info("{}", line);
  for (const NamedAverage& item : runner.averages()) log_curve(item);
  for (const std::string& text : run_warnings(runner)) log_warning("{}", text);
  print("{}", runner.config().dump());
  return 0;
}

}  // namespace

void add_check(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand(
      "check", "Check a config without training, and print it with all inherited values");
  auto arguments = std::make_shared<RunArguments>();
  add_config(*command, *arguments);
  auto is_static = std::make_shared<bool>(false);
  command->add_flag("--static", *is_static,
                    "Read no data and build nothing: check what the config says in itself");
  command->callback([arguments, is_static, &status] { status = check(*arguments, *is_static); });
}

}  // namespace polyak::cli
