// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "polyak/checkpoint/file.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/file_summary.h"
#include "polyak/cli/report_page.h"
#include "polyak/cli/run_record.h"
#include "polyak/cli/streams.h"

namespace polyak::cli {
namespace {

struct ReportArguments {
  std::vector<std::string> folders;
  std::string out = "report.html";
};

/// Folders of the same name get the path that was given.
void name_apart(std::vector<RunRecord>& runs, const std::vector<std::string>& given) {
  std::vector<std::string> names;
  for (const RunRecord& run : runs) names.push_back(run.name);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (std::count(names.begin(), names.end(), names[i]) > 1) runs[i].name = given[i];
  }
}

int report(const ReportArguments& arguments) {
  std::vector<RunRecord> runs;
  for (const std::string& folder : arguments.folders) runs.push_back(read_run(folder));
  name_apart(runs, arguments.folders);
  const std::string page = report_page(runs);
  replace_text_file(arguments.out, page);
  print("{}: {} run{}, {}\n", arguments.out, runs.size(), runs.size() == 1 ? "" : "s",
        size_text(static_cast<int64_t>(page.size())));
  return 0;
}

}  // namespace

void add_report(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("report", "Write a page of curves and tables about one or several runs");
  auto arguments = std::make_shared<ReportArguments>();
  command
      ->add_option("folders", arguments->folders,
                   "Folders of runs (work_dir); several are compared in one page")
      ->type_name(kFolder)
      ->required();
  command->add_option("-o,--out", arguments->out, "The file to write; default: report.html")
      ->type_name(kFile);
  command->callback([arguments, &status] { status = report(*arguments); });
}

}  // namespace polyak::cli
