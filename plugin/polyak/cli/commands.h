// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace CLI {
class App;
}

namespace polyak::cli {

// Each command has a file of its own, with its options, its help and its action. These functions
// add a command to the command line. A command runs while the line is parsed: it stores its exit
// status in `status` and throws on errors. All references must outlive the parsing.

void add_train(CLI::App& app, int& status);
void add_test(CLI::App& app, int& status);
void add_check(CLI::App& app, int& status);
/// @param program what follows two dashes: a program's name and arguments, as main() got them. The
///   command becomes that program, or throws; with --check it returns.
void add_attach(CLI::App& app, const std::vector<char*>& program);
void add_list(CLI::App& app, int& status);
void add_describe(CLI::App& app, int& status);
void add_schema(CLI::App& app, int& status);
void add_init(CLI::App& app, int& status);
void add_inspect(CLI::App& app, int& status);
void add_convert(CLI::App& app, int& status);
void add_average(CLI::App& app, int& status);
void add_plot(CLI::App& app, int& status);
void add_report(CLI::App& app, int& status);
// These two describe all commands that are there when they run.
void add_completion(CLI::App& app);
void add_man(CLI::App& app);

}  // namespace polyak::cli
