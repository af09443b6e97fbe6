// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <vector>

#include "polyak/hooks/check_invalid_loss_hook.h"
#include "polyak/hooks/checkpoint_hook.h"
#include "polyak/hooks/early_stopping_hook.h"
#include "polyak/hooks/ema_hook.h"
#include "polyak/hooks/iter_timer_hook.h"
#include "polyak/hooks/logger_hook.h"
#include "polyak/hooks/param_scheduler_hook.h"
#include "polyak/hooks/post_hoc_ema_hook.h"
#include "polyak/hooks/precise_bn_hook.h"
#include "polyak/hooks/profiler_hook.h"
#include "polyak/hooks/runtime_info_hook.h"
#include "polyak/loader/plugin.h"
#include "polyak/vis_backends/local_vis_backend.h"
#include "polyak/vis_backends/tensorboard_vis_backend.h"

namespace polyak {
namespace {

template <class H, class O>
void add(Registry<Hook>& hooks, const char* name, const char* doc) {
  hooks.add<O>(name, doc,
               [](const O& options, const Hook::Context&) { return std::make_shared<H>(options); });
}

std::vector<std::shared_ptr<VisBackend>> build_backends(const LoggerHookOptions& options,
                                                        const Hook::Context& context) {
  std::vector<std::shared_ptr<VisBackend>> backends;
  if (options.vis_backends().is_null()) return backends;
  for (const Node& node : options.vis_backends().items()) {
    backends.push_back(context.catalog->of<VisBackend>().build(node, {}));
  }
  return backends;
}

}  // namespace
}  // namespace polyak

POLYAK_PLUGIN(catalog) {
  using namespace polyak;
  auto& hooks = catalog.of<Hook>();
  auto& backends = catalog.of<VisBackend>();
  backends.add<LocalVisBackendOptions>(
      "LocalVisBackend", "Writes scalars.json: JSON lines.",
      [](const LocalVisBackendOptions& options, const VisBackend::Context&) {
        return std::make_shared<LocalVisBackend>(options);
      });
  backends.add<TensorboardVisBackendOptions>(
      "TensorboardVisBackend", "Writes an event file for TensorBoard.",
      [](const TensorboardVisBackendOptions& options, const VisBackend::Context&) {
        return std::make_shared<TensorboardVisBackend>(options);
      });
  hooks.add<EMAHookOptions>("EMAHook", "Averages the weights, and evaluates and saves the average.",
                            [](const EMAHookOptions& options, const Hook::Context& context) {
                              return std::make_shared<EMAHook>(
                                  options, context.catalog->of<AveragedModel>());
                            });
  hooks.add<PostHocEMAHookOptions>(
      "PostHocEMAHook",
      "Writes snapshots, from which an average of any length is made after training.",
      [](const PostHocEMAHookOptions& options, const Hook::Context& context) {
        return std::make_shared<PostHocEMAHook>(options, context.catalog->of<AveragedModel>());
      });
  add<PreciseBNHook, PreciseBNHookOptions>(hooks, "PreciseBNHook",
                                           "Re-estimates BatchNorm statistics for the averaged "
                                           "weights before validation, test and save.");
  add<RuntimeInfoHook, RuntimeInfoHookOptions>(hooks, "RuntimeInfoHook",
                                               "Logs learning rate and losses.");
  add<IterTimerHook, IterTimerHookOptions>(hooks, "IterTimerHook",
                                           "Logs the duration of iterations.");
  hooks.add<LoggerHookOptions>("LoggerHook", "Writes log lines, scalars.json and a progress bar.",
                               [](const LoggerHookOptions& options, const Hook::Context& context) {
                                 return std::make_shared<LoggerHook>(
                                     options, build_backends(options, context));
                               });
  add<ParamSchedulerHook, ParamSchedulerHookOptions>(hooks, "ParamSchedulerHook",
                                                     "Steps the parameter schedulers.");
  add<CheckpointHook, CheckpointHookOptions>(hooks, "CheckpointHook", "Writes checkpoints.");
  add<ProfilerHook, ProfilerHookOptions>(
      hooks, "ProfilerHook", "Records LibTorch's operations and writes a trace for Chrome.");
  add<EarlyStoppingHook, EarlyStoppingHookOptions>(hooks, "EarlyStoppingHook",
                                                   "Ends training when a metric improves no more.");
  add<CheckInvalidLossHook, CheckInvalidLossHookOptions>(
      hooks, "CheckInvalidLossHook", "Ends training at a loss that is not finite.");
}
