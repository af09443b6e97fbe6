// SPDX-License-Identifier: Apache-2.0
// What the command says about wrong configs, as whole texts: golden/wrong_configs.txt.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "polyak/averaging/register.h"
#include "polyak/config/load.h"
#include "polyak/config/problems.h"
#include "polyak/loader/loader.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

struct WrongConfig {
  std::string title;
  std::vector<std::pair<std::string, std::string>> files;
  std::string text;
};

const std::string kTable = POLYAK_GOLDEN_DIR "/wrong_configs.txt";

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The parts of a text that a line with this mark begins, without the first part and the mark.
std::vector<std::string> parts_of(const std::string& text, const std::string& mark) {
  std::vector<std::string> parts;
  for (size_t begin = text.find(mark); begin != std::string::npos;) {
    const size_t end = text.find(mark, begin + 1);
    parts.push_back(text.substr(begin + mark.size(), end - begin - mark.size()));
    begin = end;
  }
  return parts;
}

std::pair<std::string, std::string> first_line_and_rest(const std::string& text) {
  const size_t end = text.find('\n');
  return {text.substr(0, end), text.substr(end + 1)};
}

std::vector<WrongConfig> read_table(const std::string& table) {
  std::vector<WrongConfig> all;
  for (const std::string& part : parts_of(table, "\n#### ")) {
    WrongConfig wrong;
    auto [title, body] = first_line_and_rest(part);
    wrong.title = title;
    const std::string mark = "==> text\n";
    const size_t text = body.find(mark);
    if (text != std::string::npos) {
      wrong.text = body.substr(text + mark.size());
      body.resize(text);
    }
    for (const std::string& file : parts_of("\n" + body, "\n== ")) {
      auto [name, content] = first_line_and_rest(file);
      if (content.empty() || content.back() != '\n') content += '\n';
      wrong.files.emplace_back(name, content);
    }
    if (wrong.files.empty()) wrong.files.emplace_back(title, body);
    all.push_back(wrong);
  }
  return all;
}

class WrongConfigs : public testing::Test {
 protected:
  WrongConfigs() {
    register_averages(catalog_);
    register_trainer(catalog_);
    load_plugin(find_plugin("polyak_hooks", ""), catalog_);
    before_ = fs::current_path();
    fs::current_path(folder_.path());
  }
  ~WrongConfigs() override { fs::current_path(before_); }

  /// What `polyak check` prints about c.yaml.
  std::string check(const std::vector<std::string>& options) {
    try {
      const Node config = load_config("c.yaml", options);
      load_plugins(config, catalog_);
      TrainRunner(config, catalog_, TrainRunner::Purpose::check);
    } catch (const ConfigError& error) {
      return explained(error, "polyak: ");
    } catch (const PluginError& error) {
      return fmt::format("polyak: {}\n", error.what());
    }
    return "nothing is wrong\n";
  }

  std::string text_of(const WrongConfig& wrong) {
    std::vector<std::string> options;
    for (const auto& [name, content] : wrong.files) {
      if (name != "options") {
        std::ofstream(name, std::ios::binary) << content;
        continue;
      }
      std::istringstream lines(content);
      for (std::string line; std::getline(lines, line);) options.push_back(line);
    }
    std::string text = check(options);
    const std::string folder = folder_.path() + "/";
    for (size_t at = text.find(folder); at != std::string::npos; at = text.find(folder)) {
      text.erase(at, folder.size());
    }
    return text;
  }

 private:
  Catalog catalog_;
  test::OwnFolder folder_;
  fs::path before_;
};

TEST_F(WrongConfigs, AreAnsweredByTheTextsOfTheTable) {
  const std::string table = contents_of(kTable);
  const std::vector<WrongConfig> all = read_table(table);
  ASSERT_GE(all.size(), 61U);
  std::ofstream("good.yaml") << all.front().files.front().second;
  std::string updated = table.substr(0, table.find("\n#### ")) + "\n#### good.yaml\n" +
                        all.front().files.front().second;
  for (size_t i = 1; i < all.size(); ++i) {
    const std::string text = text_of(all[i]);
    updated += "\n#### " + all[i].title + "\n";
    for (const auto& [name, content] : all[i].files) updated += "== " + name + "\n" + content;
    updated += "==> text\n" + text;
    EXPECT_EQ(text, all[i].text) << all[i].title;
  }
  const char* update = std::getenv("POLYAK_UPDATE_GOLDEN");
  if (update && *update == '1') std::ofstream(kTable, std::ios::binary) << updated;
}

TEST_F(WrongConfigs, ThatAreRightAreNotRefused) {
  WrongConfig good = read_table(contents_of(kTable)).front();
  good.files.front().first = "c.yaml";
  EXPECT_EQ(text_of(good), "nothing is wrong\n");
}

}  // namespace
}  // namespace polyak
