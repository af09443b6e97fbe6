// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"
#include "polyak/registry/registry.h"

// Averages over files of weights, after training: what `polyak average` does.
namespace polyak {

/// A file to average.
struct OfflineFile {
  std::string path;
  std::optional<double> weight;  // its coefficient, where the user gives one
};

/// How files are averaged: their mean, unless the files have weights or `shape` or `rule` is set.
struct OfflineOptions {
  /// Which of a file's weights: `raw`, `averaged` or the name of an average; "": those it has, if
  /// there is nothing to choose.
  std::string weights;
  /// Where the weights are in the file, instead; "": found.
  std::string key;
  /// Whether files are ordered by the steps that they say, or by the numbers in their names.
  bool by_step = true;
  /// Divides weights that are given by their sum.
  bool normalize = false;
  /// The learning rate's decay that the average stands for: `linear` (1 - x) or `minus_sqrt`
  /// (1 - sqrt(x)). With n files, the i-th from the oldest, from 0, counts d(i / n) - d((i + 1) /
  /// n). "": none. Source: WSM, arXiv:2507.17634, and Megatron-LM's merges of checkpoints.
  std::string shape;
  /// A registered average, {type, ...}, which is updated with one file after the other; null: none.
  Node rule;
  /// The dtype of floating-point tensors of the result; "": as in the last file.
  std::string dtype;
};

/// A file in the order of the average.
struct OfflineSource {
  std::string path;
  std::optional<int64_t> step;  // by which it was ordered
  double weight = 0;            // its coefficient; with a rule, the weight of its update
};

/// An average of files. Holds one average and one file in memory at a time; files of tensors that
/// are mapped take none until they are used.
class POLYAK_API OfflineAverage {
 public:
  /// Checks the options without reading a file.
  /// @throws ConfigError
  OfflineAverage(std::vector<OfflineFile> files, OfflineOptions options,
                 const Registry<AveragedModel>& averages);

  /// Reads each file once: whether all have the same names and shapes, and their order.
  /// @throws CheckpointError, and ConfigError where a choice or an order must be given
  void survey();
  /// The files in their order, after survey().
  const std::vector<OfflineSource>& files() const { return sources_; }
  /// What they were ordered by, for a message: "by meta.iter".
  const std::string& order() const { return order_; }
  /// What is made of them, for a message: "the mean".
  std::string method() const;

  /// The average's state dict. Reads each file once more.
  /// @throws CheckpointError
  Value run() const;

  /// Measures a state dict.
  using Measure = std::function<double(const Value& state_dict)>;
  /// Reports a file of a greedy soup: what it measures alone, the soup with it, and whether it
  /// stays; `together` is empty for the first one.
  using Report = std::function<void(const std::string& path, double alone,
                                    std::optional<double> together, bool stays)>;
  /// The mean of the best file and of each other one, from better to worse, with which the metric
  /// does not become worse (Wortsman et al. 2022, arXiv:2203.05482). files() are those afterwards.
  /// @return the mean's state dict
  Value run_greedy(const Measure& measure, bool larger_is_better, const Report& report);

  /// The `meta` of a checkpoint of the average: `averaged` says from which files it was made and
  /// how, `dataset_meta` is that of the last file.
  Value meta() const;

 private:
  void check_options() const;
  bool is_ordered() const { return !options_.shape.empty() || !options_.rule.is_null(); }
  std::shared_ptr<AveragedModel> start_average(ModelRef model) const;
  void set_weights();
  Value weights_of(const std::string& path) const;
  Value weights_in(Value file, const std::string& path) const;
  Value run_rule() const;
  Value record() const;
  Value sum_of(const std::vector<OfflineSource>& sources) const;

  std::vector<OfflineFile> given_;
  OfflineOptions options_;
  Registry<AveragedModel>::Maker make_average_;
  std::vector<OfflineSource> sources_;
  std::map<std::string, Value> dataset_meta_;  // by path
  std::string order_ = "as given";
  bool greedy_ = false;
};

/// Writes an average of files as a checkpoint that `load_from`, `polyak test` and Python read: a
/// `.pth` of {meta, state_dict}, or a `.safetensors` with meta.averaged as JSON in its metadata.
/// @param format `pth`, `safetensors`, or "": by the name's extension
/// @param meta has `averaged`
/// @throws CheckpointError
POLYAK_API void write_offline_average(const std::string& path, const std::string& format,
                                      const Value& state_dict, const Value& meta);

}  // namespace polyak
