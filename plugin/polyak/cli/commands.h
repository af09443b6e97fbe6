// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace polyak::cli {

/// What `train`, `test` and `check` have in common.
struct RunArguments {
  std::string config;
  std::vector<std::string> overrides;  // a.b.c=value
  std::string work_dir;
  std::string load_from;
  std::string checkpoint;  // of test
  bool resume = false;
  std::string resume_from;  // empty: the last checkpoint in work_dir
};

/// What `attach` receives.
struct AttachArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::vector<char*> program;  // its name and arguments, as main() had them
};

int train(const RunArguments& arguments);
int test(const RunArguments& arguments);
int check(const RunArguments& arguments);
/// Becomes the program, with averaging in it; returns by exception only.
[[noreturn]] void attach(AttachArguments arguments);
/// Names of what is registered: of one kind, or of all.
int list(const std::string& kind);
/// The keys of what is registered under a name; format: text, markdown or json.
int describe(const std::string& name, const std::string& format);

}  // namespace polyak::cli
