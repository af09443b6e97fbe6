// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/average_state.h"
#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

// How averages lie in a checkpoint. The one without a name, "", is MMEngine's: `state_dict` holds
// it, and `ema_state_dict` its count and the raw weights. The others lie whole in
// `ema_state_dict.NAME`. Names of tensors begin with `module.` there.
namespace polyak {

/// The prefix of tensor names in an average's entry.
constexpr const char* kAveragePrefix = "module.";

/// The tensors of a dict whose names begin with `prefix`, without it.
POLYAK_API std::vector<NamedTensor> tensors_of(const Value& dict, const std::string& prefix = "");

/// The checkpoint's entry of an average.
POLYAK_API std::string average_key(const std::string& name);

/// The names of the averages in a checkpoint.
POLYAK_API std::vector<std::string> averages_in(const Value& checkpoint);

/// What Polyak knows of an average beside MMEngine's layout, `polyak.averages.NAME`: its rule, its
/// options, what an update counts, and what the values in the model's dtypes lack. Null in files of
/// other programs.
POLYAK_API const Value* average_record(const Value& checkpoint, const std::string& name);
/// The same as a state without steps and values; an empty one in files of other programs.
POLYAK_API AverageState recorded_average(const Value& checkpoint, const std::string& name);
/// Writes it; the checkpoint must have the entry `polyak`. An empty `count` is left out.
POLYAK_API void set_average_record(Value& checkpoint, const std::string& name,
                                   const AverageState& state, const std::string& count);

/// The `steps` of an average's entry.
/// @throws CheckpointError when it is missing, no number or below 0
POLYAK_API int64_t average_steps(const Value& checkpoint, const std::string& name);

/// Gives the tensors of each average the names `module.` + those of `state_dict`, where a prefix
/// that all of them share, or none, stands instead; a line says so.
/// @throws CheckpointError where more than one prefix would do
void match_average_names(Value& checkpoint);

/// Exchanges `state_dict`'s tensors with those of an average's entry.
POLYAK_API void exchange_weights(Value& state_dict, Value& ema_state);

/// The same for a checkpoint that was read, where either side may be damaged or another program's.
/// @throws CheckpointError unless both hold the same names, shapes and kinds of numbers
POLYAK_API void exchange_weights_of(Value& checkpoint, const std::string& name);

/// Makes sure that the exchanges which give the raw weights back will work.
/// @throws CheckpointError as exchange_weights_of() does
void check_raw_weights(const Value& checkpoint);

/// What a checkpoint's `state_dict` holds is said by `polyak.state_dict`: `raw`, `averaged` (the
/// average without a name) or the name of another average. Files are saved with the average without
/// a name in it, or raw weights where there is none; these exchange it with the entry of what is
/// wanted, or back. A file that does not say is taken to hold what files are saved with.
POLYAK_API void put_into_state_dict(Value& checkpoint, const std::string& weights);
POLYAK_API void restore_state_dict(Value& checkpoint);

}  // namespace polyak
