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

  /// How many copies of what the program saves to streams stay; nothing: all.
  std::optional<int64_t> streams_kept() const;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// The keys of a config file. Hooks that make no sense in a compiled program are refused.
/// @throws ConfigError
POLYAK_API AttachConfig read_attach_config(const Node& config);

/// The config as one line of JSON, and back: the preloaded library has no YAML within.
POLYAK_API std::string to_json(const AttachConfig& config);
/// @throws ConfigError
AttachConfig attach_config_from(const std::string& json);

// How the command hands over to the library that it preloads: the config as JSON, and the
// LD_PRELOAD that the program is to see.
constexpr const char* kAttachConfig = "POLYAK_ATTACH_CONFIG";
constexpr const char* kAttachPreload = "POLYAK_ATTACH_PRELOAD";

}  // namespace polyak
