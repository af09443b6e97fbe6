// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "polyak/checkpoint/format.h"
#include "polyak/config/load.h"
#include "polyak/core/error.h"
#include "polyak/runtime/metric_direction.h"

namespace polyak::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kScalars = "vis_data/scalars.json";
constexpr const char* kMomentum = "ema_momentum";
constexpr const char* kOfRawWeights = "_origin";
constexpr uintmax_t kMostBytes = 512 << 20;  // of a checkpoint that is read for its environment
constexpr size_t kMostWarnings = 50;

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// JSON has no NaN; Python writes it nevertheless.
std::string without_nan(std::string line) {
  for (const std::string word : {"-Infinity", "Infinity", "NaN"}) {
    for (size_t at = line.find(": " + word); at != std::string::npos; at = line.find(": " + word)) {
      line.replace(at + 2, word.size(), "null");
    }
  }
  return line;
}

// ---- the scalars

struct ScalarLines {
  std::vector<LoggedLine> training, validations;
  bool has_epochs = false;
  int64_t last_epoch = 0;
  int64_t unreadable = 0;
};

ScalarLines read_scalars(const fs::path& path) {
  ScalarLines scalars;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto json = nlohmann::json::parse(without_nan(line), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
      ++scalars.unreadable;
      continue;
    }
    LoggedLine logged;
    for (const auto& [key, value] : json.items()) {
      if (value.is_number()) logged.values[key] = value.get<double>();
      if (value.is_null()) logged.values[key] = std::numeric_limits<double>::quiet_NaN();
    }
    const auto number = [&](const char* key) {
      const auto found = logged.values.find(key);
      const double value = found == logged.values.end() ? -1 : found->second;
      return value >= 0 && value < 9e15 ? static_cast<int64_t>(value) : -1;
    };
    const int64_t iter = number("iter"), epoch = number("epoch");
    logged.step = iter >= 0 ? iter : number("step");
    if (logged.step < 0) {
      ++scalars.unreadable;
      continue;
    }
    for (const char* key : {"iter", "step", "epoch"}) logged.values.erase(key);
    if (iter >= 0 && epoch >= 0) {
      scalars.has_epochs = true;
      scalars.last_epoch = std::max(scalars.last_epoch, epoch);
    }
    (iter >= 0 ? scalars.training : scalars.validations).push_back(std::move(logged));
  }
  // What a resumed run logged anew takes the place of what was there.
  for (std::vector<LoggedLine>* lines : {&scalars.training, &scalars.validations}) {
    std::stable_sort(lines->begin(), lines->end(),
                     [](const LoggedLine& a, const LoggedLine& b) { return a.step < b.step; });
    std::vector<LoggedLine> last;
    for (LoggedLine& line : *lines) {
      if (!last.empty() && last.back().step == line.step) last.pop_back();
      last.push_back(std::move(line));
    }
    *lines = std::move(last);
  }
  return scalars;
}

/// The folders of runs in a work_dir that have scalars, the oldest first.
std::vector<fs::path> runs_in(const fs::path& folder) {
  std::vector<fs::path> runs;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (fs::is_regular_file(entry.path() / kScalars, error)) runs.push_back(entry.path());
  }
  std::sort(runs.begin(), runs.end());
  return runs;
}

// ---- what else there is

fs::path find_config(const fs::path& work_dir, const fs::path& run) {
  std::error_code error;
  for (const fs::path& folder : {work_dir, run / "vis_data"}) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".yaml" || extension == ".py") found.push_back(entry.path());
    }
    // Several runs of one folder may have had configs of other names: the newest one's is the last.
    const auto newer = [&](const fs::path& a, const fs::path& b) {
      return fs::last_write_time(a, error) < fs::last_write_time(b, error);
    };
    if (!found.empty()) return *std::max_element(found.begin(), found.end(), newer);
  }
  return {};
}

void read_config_of(RunRecord& record, const fs::path& run) {
  const fs::path path = find_config(record.folder, run);
  if (path.empty()) return;
  record.config_file = path.filename().string();
  record.config_text = read_text(path);
  if (path.extension() != ".yaml") return;
  try {
    record.config = parse_config(record.config_text, path.string());
  } catch (const Error&) {  // as it was edited since; its text is shown
    record.config = Node();
  }
}

