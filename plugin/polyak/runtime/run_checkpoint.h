// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

class Runner;

/// The format of the top-level key `polyak`: the one written, and the newest one read.
constexpr int64_t kCheckpointFormat = 1;

/// The start of the checkpoint of every runner: `meta` (counts of finished epochs and iterations,
/// the config's text), `state_dict` (handles, not copies), `message_hub` with the run_info, and
/// `polyak` (format, counters).
POLYAK_API Value begin_checkpoint(Runner& runner, int64_t epochs, int64_t iters,
                                  const std::string& config);

/// The folders that the config's hooks (`default_hooks`, `custom_hooks`) name as `out_dir`.
POLYAK_API std::vector<std::string> out_dirs(const Node& config);

/// What `last_checkpoint` in work_dir names (relative to work_dir, or MMEngine's path), or else
/// what one in an out_dir names, where 0.1 wrote it. "" if there is none.
/// @throws CheckpointError if the named file does not exist
POLYAK_API std::string named_checkpoint(const std::string& work_dir,
                                        const std::vector<std::string>& out_dirs);

/// The checkpoint to resume from: the named one, or else the newest epoch_N.pth or iter_N.pth of
/// these folders. "" if there is none.
/// @throws CheckpointError if the file that a `last_checkpoint` names does not exist
POLYAK_API std::string find_last_checkpoint(const std::string& work_dir,
                                            const std::vector<std::string>& out_dirs);

/// The regular checkpoints, epoch_N.pth and iter_N.pth, in a folder, newest first.
POLYAK_API std::vector<std::string> regular_checkpoints(const std::string& folder);

/// Reads a checkpoint of any library, and makes the weights in it its `state_dict`: those at the
/// key path `key`, or where find_weights() finds them. A plain state dict, as Python's
/// `torch.save(model.state_dict())` writes it, becomes the entry of an otherwise empty checkpoint.
/// @throws CheckpointError, also for a format that is newer than this version; for a damaged file,
///   it names the newest intact one next to it
POLYAK_API Value read_checkpoint(const std::string& file, const std::string& key = "");

/// Calls `action`, and adds the name of the file to a CheckpointError.
POLYAK_API void name_file_in_errors(const std::string& file, const std::function<void()>& action);

/// Gives the tensors of other libraries' files the names that the model has: by a key map
/// (apply_key_map()), then by match_names().
/// @throws CheckpointError
void fit_names(Value& state_dict, const ModelRef& model);

/// Renames a checkpoint's entries to the names in the model (fit_names(), or only match_names() to
/// resume; match_average_names()), and ensures that a resumed run gets its raw weights.
/// @throws CheckpointError before anything is loaded
POLYAK_API void fit_checkpoint(Value& checkpoint, const ModelRef& model, bool resuming);

/// Whether Polyak wrote a checkpoint.
POLYAK_API bool is_polyaks(const Value& checkpoint);

/// The key paths besides `state_dict` that hold weights which Polyak does not read, such as timm's
/// `state_dict_ema`.
POLYAK_API std::vector<std::string> other_weights(const Value& checkpoint);

/// The run_info that a resumed run restores. From another program's file, that is only the best
/// score and its file, because its counters and settings would be outdated.
POLYAK_API Value resumed_run_info(const Value& checkpoint);

/// Passes a checkpoint to the hooks, and leaves in its `state_dict` what the model gets: if the run
/// resumes from it, the raw weights, even if no hook takes the file's average. Logs each average
/// that is dropped.
/// @throws CheckpointError if raw weights are missing, and what a hook throws
POLYAK_API void give_to_hooks(Runner& runner, Value& checkpoint);

/// The iterations in an epoch of the run that wrote a checkpoint; `otherwise` if the checkpoint
/// does not say.
POLYAK_API int64_t epoch_length_of(const Value& checkpoint, int64_t otherwise);

/// Accumulated gradients that were not used yet, by the names of their parameters.
POLYAK_API Value gathered_gradients(const ModelRef& model);

/// Parameters and their gradients.
using GatheredGradients = std::vector<std::pair<at::Tensor, at::Tensor>>;
/// The gradients in a checkpoint, copied, with the model's parameters. Nothing if there are none,
/// or if they are for steps of another number of iterations, which logs a warning.
/// @throws CheckpointError for a name or a shape that the model does not have
POLYAK_API std::optional<GatheredGradients> fit_gradients(const ModelRef& model,
                                                          const Value& checkpoint,
                                                          int64_t accumulative_counts);

}  // namespace polyak
