// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/saved_average.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/run_checkpoint.h"

namespace polyak {

void save_average(Value& checkpoint, const std::string& name, const AverageState& state,
                  const std::string& count) {
  Value entry = Value::dict({}, /*ordered=*/true);
  entry.set("steps", at::tensor(state.steps, at::kLong));
  for (const NamedTensor& item : state.values) {
    entry.set(kAveragePrefix + item.name, item.tensor.detach());
  }
  if (name.empty()) exchange_weights(checkpoint.at("state_dict"), entry);
  checkpoint.set(average_key(name), std::move(entry));
  if (!checkpoint.contains("polyak")) {
    checkpoint.set("polyak", Value::dict()).set("format", kCheckpointFormat);
  }
  if (name.empty()) checkpoint.at("polyak").set("state_dict", "averaged");
  set_average_record(checkpoint, name, state, count);
}

AverageState saved_average(const Value& checkpoint, const std::string& name) {
  if (!checkpoint.contains(average_key(name))) {
    std::vector<std::string> there;
    for (const std::string& other : averages_in(checkpoint)) there.push_back(average_key(other));
    fail<CheckpointError>("the checkpoint has no '{}'; {}", average_key(name),
                          there.empty() ? std::string("it holds no average")
                                        : fmt::format("it has {}", fmt::join(there, ", ")));
  }
  Value layout = checkpoint;  // handles only; `state_dict` may hold the best weights
  restore_state_dict(layout);
  if (name.empty()) exchange_weights_of(layout, name);

  AverageState state = recorded_average(layout, name);
  state.steps = average_steps(layout, name);
  state.values = tensors_of(layout.at(average_key(name)), kAveragePrefix);
  return state;
}

}  // namespace polyak
