// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/commands.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "polyak/attach/attached_runner.h"
#include "polyak/attach/config.h"
#include "polyak/attach/program.h"
#include "polyak/averaging/register.h"
#include "polyak/cli/streams.h"
#include "polyak/cli/table.h"
#include "polyak/config/load.h"
#include "polyak/config/nearest.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/stop_signals.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {
namespace {

namespace fs = std::filesystem;

/// Everything this process can build from a config. Never destroyed: plugins stay until the end.
Catalog& catalog() {
  static Catalog& instance = *new Catalog;
  return instance;
}

void fill_catalog() {
  register_averages(catalog());
  register_trainer(catalog());
  load_plugin(find_plugin("polyak_hooks", ""), catalog());
}

/// Messages go to standard error in MMEngine's form, and to a file once there is a work_dir.
class Log {
 public:
  Log() : logger_("polyak", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger_.sinks().front()->set_pattern("%m/%d %H:%M:%S - polyak - %v");
    logger_.set_error_handler([this](const std::string& message) {
      if (!std::exchange(failed_, true)) {
        print_error(fmt::format("polyak: {}; going on without the log file\n", message));
      }
    });
    set_log_sink([this](LogLevel level, std::string_view text) {
      logger_.log(convert(level), "{} - {}", name_of(level), text);
    });
  }
  ~Log() { set_log_sink(nullptr); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void add_file(const std::string& file) {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
    sink->set_pattern("%Y/%m/%d %H:%M:%S - polyak - %v");
    logger_.sinks().push_back(sink);
    logger_.flush_on(spdlog::level::info);
  }

 private:
  static spdlog::level::level_enum convert(LogLevel level) {
    switch (level) {
      case LogLevel::debug:
        return spdlog::level::debug;
      case LogLevel::info:
        return spdlog::level::info;
      case LogLevel::warning:
        return spdlog::level::warn;
      case LogLevel::error:
        return spdlog::level::err;
    }
    return spdlog::level::info;
  }

  static const char* name_of(LogLevel level) {
    switch (level) {
      case LogLevel::debug:
        return "DEBUG";
      case LogLevel::info:
        return "INFO";
      case LogLevel::warning:
        return "WARNING";
      case LogLevel::error:
        return "ERROR";
    }
    return "";
  }

  spdlog::logger logger_;
  bool failed_ = false;  // to write into the file
};

bool overrides_key(const RunArguments& arguments, const std::string& key) {
  return std::any_of(arguments.overrides.begin(), arguments.overrides.end(),
                     [&](const std::string& text) { return text.rfind(key + "=", 0) == 0; });
}

Node read_config(const RunArguments& arguments) {
  Node config = load_config(arguments.config, arguments.overrides);
  auto set = [&](const char* key, Node value) {
    if (overrides_key(arguments, key)) return;  // --cfg-options goes before every other option
    value.set_path(key);
    config.set(key, std::move(value));
  };
  if (!arguments.work_dir.empty()) set("work_dir", arguments.work_dir);
  if (!arguments.load_from.empty()) set("load_from", arguments.load_from);
  if (arguments.resume &&
      arguments.resume_from.empty()) {  // the last checkpoint goes before load_from
    const Node* folder = config.find("work_dir");
    const fs::path work_dir = folder && !folder->is_null()
                                  ? fs::path(folder->as_string())
                                  : fs::path("work_dirs") / fs::path(arguments.config).stem();
    const Node* base = config.find("load_from");
    if (!find_last_checkpoint(work_dir.string(), out_dirs(config)).empty()) {
      set("load_from", Node());
    } else if (base && !base->is_null()) {
      log_info("--resume: {} holds no checkpoint yet; starting from {}", work_dir.string(),
               base->text());
      load_plugins(config, catalog());
      return config;
    }
  }
  if (arguments.resume) set("resume", true);
  if (!arguments.resume_from.empty()) set("load_from", arguments.resume_from);
  if (!arguments.checkpoint.empty()) set("load_from", arguments.checkpoint);

  load_plugins(config, catalog());
  return config;
}

void start_files(Log& log, const TrainRunner& runner) {
  const auto folder = fs::path(runner.work_dir()) / runner.timestamp();
  fs::create_directories(folder);
  log.add_file((folder / (runner.timestamp() + ".log")).string());
}

}  // namespace

int train(const RunArguments& arguments) {
  Log log;
  fill_catalog();
  TrainRunner runner(read_config(arguments), catalog());
  runner.stop_on_signals();
  start_files(log, runner);
  runner.train();
  print("{}", validation_table(runner.validations(), runner.averages()));
  const auto& averages = runner.averages();
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
  const int signal = runner.stop_signal();
  if (signal == 0) return 0;
  const int64_t done = runner.progress().iter;
  log_warning("{} stopped training after iteration {}; {}", signal_name(signal), done,
              !file.empty() ? fmt::format("--resume goes on from {}", file)
              : done == 0   ? "there was nothing to save yet"
                            : "nothing was saved that a run could go on from: no CheckpointHook "
                              "saves the optimizer's state");
  return 128 + signal;
}

int test(const RunArguments& arguments) {
  Log log;
  fill_catalog();
  TrainRunner runner(read_config(arguments), catalog(), TrainRunner::Purpose::test);
  start_files(log, runner);
  for (const auto& [name, value] : runner.test()) print("{}: {:.4f}\n", name, value);
  return 0;
}

int check(const RunArguments& arguments) {
  Log log;
  fill_catalog();
  const TrainRunner runner(read_config(arguments), catalog(), TrainRunner::Purpose::check);
  print("{}", runner.config().dump());
  return 0;
}

// ---- attach

namespace {

/// A folder that a key names, made where it is not there, as an absolute path.
std::string make_folder(const char* key, const fs::path& path) {
  const fs::path folder = fs::absolute(path);
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && ::access(folder.c_str(), W_OK) != 0) {
    error = std::error_code(errno, std::generic_category());
  }
  if (error) {
    fail<ConfigError>("{}: {}: cannot be written: {}; name another folder", key, folder.string(),
                      error.message());
  }
  return folder.string();
}

std::string preloaded_library() {
  std::string library = fs::absolute(find_plugin("polyak_attach", "")).string();
  if (library.find_first_of(" :") != std::string::npos) {
    fail<ConfigError>(
        "{}: has a blank or a colon in its path, which the dynamic linker takes for the end of a "
        "name; install Polyak elsewhere",
        library);
  }
  return library;
}

}  // namespace

