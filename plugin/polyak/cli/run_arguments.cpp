// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/run_arguments.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "polyak/cli/command_text.h"
#include "polyak/cli/registered.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/distributed/placement.h"
#include "polyak/loader/loader.h"
#include "polyak/runtime/run_checkpoint.h"

namespace polyak::cli {
namespace fs = std::filesystem;
namespace {

bool overrides_key(const RunArguments& arguments, const std::string& key) {
  return std::any_of(arguments.overrides.begin(), arguments.overrides.end(),
                     [&](const std::string& text) { return text.rfind(key + "=", 0) == 0; });
}

}  // namespace

void add_config(CLI::App& command, RunArguments& arguments) {
  command.add_option("config", arguments.config, "YAML file")->type_name(kFile)->required();
  command
      .add_option(
          "--cfg-options", arguments.overrides,
          "Override config values: a.b.0.c=value. Lists: 1,2 or [1,2]; a string with commas, "
          "or with blanks at its ends, needs quotes of its own: name='\"a,b\"'")
      ->expected(1, -1);
}

void add_launcher(CLI::App& command, RunArguments& arguments) {
  command
      .add_option("--launcher", arguments.launcher,
                  "What started this process and others that train with it: none, pytorch, mpi "
                  "or slurm")
      ->type_name("WORD:{none,pytorch,mpi,slurm}");
}

int64_t rank_of(const Node& config) {
  const Node* launcher = config.find("launcher");
  if (!launcher || launcher->is_null()) return 0;
  return find_placement(launcher_of(launcher->as_string())).rank;
}

Node read_config(const RunArguments& arguments) {
  Node config = load_config(arguments.config, arguments.overrides);
  auto set = [&](const char* key, Node value) {
    if (overrides_key(arguments, key)) return;  // --cfg-options overrides every other option
    value.set_path(key);
    config.set(key, std::move(value));
  };
  if (!arguments.work_dir.empty()) set("work_dir", arguments.work_dir);
  if (!arguments.launcher.empty()) set("launcher", arguments.launcher);
  if (!arguments.load_from.empty()) set("load_from", arguments.load_from);
  if (arguments.resume &&
      arguments.resume_from.empty()) {  // the last checkpoint overrides load_from
    const Node* folder = config.find("work_dir");
    const fs::path work_dir = folder && !folder->is_null()
                                  ? fs::path(folder->as_string())
                                  : fs::path("work_dirs") / fs::path(arguments.config).stem();
    const Node* base = config.find("load_from");
    if (!find_last_checkpoint(work_dir.string(), out_dirs(config)).empty()) {
      set("load_from", Node());
    } else if (base && !base->is_null()) {
      log_info("--resume: {} holds no checkpoint yet; starting from {}", work_dir.string(),
               base->is_mapping() ? base->at("path").text() : base->text());
      load_plugins(config, registered());
      return config;
    }
  }
  if (arguments.resume) set("resume", true);
  if (!arguments.resume_from.empty()) set("load_from", arguments.resume_from);
  if (!arguments.checkpoint.empty()) set("load_from", arguments.checkpoint);

  load_plugins(config, registered());
  return config;
}

void start_files(ConsoleLog& log, const TrainRunner& runner) {
  if (!runner.is_main()) return;
  const auto folder = fs::path(runner.work_dir()) / runner.timestamp();
  fs::create_directories(folder);
  log.add_file((folder / (runner.timestamp() + ".log")).string());
}

}  // namespace polyak::cli
