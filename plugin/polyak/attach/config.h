// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"

namespace polyak {

/// The config of `polyak attach`.
struct POLYAK_API AttachConfig : Options {
  Node custom_hooks;
  std::optional<std::string> output_dir;
  int64_t every = 0;
  std::optional<int64_t> max_iters;
  std::vector<std::string> names;
  std::string siblings = "beside";
  Node streams;
  std::string format = "pth";
  bool every_rank = false;

  /// How many averaged copies of saves to streams are kept; nullopt: all.
  std::optional<int64_t> streams_kept() const;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Reads the keys of a config file.
/// @throws ConfigError for invalid values, and for hooks that do not work in a compiled program
POLYAK_API AttachConfig read_attach_config(const Node& config);

/// The config as one line of JSON, for the preloaded library, which has no YAML parser.
POLYAK_API std::string to_json(const AttachConfig& config);
/// The config from to_json().
/// @throws ConfigError
AttachConfig attach_config_from(const std::string& json);

// The environment variables by which the command passes on to the preloaded library: the config as
// JSON, and the LD_PRELOAD that the program should see.
constexpr const char* kAttachConfig = "POLYAK_ATTACH_CONFIG";
constexpr const char* kAttachPreload = "POLYAK_ATTACH_PRELOAD";
// And, for a dry run, the optimizer steps after which the program ends.
constexpr const char* kAttachDryRun = "POLYAK_ATTACH_DRY_RUN";

}  // namespace polyak