void find_checkpoints(RunRecord& record) {
  std::error_code error;
  const fs::path folder = record.folder;
  std::string last = read_text(folder / "last_checkpoint");
  last = fs::path(last.substr(0, last.find_first_of("\r\n"))).filename().string();
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file(error) || name.front() == '.' || !checkpoint_format(name)) continue;
    record.checkpoints.push_back({name, static_cast<int64_t>(entry.file_size(error)), name == last,
                                  name.rfind("best_", 0) == 0});
  }
  std::sort(record.checkpoints.begin(), record.checkpoints.end(),
            [](const CheckpointFile& a, const CheckpointFile& b) { return a.name < b.name; });
}

std::string meta_text(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::string:
      return value.as_string();
    case Value::Kind::integer:
      return fmt::format("{}", value.as_int());
    default:
      return "";
  }
}

/// From the newest checkpoint, which says where it was made.
void read_environment(RunRecord& record) {
  const auto last = std::find_if(record.checkpoints.begin(), record.checkpoints.end(),
                                 [](const CheckpointFile& file) { return file.is_last; });
  if (last == record.checkpoints.end()) return;
  const fs::path path = fs::path(record.folder) / last->name;
  if (static_cast<uintmax_t>(last->bytes) > kMostBytes) return;
  try {
    const Value file = read_checkpoint_file(path.string());
    const Value* meta = file.is_dict() ? file.find("meta") : nullptr;
    if (!meta || !meta->is_dict()) return;
    for (const auto& [key, value] : meta->entries()) {
      if (const std::string text = meta_text(value); key.as_string() != "cfg" && !text.empty()) {
        record.environment.emplace_back(key.as_string(), text);
      }
    }
    const Value* environment = meta->find("environment");
    if (!environment || !environment->is_dict()) return;
    for (const auto& [key, value] : environment->entries()) {
      record.environment.emplace_back(key.as_string(), meta_text(value));
    }
  } catch (const Error&) {  // a damaged file: `polyak inspect` says why
    record.environment.clear();
  }
}

void read_log(RunRecord& record, const fs::path& run) {
  std::ifstream file(run / (run.filename().string() + ".log"));
  for (std::string line; std::getline(file, line);) {
    const bool warns = line.find(" - WARNING - ") != std::string::npos;
    const bool fails = line.find(" - ERROR - ") != std::string::npos;
    if ((warns || fails) && record.warnings.size() < kMostWarnings) {
      record.warnings.push_back(line);
    }
  }
}

// ---- metrics

/// Whether the config says that validations do not measure the first average.
bool measures_raw_weights(const Node& config) {
  const Node* hooks = config.is_mapping() ? config.find("custom_hooks") : nullptr;
  if (!hooks || !hooks->is_sequence()) return false;
  return std::any_of(hooks->items().begin(), hooks->items().end(), [](const Node& hook) {
    if (!hook.is_mapping()) return false;
    const Node* name = hook.find("name");
    const Node* evaluates = hook.find("evaluate_on_ema");
    return (!name || name->is_null()) && evaluates && evaluates->is_bool() && !evaluates->as_bool();
  });
}

}  // namespace

const MeasuredMetric::Curve* MeasuredMetric::raw() const {
  const auto found =
      std::find_if(curves.begin(), curves.end(), [](const Curve& curve) { return curve.is_raw(); });
  return found == curves.end() ? nullptr : &*found;
}

const MeasuredMetric::Curve* MeasuredMetric::averaged() const {
  const auto found = std::find_if(curves.begin(), curves.end(),
                                  [](const Curve& curve) { return !curve.is_raw(); });
  return found == curves.end() ? nullptr : &*found;
}

std::string RunRecord::average_of(const std::string& key, const std::string& scalar) {
  return key.size() > scalar.size() ? key.substr(scalar.size() + 1) : "";
}

std::vector<Point> RunRecord::curve(const std::string& key) const {
  std::vector<Point> points;
  for (const LoggedLine& line : training) {
    const auto found = line.values.find(key);
    if (found == line.values.end()) continue;
    points.push_back({static_cast<double>(line.step), found->second});
  }
  return points;
}

std::vector<std::string> RunRecord::keys(const std::string& prefix) const {
  std::set<std::string> found;
  for (const LoggedLine& line : training) {
    for (const auto& [key, value] : line.values) {
      if (key.rfind(prefix, 0) == 0) found.insert(key);
    }
  }
  return {found.begin(), found.end()};
}

