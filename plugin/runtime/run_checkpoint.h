#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

class Runner;

/// What the checkpoint of every runner begins with: `meta` (counts of finished epochs and
/// iterations, the config's text), `state_dict` (handles, not copies), `message_hub` with the
/// run_info, and `polyak` (format, counters).
POLYAK_API Value begin_checkpoint(Runner& runner, int64_t epochs, int64_t iters,
                                  const std::string& config);

/// The file that work_dir's `last_checkpoint` names (relative to work_dir, or MMEngine's path), or
/// "" where there is none.
/// @throws CheckpointError when the file that it names is gone
POLYAK_API std::string find_last_checkpoint(const std::string& work_dir);

/// Reads a checkpoint; a plain state dict, as Python's `torch.save(model.state_dict())` writes it,
/// becomes the entry `state_dict` of an otherwise empty one.
/// @throws CheckpointError, also for a format that is newer than this version
POLYAK_API Value read_checkpoint(const std::string& file);

/// Takes `module.`, which MMEngine's parallel wrappers put before every name, off, unless the
/// model's own names begin so.
POLYAK_API void strip_module_prefix(Value& state_dict, const Model& model);

/// How a state dict differs from a model.
struct POLYAK_API StateDifference {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> mismatched;
  size_t fitting = 0;

  bool empty() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  /// One line that lists them, for a message.
  std::string text() const;
};
POLYAK_API StateDifference compare_state_dict(const Model& model, const Value& state_dict);

/// Copies the tensors that fit into the model.
POLYAK_API void load_state_dict(const Model& model, const Value& state_dict);

}  // namespace polyak
