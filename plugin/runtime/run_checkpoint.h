#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

class Runner;

/// What the checkpoint of every runner begins with: `meta` (counts of finished epochs and
/// iterations, the config's text), `state_dict` (handles, not copies), `message_hub` with the
/// run_info, and `polyak` (format, counters).
POLYAK_API Value begin_checkpoint(Runner& runner, int64_t epochs, int64_t iters,
                                  const std::string& config);

/// The folders that the config's hooks (`default_hooks`, `custom_hooks`) name as `out_dir`.
POLYAK_API std::vector<std::string> out_dirs(const Node& config);

/// What work_dir's `last_checkpoint` names (relative to work_dir, or MMEngine's path), else what
/// one in an out_dir names, where 0.1 left it. "" where there is none.
/// @throws CheckpointError when the file that it names is gone
POLYAK_API std::string named_checkpoint(const std::string& work_dir,
                                        const std::vector<std::string>& out_dirs);

/// The checkpoint that a run goes on from: the named one, else the newest epoch_N.pth or iter_N.pth
/// of these folders. "" where there is none.
/// @throws CheckpointError when the file that a `last_checkpoint` names is gone
POLYAK_API std::string find_last_checkpoint(const std::string& work_dir,
                                            const std::vector<std::string>& out_dirs);

/// The regular checkpoints, epoch_N.pth and iter_N.pth, in a folder, the newest first.
POLYAK_API std::vector<std::string> regular_checkpoints(const std::string& folder);

/// Reads a checkpoint; a plain state dict, as Python's `torch.save(model.state_dict())` writes it,
/// becomes the entry `state_dict` of an otherwise empty one.
/// @throws CheckpointError, also for a format that is newer than this version; for a damaged file
/// it names the newest whole one beside it
POLYAK_API Value read_checkpoint(const std::string& file);

/// Calls `action`; what it throws as a CheckpointError names the file.
POLYAK_API void name_file_in_errors(const std::string& file, const std::function<void()>& action);

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

/// What a checkpoint's `state_dict` holds is said by `polyak.state_dict`: `raw`, `averaged` (the
/// average without a name) or the name of another average. Files are saved with the average without
/// a name in it, or raw weights where there is none; these exchange it with the entry of what is
/// wanted (`ema_state_dict`, `ema_state_dict.NAME`), or back. A file that does not say is taken to
/// hold what files are saved with.
POLYAK_API void put_into_state_dict(Value& checkpoint, const std::string& weights);
POLYAK_API void restore_state_dict(Value& checkpoint);

/// Exchanges `state_dict`'s tensors with those of an `ema_state_dict`, whose names begin with
/// `module.`.
POLYAK_API void exchange_weights(Value& state_dict, Value& ema_state);

/// Gives a checkpoint to the hooks and then its `state_dict` to the model. When the run goes on
/// from it, the model gets the raw weights also where no hook takes the average of the file, with a
/// line for each average that is dropped.
/// @throws CheckpointError when raw weights are missing; the model is unchanged then
POLYAK_API void load_into_run(Runner& runner, Value& checkpoint);

/// Gradients that were gathered and not used yet, by the names of their parameters.
POLYAK_API Value gathered_gradients(const Model& model);
/// Puts them back.
/// @throws CheckpointError for a name or a shape that is not the model's; nothing changes then
POLYAK_API void load_gradients(const Model& model, const Value& gradients);

}  // namespace polyak
