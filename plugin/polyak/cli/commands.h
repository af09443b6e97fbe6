// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace CLI {
class App;
}

namespace polyak::cli {

// Each command is a file of its own, with its options, its help and what it does. The functions add
// one to the command line. A command runs while the line is parsed: it leaves its exit status in
// `status` and throws what it cannot do. All references must outlive the parsing.

void add_train(CLI::App& app, int& status);
void add_test(CLI::App& app, int& status);
void add_check(CLI::App& app, int& status);
/// @param program what stands behind two dashes: a program's name and arguments, as main() had
/// them. The command becomes that program and returns by exception only.
void add_attach(CLI::App& app, const std::vector<char*>& program);
void add_list(CLI::App& app, int& status);
void add_describe(CLI::App& app, int& status);

}  // namespace polyak::cli
