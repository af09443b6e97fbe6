// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "polyak/config/load.h"
#include "polyak/config/options.h"
#include "support/own_folder.h"

namespace polyak {

/// The message of the ConfigError that an action must throw.
template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "(no error)";
}

inline std::string parse_error(const std::string& text) {
  return error_of([&] { parse_config(text, "c.yaml"); });
}

/// Runs each test inside of an empty folder of its own, so that messages show short names.
class ConfigFiles : public testing::Test {
 protected:
  void SetUp() override {
    before_ = std::filesystem::current_path();
    std::filesystem::current_path(folder_.path());
  }
  void TearDown() override { std::filesystem::current_path(before_); }

  static void write(const std::filesystem::path& path, const std::string& text) {
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string load_error(const std::string& path) {
    return error_of([&] { load_config(path); });
  }

 private:
  test::OwnFolder folder_;
  std::filesystem::path before_;
};

}  // namespace polyak
