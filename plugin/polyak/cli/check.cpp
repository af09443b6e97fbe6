// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include <memory>

#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/horizon.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/run_arguments.h"
#include "polyak/cli/streams.h"
#include "polyak/core/log.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {
namespace {

int check(const RunArguments& arguments) {
  const ConsoleLog log;
  Catalog& catalog = registered();
  TrainRunner runner(read_config(arguments), catalog, TrainRunner::Purpose::check);
  runner.hooks().call([&](Hook& hook) {
    if (hook.name() == "EMAHook") hook.before_run(runner);  // builds its average
  });
  for (const NamedAverage& item : runner.averages()) {
    if (const std::string text = horizon_warning(item); !text.empty()) log_warning("{}", text);
  }
  print("{}", runner.config().dump());
  return 0;
}

}  // namespace

void add_check(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand(
      "check", "Check a config without training, and print it with all inherited values");
  auto arguments = std::make_shared<RunArguments>();
  add_config(*command, *arguments);
  command->callback([arguments, &status] { status = check(*arguments); });
}

}  // namespace polyak::cli
