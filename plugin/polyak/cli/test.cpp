// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include <memory>

#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/run_arguments.h"
#include "polyak/cli/streams.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {
namespace {

int test(const RunArguments& arguments) {
  ConsoleLog log;
  Catalog& catalog = registered();
  const Node config = read_config(arguments);
  log.set_rank(rank_of(config));
  TrainRunner runner(config, catalog, TrainRunner::Purpose::test);
  start_files(log, runner);
  const Scalars metrics = runner.test();
  if (!runner.is_main()) return 0;
  for (const auto& [name, value] : metrics) print("{}: {:.4f}\n", name, value);
  return 0;
}

}  // namespace

void add_test(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("test", "Evaluate a checkpoint on the config's test data");
  auto arguments = std::make_shared<RunArguments>();
  add_config(*command, *arguments);
  add_launcher(*command, *arguments);
  command->add_option("checkpoint", arguments->checkpoint, "A file of weights")
      ->type_name(kFile)
      ->required();
  command->add_option("--work-dir", arguments->work_dir, "Folder for logs")->type_name(kFolder);
  command->callback([arguments, &status] { status = test(*arguments); });
}

}  // namespace polyak::cli
