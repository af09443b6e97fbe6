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

/// Of the top-level key `polyak`: written, and the newest that is read.
constexpr int64_t kCheckpointFormat = 1;

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

/// Gives what a checkpoint holds the names that the model has (match_names(),
/// match_average_names()), and makes sure that a run which goes on from it gets its raw weights.
/// @throws CheckpointError before anything is loaded
POLYAK_API void fit_checkpoint(Value& checkpoint, const ModelRef& model, bool resuming);

/// Whether Polyak wrote a checkpoint.
POLYAK_API bool is_polyaks(const Value& checkpoint);

/// The entries beside `state_dict` that hold weights which no part of Polyak takes, such as timm's
/// `state_dict_ema`.
POLYAK_API std::vector<std::string> other_weights(const Value& checkpoint);

/// What a run that goes on takes over as its run_info. Of another program's file that is the best
/// score and its file alone, as its counters and settings would go stale.
POLYAK_API Value resumed_run_info(const Value& checkpoint);

/// Gives a checkpoint to the hooks, and has its `state_dict` hold what the model is to get: when
/// the run goes on from it, the raw weights also where no hook takes the average of the file, with
/// a line for each average that is dropped.
/// @throws CheckpointError when raw weights are missing, and what a hook throws
POLYAK_API void give_to_hooks(Runner& runner, Value& checkpoint);

/// The iterations in an epoch of the run that wrote a checkpoint; `otherwise` where it does not
/// say.
POLYAK_API int64_t epoch_length_of(const Value& checkpoint, int64_t otherwise);

/// Gradients that were gathered and not used yet, by the names of their parameters.
POLYAK_API Value gathered_gradients(const ModelRef& model);

/// Parameters, and the gradients that they get.
using GatheredGradients = std::vector<std::pair<at::Tensor, at::Tensor>>;
/// The gradients that a checkpoint holds, copied, with the model's parameters; nothing where it
/// holds none, or ones for steps of another number of iterations, which a warning tells.
/// @throws CheckpointError for a name or a shape that is not the model's
POLYAK_API std::optional<GatheredGradients> fit_gradients(const ModelRef& model,
                                                          const Value& checkpoint,
                                                          int64_t accumulative_counts);

}  // namespace polyak
