// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/post_hoc_average.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "polyak/checkpoint/safetensors.h"
#include "polyak/core/error.h"
#include "polyak/core/text.h"
#include "polyak/rules/power_function_ema.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/weighted_sum.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

/// Half the distance of 1 from the next number.
const std::map<std::string, double> kRoundoff{{"float64", std::ldexp(1, -53)},
                                              {"float32", std::ldexp(1, -24)},
                                              {"float16", std::ldexp(1, -11)},
                                              {"bfloat16", std::ldexp(1, -8)}};

const std::string& text_of(const SafetensorsMetadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) {
    fail<CheckpointError>("is no snapshot of a PostHocEMAHook: its metadata has no '{}'", key);
  }
  return found->second;
}

double number_of(const SafetensorsMetadata& metadata, const char* key, double least) {
  const std::string& text = text_of(metadata, key);
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(number) || number < least) {
    fail<CheckpointError>("the {} in its metadata is '{}', expected a number of at least {}", key,
                          shortened(text), least);
  }
  return number;
}

PostHocSnapshot read_snapshot(const std::string& path) {
  PostHocSnapshot snapshot;
  snapshot.path = path;
  name_file_in_errors(path, [&] {
    const SafetensorsMetadata metadata = read_safetensors_metadata(path);
    if (text_of(metadata, "polyak") != "post_hoc") {
      fail<CheckpointError>("is no snapshot of a PostHocEMAHook");
    }
    snapshot.gamma = number_of(metadata, "gamma", 0);
    snapshot.sigma_rel = number_of(metadata, "sigma_rel", 0);
    const double step = number_of(metadata, "step", 1);
    if (step != std::floor(step) || step > kMaxSteps) {
      fail<CheckpointError>("the step in its metadata is {}, expected an integer", step);
    }
    snapshot.step = static_cast<int64_t>(step);
    snapshot.dtype = text_of(metadata, "dtype");
    if (!kRoundoff.count(snapshot.dtype)) {
      fail<CheckpointError>(
          "the dtype in its metadata is '{}', expected float32, float16 or "
          "bfloat16",
          shortened(snapshot.dtype));
    }
    snapshot.run = text_of(metadata, "run");
    const auto copied = nlohmann::json::parse(text_of(metadata, "copied"), nullptr,
                                              /*allow_exceptions=*/false);
    const bool is_list =
        copied.is_array() && std::all_of(copied.begin(), copied.end(),
                                         [](const auto& name) { return name.is_string(); });
    if (!is_list) fail<CheckpointError>("'copied' in its metadata is no list of names");
    for (const auto& name : copied) snapshot.copied.push_back(name.template get<std::string>());
  });
  return snapshot;
}

}  // namespace

PostHocAverage::PostHocAverage(const std::string& folder, std::optional<int64_t> step)
    : folder_(folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    fail<CheckpointError>("{}: is no folder; name the work_dir of a run with a PostHocEMAHook",
                          folder);
  }
  std::vector<std::string> files = post_hoc_files(folder);
  if (files.empty()) files = post_hoc_files((fs::path(folder) / "post_hoc").string());
  if (files.empty()) {
    fail<CheckpointError>(
        "{}: holds no snapshots, such as post_hoc/00002000_0.05.safetensors; a run writes them "
        "with custom_hooks: [{{type: PostHocEMAHook}}]",
        folder);
  }
  std::map<std::string, size_t> runs;
  for (const std::string& file : files) {
    snapshots_.push_back(read_snapshot(file));
    ++runs[snapshots_.back().run];
  }
  if (runs.size() > 1) {
    std::vector<std::string> counts;
    for (const auto& [run, count] : runs) {
      counts.push_back(fmt::format("{} of the run {}", count, shortened(run)));
    }
    fail<CheckpointError>(
        "{}: holds snapshots of {} runs, which cannot be combined: {}; `polyak inspect` shows the "
        "run of a file; move the others away",
        folder, runs.size(), fmt::join(counts, ", "));
  }
  const auto newest = std::max_element(
      snapshots_.begin(), snapshots_.end(),
      [](const PostHocSnapshot& a, const PostHocSnapshot& b) { return a.step < b.step; });
  step_ = step.value_or(newest->step);
  if (step_ > newest->step) {
    fail<CheckpointError>("{}: the newest snapshot is at step {}, so there is no average at {}",
                          folder, newest->step, step_);
  }
  snapshots_.erase(
      std::remove_if(snapshots_.begin(), snapshots_.end(),
                     [&](const PostHocSnapshot& snapshot) { return snapshot.step > step_; }),
      snapshots_.end());
  if (snapshots_.empty()) {
    fail<CheckpointError>("{}: there is no snapshot up to step {}", folder, step_);
  }
  // The newest last: what is copied is copied from there.
  std::stable_sort(
      snapshots_.begin(), snapshots_.end(),
      [](const PostHocSnapshot& a, const PostHocSnapshot& b) { return a.step < b.step; });
  std::vector<PowerProfile> profiles;
  dtype_ = snapshots_.front().dtype;
  for (const PostHocSnapshot& snapshot : snapshots_) {
    profiles.push_back({static_cast<double>(snapshot.step), snapshot.gamma});
    if (kRoundoff.at(snapshot.dtype) > kRoundoff.at(dtype_)) dtype_ = snapshot.dtype;
  }
  solver_ = std::make_shared<const PostHocSolver>(std::move(profiles));
}

