// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"

namespace polyak::cli {

/// The weights at one place of a file.
struct WeightsSummary {
  std::string key;      // "" for the file itself
  std::string content;  // such as "averaged by CosineEMA, 120 steps"; empty: unknown
  int64_t tensors = 0;
  int64_t values = 0;  // elements of all tensors, tied ones once
  int64_t bytes = 0;
  int64_t nonfinite = 0;  // NaN and infinite values
};

/// What a file holds, for people.
struct FileSummary {
  std::string path;
  int64_t bytes = 0;
  std::string writer;  // such as "Polyak 0.1.0, epoch 3, iteration 120"; empty: unknown
  std::vector<WeightsSummary> weights;
  std::vector<std::string> opaque;  // key paths and classes of objects that only Python can read
};

/// Summarizes a file's content. Reads every tensor once.
FileSummary summarize(const std::string& path, const Value& file);

/// The summary and the tree of values as text, a line each.
std::string summary_text(const FileSummary& summary, const Value& file);

/// The same as JSON, without the values of tensors.
nlohmann::ordered_json summary_json(const FileSummary& summary, const Value& file);

/// "1.5 GB", "24 bytes".
std::string size_text(int64_t bytes);

/// "float32", as Python names a dtype.
std::string dtype_text(const at::Tensor& tensor);

}  // namespace polyak::cli