void attach(AttachArguments arguments) {
  // The program's own copy of the library says what there is to say, once.
  set_log_sink([](LogLevel, std::string_view) {});
  fill_catalog();
  AttachConfig config = read_attach_config(load_config(arguments.config, arguments.overrides));
  check_attached_hooks(config, catalog());
  const std::string program = find_program(arguments.program.front());
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
  arguments.program.push_back(nullptr);
  restore_signals();
  ::execv(program.c_str(), arguments.program.data());
  fail<ConfigError>("{}: cannot be started: {}", program, std::generic_category().message(errno));
}

// ---- what is registered

int list(const std::string& kind) {
  fill_catalog();
  std::vector<std::string> kinds;
  bool found = false;
  for (const RegistryBase* registry : catalog().all()) {
    kinds.push_back(registry->kind());
    if (!kind.empty() && kind != registry->kind()) continue;
    found = true;
    print("{}\n", registry->kind());
    for (const std::string& name : registry->names()) {
      print("  {:<26} {}\n", name, registry->describe(name).doc);
    }
  }
  if (!found) {
    const std::string near = nearest_name(kind, kinds);
    fail<ConfigError>("no kind is named '{}'; {}the kinds are: {}", kind,
                      near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                      fmt::join(kinds, ", "));
  }
  return 0;
}

namespace {

void describe_text(const std::string& name, const RegistryBase::Description& description) {
  print("{}: {}\n\n", name, description.doc);
  for (const KeyDescription& key : description.keys) {
    if (key.rest) {
      print("  ...\n      {}\n", key.doc);
      continue;
    }
    print("  {}: {}{}\n      {}{}\n", key.name, key.type,
          key.required ? ", required" : fmt::format(", default {}", key.default_value), key.doc,
          key.range.empty() ? "" : fmt::format(" Must be {}.", key.range));
  }
}

void describe_markdown(const std::string& name, const RegistryBase::Description& description) {
  print("### {}\n\n{}\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n", name,
        description.doc);
  for (const KeyDescription& key : description.keys) {
    print("| `{}` | {} | {} | {} | {} |\n", key.name, key.type,
          key.required ? "required"
          : key.rest   ? ""
                       : fmt::format("`{}`", key.default_value),
          key.range, key.doc);
  }
  print("\n");
}

void describe_json(const std::string& kind, const std::string& name,
                   const RegistryBase::Description& description) {
  nlohmann::ordered_json json{{"kind", kind}, {"name", name}, {"doc", description.doc}};
  json["keys"] = nlohmann::ordered_json::array();
  for (const KeyDescription& key : description.keys) {
    nlohmann::ordered_json entry{{"name", key.name}, {"type", key.type}, {"doc", key.doc}};
    key.required ? entry["required"] = true : entry["default"] = key.default_value;
    if (!key.range.empty()) entry["range"] = key.range;
    json["keys"].push_back(entry);
  }
  print("{}\n", json.dump(2));
}

}  // namespace

int describe(const std::string& name, const std::string& format) {
  fill_catalog();
  std::vector<std::string> names;
  bool found = false;
  for (const RegistryBase* registry : catalog().all()) {
    for (const std::string& known : registry->names()) names.push_back(known);
    if (!registry->contains(name)) continue;
    found = true;
    const RegistryBase::Description description = registry->describe(name);
    if (format == "markdown") {
      describe_markdown(name, description);
    } else if (format == "json") {
      describe_json(registry->kind(), name, description);
    } else {
      describe_text(name, description);
    }
  }
  if (!found) {
    const std::string near = nearest_name(name, names);
    fail<ConfigError>("nothing is named '{}'; {}`polyak list` shows what there is", name,
                      near.empty() ? "" : fmt::format("did you mean '{}'? ", near));
  }
  return 0;
}

}  // namespace polyak::cli
