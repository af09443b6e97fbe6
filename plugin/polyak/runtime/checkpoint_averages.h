// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/average_state.h"
#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

// How a checkpoint stores averages. The one without a name, "", is stored as in MMEngine:
// `state_dict` holds it, and `ema_state_dict` holds its count and the raw weights. The others are
// stored completely in `ema_state_dict.NAME`. Names of tensors begin with `module.` there.
namespace polyak {

/// The prefix of tensor names in an average's entry.
constexpr const char* kAveragePrefix = "module.";

/// The tensors of a dict whose names begin with `prefix`, without it.
POLYAK_API std::vector<NamedTensor> tensors_of(const Value& dict, const std::string& prefix = "");

/// The key of an average's entry in a checkpoint.
POLYAK_API std::string average_key(const std::string& name);

/// The names of the averages in a checkpoint.
POLYAK_API std::vector<std::string> averages_in(const Value& checkpoint);

/// What Polyak stores about an average in addition to MMEngine's layout, in `polyak.averages.NAME`:
/// its rule, its options, what an update counts, and the precision beyond the model's dtypes. Null
/// in files of other programs.
POLYAK_API const Value* average_record(const Value& checkpoint, const std::string& name);
/// The same as a state without steps and values; empty in files of other programs.
POLYAK_API AverageState recorded_average(const Value& checkpoint, const std::string& name);
/// Writes it; the checkpoint must have the entry `polyak`. An empty `count` is left out.
POLYAK_API void set_average_record(Value& checkpoint, const std::string& name,
                                   const AverageState& state, const std::string& count);

/// The `steps` of an average's entry.
/// @throws CheckpointError if it is missing, not an integer or below 0
POLYAK_API int64_t average_steps(const Value& checkpoint, const std::string& name);

/// Gives the tensors of each average the names of `state_dict` with the prefix `module.`, if they
/// have another common prefix or none, and logs that.
/// @throws CheckpointError if more than one prefix fits
POLYAK_API void match_average_names(Value& checkpoint);

/// Exchanges `state_dict`'s tensors with those of an average's entry.
POLYAK_API void exchange_weights(Value& state_dict, Value& ema_state);

/// The same for a checkpoint that was read, where either side may be damaged or from another
/// program.
/// @throws CheckpointError unless both hold the same names, shapes and kinds of numbers
POLYAK_API void exchange_weights_of(Value& checkpoint, const std::string& name);

/// Ensures that the exchanges that restore the raw weights will work.
/// @throws CheckpointError as exchange_weights_of() does
void check_raw_weights(const Value& checkpoint);

/// The entry `polyak.state_dict` names the contents of a checkpoint's `state_dict`: `raw`,
/// `averaged` (the average without a name) or the name of another average. A file is saved with the
/// average without a name in it, or with raw weights if there is none. These functions exchange it
/// with the entry of `weights`, or back. Without that entry, `state_dict` is assumed to hold what
/// files are saved with.
POLYAK_API void put_into_state_dict(Value& checkpoint, const std::string& weights);
POLYAK_API void restore_state_dict(Value& checkpoint);

}  // namespace polyak
