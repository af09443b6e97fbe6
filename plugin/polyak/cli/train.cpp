// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <string>

#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/run_arguments.h"
#include "polyak/cli/streams.h"
#include "polyak/cli/table.h"
#include "polyak/core/error.h"
#include "polyak/core/log.h"
#include "polyak/runtime/stop_signals.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {
namespace {

int train(const RunArguments& arguments) {
  ConsoleLog log;
  Catalog& catalog = registered();
  const Node config = read_config(arguments);
  log.set_rank(rank_of(config));
  TrainRunner runner(config, catalog);
  runner.stop_on_signals();
  start_files(log, runner);
  runner.train();
  const auto& averages = runner.averages();
  const auto has_bad = [&] {  // the log has said which average it is
    return std::any_of(averages.begin(), averages.end(), [](const NamedAverage& item) {
      return !item.average->find_nonfinite().empty();
    });
  };
  const int signal = runner.stop_signal();
  if (!runner.is_main()) return signal != 0 ? 128 + signal : has_bad() ? 1 : 0;
  print("{}", validation_table(runner.validations(), runner.averages()));
  const bool has_first = std::any_of(averages.begin(), averages.end(),
                                     [](const NamedAverage& item) { return item.name.empty(); });
  std::string file;
  try {
    file = runner.last_checkpoint();
  } catch (const CheckpointError& error) {
    log_warning("{}", error.what());
  }
  print("\nFiles are in {}.{}\n", runner.work_dir(),
        has_first && !file.empty() ? " A checkpoint's state_dict holds the averaged weights." : "");
  if (signal == 0) return has_bad() ? 1 : 0;
  const int64_t done = runner.progress().iter;
  log_warning("{} stopped training after iteration {}; {}", signal_name(signal), done,
              !file.empty() ? fmt::format("--resume continues from {}", file)
              : done == 0   ? "there was nothing to save yet"
                            : "no checkpoint to resume from was saved: no CheckpointHook saves "
                              "the optimizer's state");
  return 128 + signal;
}

}  // namespace

void add_train(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("train", "Train a model as a config describes");
  auto arguments = std::make_shared<RunArguments>();
  add_config(*command, *arguments);
  add_launcher(*command, *arguments);
  command->add_option("--work-dir", arguments->work_dir, "Folder for logs and checkpoints")
      ->type_name(kFolder);
  command->add_option("--load-from", arguments->load_from, "Start from the weights of a checkpoint")
      ->type_name(kFile);
  CLI::Option* resume = command
                            ->add_option("--resume", arguments->resume_from,
                                         "Resume from a checkpoint; default: the last one")
                            ->type_name(kFile)
                            ->expected(0, 1);
  command->callback([arguments, resume, &status] {
    arguments->resume = resume->count() > 0;
    status = train(*arguments);
  });
}

}  // namespace polyak::cli
