// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "polyak/attach/attached_runner.h"
#include "polyak/attach/config.h"
#include "polyak/attach/program.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/streams.h"
#include "polyak/config/load.h"
#include "polyak/core/error.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/read_all_options.h"

namespace polyak::cli {
namespace fs = std::filesystem;
namespace {

struct AttachArguments {
  std::string config;
  std::vector<std::string> overrides;
};

/// The absolute path of a folder that a key names, created if missing.
std::string make_folder(const char* key, const fs::path& path) {
  const fs::path folder = fs::absolute(path);
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && ::access(folder.c_str(), W_OK) != 0) {
    error = std::error_code(errno, std::generic_category());
  }
  if (error) {
    fail<ConfigError>("{}: {}: cannot be written: {}; use another folder", key, folder.string(),
                      error.message());
  }
  return folder.string();
}

std::string preloaded_library() {
  std::string library = fs::absolute(find_plugin("polyak_attach", "")).string();
  if (library.find_first_of(" :") != std::string::npos) {
    fail<ConfigError>(
        "{}: has a blank or a colon in its path, which the dynamic linker takes for a "
        "separator; install Polyak elsewhere",
        library);
  }
  return library;
}

/// Replaces this process by the program with averaging in it; returns only by an exception.
[[noreturn]] void attach(const AttachArguments& arguments, std::vector<char*> words) {
  if (words.empty()) {
    fail<ConfigError>("attach: no program given; write it after two dashes: attach {} -- PROGRAM",
                      arguments.config);
  }
  // The program's own copy of the library logs everything, once.
  set_log_sink([](LogLevel, std::string_view) {});
  const Catalog& catalog = registered();
  AttachConfig config;
  read_all_options(load_config(arguments.config, arguments.overrides), config, "attach", catalog);
  check_attached_hooks(config, catalog);
  const std::string program = find_program(words.front());
  check_program(program);
  const std::string library = preloaded_library();
  config.output_dir = make_folder(
      "output_dir", config.output_dir ? fs::path(*config.output_dir)
                                      : fs::path("work_dirs") / fs::path(arguments.config).stem());
  if (config.siblings != "beside") config.siblings = make_folder("siblings", config.siblings);

  const char* preload = std::getenv("LD_PRELOAD");
  const std::string before = preload ? preload : "";
  ::setenv(kAttachConfig, to_json(config).c_str(), 1);
  ::setenv(kAttachPreload, before.c_str(), 1);
  ::setenv("LD_PRELOAD", (before.empty() ? library : before + ":" + library).c_str(), 1);
  words.push_back(nullptr);
  restore_signals();
  ::execv(program.c_str(), words.data());
  fail<ConfigError>("{}: cannot be started: {}", program, std::generic_category().message(errno));
}

}  // namespace

void add_attach(CLI::App& app, const std::vector<char*>& program) {
  CLI::App* command = app.add_subcommand(
      "attach",
      "Run a compiled LibTorch program with averaging: attach CONFIG -- PROGRAM [ARG ...]");
  auto arguments = std::make_shared<AttachArguments>();
  command->add_option("config", arguments->config, "YAML file")->required();
  command->add_option("--cfg-options", arguments->overrides, "Override config values")
      ->expected(1, -1);
  command->callback([arguments, &program] { attach(*arguments, program); });
}

}  // namespace polyak::cli
