// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/runtime/average_set.h"

namespace polyak {

/// `published` of CheckpointHook: the files that one deploys.
struct POLYAK_API PublishOptions : Options {
  std::string format = "safetensors";
  std::optional<std::string> weights;
  std::optional<std::string> dtype;
  std::vector<std::string> keys;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// The dtype `float64`, `float32`, `float16` or `bfloat16`.
POLYAK_API at::ScalarType floating_dtype(const std::string& name);

/// The tensors of a state dict, those of floating point in another dtype: `float64`, `float32`,
/// `float16` or `bfloat16`; "": as they are. Tied tensors stay tied. What is not a tensor is left
/// out.
POLYAK_API Value cast_tensors(const Value& state_dict, const std::string& dtype);

/// Writes the weights of a checkpoint as these options say.
/// @param stem the file's path without its extension, which the format has
/// @throws CheckpointError if the checkpoint lacks the weights or a key, or the file cannot be
///   written
POLYAK_API void publish(const Value& checkpoint, const std::string& stem,
                        const PublishOptions& options);

/// Checks, before training, what publish() will need: the keys, for which `checkpoint` is one of
/// the run's, and the average.
/// @throws ConfigError
POLYAK_API void check_published_keys(const PublishOptions& options, const Value& checkpoint);
POLYAK_API void check_published_weights(const PublishOptions& options, const AverageSet& averages);

/// The path of such a file.
POLYAK_API std::string published_path(const std::string& stem, const PublishOptions& options);

}  // namespace polyak
