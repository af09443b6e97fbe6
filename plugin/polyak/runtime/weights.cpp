// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/weights.h"

#include "polyak/averaging/average_state.h"
#include "polyak/checkpoint/format.h"
#include "polyak/core/log.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/runtime/tensor_names.h"

namespace polyak {
namespace {

void save_tensors(const std::vector<NamedTensor>& tensors, const std::string& path) {
  Value state_dict = Value::dict({}, /*ordered=*/true);
  for (const NamedTensor& item : tensors) state_dict.set(item.name, item.tensor.detach());
  write_checkpoint_file(path, state_dict);
}

}  // namespace

WeightsReport load_weights(const ModelRef& model, const std::string& path,
                           const LoadWeightsOptions& options) {
  Value checkpoint = read_checkpoint(path, options.key());
  WeightsReport report;
  name_file_in_errors(path, [&] {
    Value& state_dict = checkpoint.at("state_dict");
    apply_name_rules(state_dict, {options.strip(), options.map(), options.exclude()});
    fit_names(state_dict, model);
    const StateDifference found = check_state_dict(model, state_dict, options.strict());
    load_state_dict(model, state_dict);
    report.loaded = found.fitting;
    report.missing = found.missing;
    report.unexpected = found.unexpected;
    report.mismatched = found.mismatched;
    report.others = other_weights(checkpoint);
    if (!found.empty()) log_warning("{} only partly fits the model; {}", path, found.text());
  });
  return report;
}

void save_weights(const ModelRef& model, const std::string& path) {
  save_tensors(model.tensors(), path);
}

void save_weights(AveragedModel& average, const std::string& path) {
  save_tensors(average.state_dict().values, path);
}

}  // namespace polyak
