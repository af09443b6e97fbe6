// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/post_hoc_snapshot.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <system_error>
#include <utility>

#include "polyak/checkpoint/safetensors.h"
#include "polyak/runtime/publish.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;

std::string post_hoc_path(const std::string& folder, int64_t step, double sigma_rel) {
  return (fs::path(folder) / fmt::format("{:08}_{}.safetensors", step, sigma_rel)).string();
}

std::vector<std::string> post_hoc_files(const std::string& folder) {
  static const std::regex kName(R"(\d{8,}_[0-9.e-]+\.safetensors)");
  std::vector<std::string> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (std::regex_match(entry.path().filename().string(), kName)) {
      files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

void write_post_hoc_snapshot(const AveragedModel& average, const PostHocSnapshot& snapshot) {
  std::vector<Value::Entry> tensors;
  for (const auto& item : average.named_averages()) {
    tensors.emplace_back(item.key(), item.value().detach());
  }
  const Value cast =
      cast_tensors(Value::dict(std::move(tensors), /*ordered=*/true), snapshot.dtype);
  write_safetensors(snapshot.path, cast,
                    {{"polyak", "post_hoc"},
                     {"polyak_version", POLYAK_VERSION},
                     {"gamma", fmt::format("{}", snapshot.gamma)},
                     {"sigma_rel", fmt::format("{}", snapshot.sigma_rel)},
                     {"step", std::to_string(snapshot.step)},
                     {"dtype", snapshot.dtype},
                     {"run", snapshot.run},
                     {"copied", nlohmann::json(snapshot.copied).dump()}});
}

}  // namespace polyak
