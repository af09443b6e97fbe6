// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <fmt/ranges.h>
#include <torch/version.h>
#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "polyak/attach/attached_runner.h"
#include "polyak/attach/config.h"
#include "polyak/attach/program.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/init_texts.h"
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
  bool check = false;
  int64_t dry_run = 0;
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

/// "./trainer" of words as a shell takes them.
std::string command_text(const std::vector<char*>& words) {
  std::string text;
  for (const char* word : words) text += (text.empty() ? "" : " ") + std::string(word);
  return text;
}

/// Says what a program shows of itself, and prints a config for it where none is given.
void say_facts(const ProgramFacts& facts, const std::string& program, const std::string& config,
               const std::vector<char*>& words) {
  std::vector<std::string> optimizers = facts.optimizers;
  if (facts.own_optimizer) optimizers.emplace_back("one of its own, whose steps zero_grad() shows");
  print_error(fmt::format("polyak: {}: can be attached\n  LibTorch    {}, {}\n  optimizers  {}\n",
                          program, TORCH_VERSION, facts.libtorch,
                          optimizers.empty()
                              ? "none; weights that a program updates without one are not averaged"
                              : fmt::format("{}", fmt::join(optimizers, ", "))));
  if (!config.empty()) {
    print_error(fmt::format("  config      {}: fits\n", config));
    return;
  }
  print_error("  config      a proposal for it follows on standard output\n");
  const std::string& text = init_texts().at("attach");
  print("# For `polyak attach THIS_FILE -- {}` (docs/attach.md).\n{}", command_text(words),
        text.substr(text.find('\n') + 1));
}

AttachConfig checked_config(const AttachArguments& arguments) {
  const Catalog& catalog = registered();
  AttachConfig config;
  read_all_options(load_config(arguments.config, arguments.overrides), config, "attach", catalog);
  check_attached_hooks(config, catalog);
  return config;
}

/// Replaces this process by the program with averaging in it; returns only by an exception.
[[noreturn]] void start(AttachConfig config, const AttachArguments& arguments,
                        const std::string& program, std::vector<char*> words) {
  const std::string library = preloaded_library();
  const fs::path folder = config.output_dir
                              ? fs::path(*config.output_dir)
                              : fs::path("work_dirs") / fs::path(arguments.config).stem();
  if (arguments.dry_run > 0) {
    config.output_dir = fs::absolute(folder).string();
    ::setenv(kAttachDryRun, std::to_string(arguments.dry_run).c_str(), 1);
  } else {
    config.output_dir = make_folder("output_dir", folder);
    if (config.siblings != "beside") config.siblings = make_folder("siblings", config.siblings);
  }

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

void attach(const AttachArguments& arguments, const std::vector<char*>& words) {
  if (words.empty()) {
    fail<ConfigError>("attach: no program given; write it after two dashes: attach {} -- PROGRAM",
                      arguments.config.empty() ? "CONFIG" : arguments.config);
  }
  if (arguments.config.empty() && !arguments.check) {
    fail<ConfigError>(
        "attach: no config given; write one before the two dashes, or see what the program needs: "
        "attach --check -- {}",
        command_text(words));
  }
  // The program's own copy of the library logs everything, once.
  set_log_sink([](LogLevel, std::string_view) {});
  AttachConfig config;
  if (!arguments.config.empty()) config = checked_config(arguments);
  const std::string program = find_program(words.front());
  const ProgramFacts facts = check_program(program);
  if (!arguments.check) start(std::move(config), arguments, program, words);
  say_facts(facts, program, arguments.config, words);
}

}  // namespace

void add_attach(CLI::App& app, const std::vector<char*>& program) {
  CLI::App* command = app.add_subcommand(
      "attach",
      "Run a compiled LibTorch program with averaging: attach CONFIG -- PROGRAM [ARG ...]");
  auto arguments = std::make_shared<AttachArguments>();
  command->add_option("config", arguments->config, "YAML file; may be missing with --check")
      ->type_name(kFile);
  command->add_option("--cfg-options", arguments->overrides, "Override config values")
      ->expected(1, -1);
  CLI::Option* const check = command->add_flag(
      "--check", arguments->check,
      "Say whether the program can be attached, what it links, and a config for it; start nothing");
  command
      ->add_option("--dry-run", arguments->dry_run,
                   "End the program after N optimizer steps, say what a run would average, and "
                   "write no averages")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->excludes(check);
  command->callback([arguments, &program] { attach(*arguments, program); });
}

}  // namespace polyak::cli
