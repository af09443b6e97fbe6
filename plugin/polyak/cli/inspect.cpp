// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/file_difference.h"
#include "polyak/cli/file_summary.h"
#include "polyak/cli/streams.h"
#include "polyak/core/error.h"
#include "polyak/runtime/run_checkpoint.h"

namespace polyak::cli {
namespace {

struct InspectArguments {
  std::vector<std::string> files;
  std::string key;
  std::string format = "text";
};

/// Names and texts of a file may hold any bytes.
std::string dumped(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

int inspect(const InspectArguments& arguments) {
  const ConsoleLog log;
  const bool as_json = arguments.format == "json";
  if (arguments.files.size() == 1) {
    const std::string& path = arguments.files.front();
    const Value file =
        arguments.key.empty() ? read_checkpoint_file(path) : read_checkpoint(path, arguments.key);
    const FileSummary summary = summarize(path, file);
    write_output(as_json ? dumped(summary_json(summary, file)) : summary_text(summary, file));
    return 0;
  }
  const Value a = read_checkpoint(arguments.files[0], arguments.key);
  const Value b = read_checkpoint(arguments.files[1], arguments.key);
  const FileDifference difference = compare(a.at("state_dict"), b.at("state_dict"));
  write_output(as_json ? dumped(difference_json(difference)) : difference_text(difference));
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show what a file of weights holds, or how two of them differ");
  auto arguments = std::make_shared<InspectArguments>();
  command->add_option("files", arguments->files, "One file, or two to compare")
      ->type_name(kFile)
      ->required()
      ->expected(1, 2);
  command->add_option("--key", arguments->key,
                      "Where the weights are in the file, such as ema; default: found");
  command->add_option("--format", arguments->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  command->callback([arguments, &status] { status = inspect(*arguments); });
}

}  // namespace polyak::cli
