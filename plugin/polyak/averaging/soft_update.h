// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "polyak/averaging/model.h"
#include "polyak/core/export.h"

namespace polyak {

/// What a soft update does with the floating-point buffers of the two models, such as the running
/// statistics of BatchNorm. Integer buffers are always copied.
enum class SoftUpdateBuffers {
  copy,     // the target gets the online model's
  average,  // they are averaged like parameters
};

/// Moves a target network towards an online network, in place, as DDPG, TD3 and SAC do after each
/// step: `target += tau * (online - target)` for every parameter. With tau = 1 it copies: a hard
/// update, as DQN makes every few thousand steps.
///
///     polyak::soft_update(critic_target, critic, 0.005);
///
/// Tensors are paired by name; a tensor with several names is updated once. Both models stay as
/// they are otherwise: no copy is made, and `requires_grad` and handles stay valid. On the CPU, the
/// numbers are those of an ExponentialMovingAverage of momentum tau, on all threads of LibTorch's
/// pool. A float16 or bfloat16 target is rounded at every update, so with a small tau it may stop
/// moving: keep the target in float32.
///
/// @param tau weight of the online network, in (0, 1]
/// @throws Error, before anything changes, for another tau, for a name that only one model has, for
///   different shapes or kinds of numbers, or if the target ties tensors that the online model does
///   not
POLYAK_API void soft_update(const ModelRef& target, const ModelRef& online, double tau,
                            SoftUpdateBuffers buffers = SoftUpdateBuffers::copy);

/// The same for the same two models again and again: it looks up names once, and again when a
/// tensor was replaced. For small networks, whose update takes microseconds.
///
///     polyak::SoftUpdate follow(critic_target, critic);
///     ...
///     follow(0.005);
///
/// Not thread-safe. Both models must outlive it, unless they were given as a std::shared_ptr or a
/// module holder.
class POLYAK_API SoftUpdate {
 public:
  /// @throws Error as soft_update() does
  SoftUpdate(const ModelRef& target, const ModelRef& online,
             SoftUpdateBuffers buffers = SoftUpdateBuffers::copy);
  ~SoftUpdate();
  SoftUpdate(SoftUpdate&&) noexcept;
  SoftUpdate& operator=(SoftUpdate&&) noexcept;

  /// Makes one update. @param tau in (0, 1] @throws Error as soft_update() does
  void operator()(double tau);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polyak
