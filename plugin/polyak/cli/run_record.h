// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/cli/terminal_plot.h"
#include "polyak/config/node.h"

namespace polyak::cli {

/// A line of scalars.json. Values that are not finite are NaN.
struct LoggedLine {
  int64_t step = 0;
  std::map<std::string, double> values;
};

/// One metric of a run, by the weights that it measures.
struct MeasuredMetric {
  /// Of one kind of weights, at each validation.
  struct Curve {
    std::string weights;  // "averaged", "raw" or the name of an average
    std::string key;      // in scalars.json
    std::vector<Point> points;
    bool is_raw() const { return weights == "raw"; }
  };
  std::string name;
  std::vector<Curve> curves;  // the averaged one first, if there is one
  std::optional<bool> larger_is_better;

  const Curve* raw() const;
  /// The averaged weights' curve, or that of the first named average.
  const Curve* averaged() const;
};

/// A checkpoint in the folder of a run.
struct CheckpointFile {
  std::string name;
  int64_t bytes = 0;
  bool is_last = false;  // named by last_checkpoint
  bool is_best = false;  // by its name
};

/// What the folder of a run holds, as files that anybody may have written.
struct RunRecord {
  std::string name;       // in the report
  std::string folder;     // work_dir
  std::string timestamp;  // of the newest run that trained in it
  int64_t older_runs = 0;
  std::vector<LoggedLine> training;     // by ascending iteration
  std::vector<LoggedLine> validations;  // by ascending step
  bool validations_count_epochs = false;
  int64_t unreadable_lines = 0;
  std::string config_file;  // its name; empty: there is none
  std::string config_text;
  Node config;  // null if it cannot be read
  std::vector<std::pair<std::string, std::string>> environment;
  std::vector<CheckpointFile> checkpoints;
  std::vector<std::string> warnings;  // lines of the log

  /// A training scalar over iterations; empty if it was never logged.
  std::vector<Point> curve(const std::string& key) const;
  /// The names of training scalars that begin so, in alphabetical order.
  std::vector<std::string> keys(const std::string& prefix) const;
  std::vector<MeasuredMetric> metrics() const;
  /// The name of an average from a scalar's: "slow" from ema_momentum_slow, "" from ema_momentum.
  static std::string average_of(const std::string& key, const std::string& scalar);
  int64_t iterations() const { return training.empty() ? 0 : training.back().step; }
  /// Seconds of all training iterations, from the logged times; 0: unknown.
  double training_seconds() const;
};

/// Reads the newest run in a folder that LoggerHook, or MMEngine, wrote. @param path a work_dir, or
/// one run's folder in it
/// @throws Error if there is no run, or if it logged nothing
RunRecord read_run(const std::string& path);

}  // namespace polyak::cli