std::vector<MeasuredMetric> RunRecord::metrics() const {
  std::set<std::string> names;
  for (const LoggedLine& line : validations) {
    for (const auto& [key, value] : line.values) {
      if (key != "time" && key != "data_time") names.insert(key);
    }
  }
  std::vector<std::string> averages;
  bool has_first = false;
  for (const std::string& key : keys(kMomentum)) {
    const std::string average = average_of(key, kMomentum);
    if (average.empty()) has_first = true;
    if (!average.empty()) averages.push_back(average);
  }
  has_first = has_first && !measures_raw_weights(config);
  // The longest first: of the averages `a` and `b_a`, accuracy_b_a is the second one's.
  std::sort(averages.begin(), averages.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });

  std::map<std::string, MeasuredMetric> metrics;
  for (const std::string& key : names) {
    MeasuredMetric::Curve curve{
        has_first || names.count(key + kOfRawWeights) ? "averaged" : "raw", key, {}};
    std::string name = key;
    if (ends_with(key, kOfRawWeights)) {
      curve.weights = "raw";
      name.resize(key.size() - std::string(kOfRawWeights).size());
    }
    for (const std::string& average : averages) {
      if (!ends_with(key, "_" + average)) continue;
      curve.weights = average;
      name.resize(key.size() - average.size() - 1);
      break;
    }
    for (const LoggedLine& line : validations) {
      const auto found = line.values.find(key);
      if (found == line.values.end()) continue;
      curve.points.push_back({static_cast<double>(line.step), found->second});
    }
    MeasuredMetric& metric = metrics[name];
    metric.name = name;
    metric.larger_is_better = larger_is_better(name);
    metric.curves.push_back(std::move(curve));
  }
  std::vector<MeasuredMetric> result;
  for (auto& [name, metric] : metrics) {
    const auto rank = [](const MeasuredMetric::Curve& curve) {
      return curve.weights == "averaged" ? 0 : curve.is_raw() ? 2 : 1;
    };
    std::stable_sort(metric.curves.begin(), metric.curves.end(),
                     [&](const MeasuredMetric::Curve& a, const MeasuredMetric::Curve& b) {
                       return rank(a) < rank(b);
                     });
    result.push_back(std::move(metric));
  }
  return result;
}

double RunRecord::training_seconds() const {
  double seconds = 0;
  int64_t before = 0;
  for (const LoggedLine& line : training) {
    const auto time = line.values.find("time");
    if (time != line.values.end() && std::isfinite(time->second)) {
      seconds += time->second * static_cast<double>(line.step - before);
    }
    before = line.step;
  }
  return seconds;
}

RunRecord read_run(const std::string& path) {
  std::error_code error;
  fs::path folder = fs::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // of a trailing slash
  if (!fs::exists(folder, error)) fail<Error>("{}: does not exist", path);
  std::vector<fs::path> runs = runs_in(folder);
  if (runs.empty() && fs::is_regular_file(folder / kScalars, error)) {
    runs.push_back(folder);
    folder = folder.has_parent_path() ? folder.parent_path() : fs::path("..");
  }
  if (runs.empty()) {
    fail<Error>(
        "{}: holds no run: LoggerHook writes TIMESTAMP/{} in the work_dir of a run, and there is "
        "none",
        path, kScalars);
  }
  // The newest that trained: `polyak test` writes a folder, too.
  ScalarLines scalars;
  size_t at = runs.size();
  while (at-- > 0) {
    scalars = read_scalars(runs[at] / kScalars);
    if (!scalars.training.empty()) break;
  }
  if (scalars.training.empty()) {
    at = runs.size() - 1;
    scalars = read_scalars(runs[at] / kScalars);
  }
  if (scalars.training.empty() && scalars.validations.empty()) {
    const std::string file = (runs[at] / kScalars).string();
    if (scalars.unreadable > 0) {
      fail<Error>("{}: none of its {} lines is a line of scalars as LoggerHook writes them", file,
                  scalars.unreadable);
    }
    fail<Error>(
        "{}: is empty, so the run logged nothing yet; LoggerHook writes the first line after "
        "`interval` iterations",
        file);
  }
  RunRecord record;
  record.folder = folder.string();
  record.name = folder.filename().string();
  record.timestamp = runs[at].filename().string();
  record.older_runs = static_cast<int64_t>(at);
  record.unreadable_lines = scalars.unreadable;
  record.validations_count_epochs =
      scalars.has_epochs &&
      (scalars.validations.empty() || scalars.validations.back().step <= scalars.last_epoch);
  record.training = std::move(scalars.training);
  record.validations = std::move(scalars.validations);
  read_config_of(record, runs[at]);
  find_checkpoints(record);
  read_environment(record);
  read_log(record, runs[at]);
  return record;
}

}  // namespace polyak::cli
