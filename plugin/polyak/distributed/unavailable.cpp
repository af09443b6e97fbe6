// SPDX-License-Identifier: Apache-2.0
// In place of the files over c10d, where CMake did not find it.
#include "polyak/core/error.h"
#include "polyak/distributed/gradient_reducer.h"
#include "polyak/distributed/process_group.h"

namespace polyak {

GradientReducer::~GradientReducer() = default;

std::string why_not_distributed() {
  return "this build of Polyak has no c10d over Gloo (" POLYAK_WHY_NOT_DISTRIBUTED ")";
}

std::shared_ptr<ProcessGroup> join_processes(const Placement& /*placement*/,
                                             std::chrono::milliseconds /*timeout*/) {
  fail<ConfigError>("launcher: {}", why_not_distributed());
}

std::shared_ptr<ProcessGroup> duplicate(const ProcessGroup& /*processes*/) {
  fail<ConfigError>("launcher: {}", why_not_distributed());
}

std::unique_ptr<GradientReducer> make_gradient_reducer(
    std::shared_ptr<ProcessGroup> /*processes*/, const std::vector<NamedTensor>& /*parameters*/,
    const GradientReducer::Options& /*options*/) {
  fail<ConfigError>("launcher: {}", why_not_distributed());
}

}  // namespace polyak
