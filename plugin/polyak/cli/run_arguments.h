// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/cli/console_log.h"
#include "polyak/config/node.h"
#include "polyak/trainer/train_runner.h"

namespace CLI {
class App;
}

namespace polyak::cli {

/// The arguments that `train`, `test` and `check` have in common.
struct RunArguments {
  std::string config;
  std::vector<std::string> overrides;  // a.b.c=value
  std::string work_dir;
  std::string load_from;
  std::string checkpoint;  // of test
  std::string launcher;
  bool resume = false;
  std::string resume_from;  // empty: the last checkpoint in work_dir
};

/// Adds the options of all three: the config, and overrides of its values.
void add_config(CLI::App& command, RunArguments& arguments);

/// The config that the arguments describe, with its plugins loaded.
/// @throws ConfigError, PluginError
Node read_config(const RunArguments& arguments);

/// Adds --launcher, for commands that several processes run together.
void add_launcher(CLI::App& command, RunArguments& arguments);

/// The rank of this process by the config's launcher; 0 for one process.
/// @throws ConfigError
int64_t rank_of(const Node& config);

/// Creates the folder of this run in its work_dir, and adds a log file there.
void start_files(ConsoleLog& log, const TrainRunner& runner);

}  // namespace polyak::cli