Synthesis PostHocAverage::solve(double gamma) const {
  return solver_->solve({static_cast<double>(step_), gamma});
}

void PostHocAverage::check(const Synthesis& synthesis, double gamma) const {
  if (synthesis.residual <= kPostHocBound) return;
  std::vector<std::string> widths;
  for (const auto& [low, high] : solver_->widths(static_cast<double>(step_), kPostHocBound)) {
    widths.push_back(fmt::format("{:.3g} to {:.3g}", low, high));
  }
  fail<CheckpointError>(
      "{}: sigma_rel {:.4g} at step {} is not what {} snapshots can give: the residual of the "
      "profile is {:.2g}, more than {}; {}",
      folder_, power_function_sigma_rel(gamma), step_, snapshots_.size(), synthesis.residual,
      kPostHocBound,
      widths.empty() ? "they give no other width either; choose the step of a snapshot, or write "
                       "more of them"
                     : fmt::format("they give sigma_rel {}", fmt::join(widths, " and ")));
}

/// Errors of rounding are independent, and 0.4 of the largest one in the mean.
double PostHocAverage::rounding(const Synthesis& synthesis) const {
  return 0.4 * kRoundoff.at(dtype_) * synthesis.norm;
}

Value PostHocAverage::run(const Synthesis& synthesis, const std::string& dtype) const {
  const std::vector<std::string>& copied = snapshots_.back().copied;
  WeightedSum sum(std::set<std::string>(copied.begin(), copied.end()));
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    const double coefficient = synthesis.coefficients[i];
    if (coefficient == 0 && i + 1 < snapshots_.size()) continue;
    const std::string& path = snapshots_[i].path;
    const Value state_dict = read_safetensors(path);
    name_file_in_errors(path, [&] { sum.add(state_dict, coefficient); });
  }
  const bool is_wide = snapshots_.back().dtype == "float64";
  return sum.result(!dtype.empty() ? dtype : is_wide ? "float64" : "float32");
}

Value PostHocAverage::meta(const Synthesis& synthesis, double gamma) const {
  Value record = Value::dict();
  record.set("by", "post_hoc");
  Value files = Value::list();
  std::vector<double> weights;
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    if (synthesis.coefficients[i] == 0) continue;
    files.items().emplace_back(snapshots_[i].path);
    weights.push_back(synthesis.coefficients[i]);
  }
  record.set("step", step_);
  record.set("sigma_rel", power_function_sigma_rel(gamma));
  record.set("gamma", gamma);
  record.set("residual", synthesis.residual);
  record.set("files", std::move(files));
  record.set("weights_of_files", at::tensor(weights, at::kDouble));
  Value meta = Value::dict();
  meta.set("polyak_version", POLYAK_VERSION);
  meta.set("averaged", std::move(record));
  return meta;
}

}  // namespace polyak
