// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"

// What a training run sets for the whole process: threads, determinism, random numbers, the device.
namespace polyak {

/// The state of a device's random numbers, put back when this goes.
class RandomStateGuard {
 public:
  explicit RandomStateGuard(c10::Device device);
  ~RandomStateGuard();
  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

/// The state of a device's random numbers, a byte tensor on the CPU.
at::Tensor random_state(c10::Device device);
void set_random_state(c10::Device device, const at::Tensor& state);

/// The random numbers of a training run: seeded, or those of the checkpoint that it goes on from.
class POLYAK_API RunRandomness {
 public:
  RunRandomness() = default;
  RunRandomness(uint64_t seed, c10::Device device) : seed_(seed), device_(device) {}

  uint64_t seed() const { return seed_; }
  /// Notes the state that a checkpoint holds, where it holds one; begin() sets it.
  void restore(const Value& checkpoint);
  /// Right before the first iteration, so that copies of the model and hooks that draw numbers
  /// leave training as it is without them.
  void begin();
  /// For a checkpoint: {cpu: uint8 tensor, device: uint8 tensor}. Before begin() of a run that goes
  /// on, the state that it will go on with.
  Value state() const;

 private:
  uint64_t seed_ = 0;
  c10::Device device_{c10::kCPU};
  at::Tensor restored_cpu_;  // not set yet; undefined: nothing
  at::Tensor restored_device_;
};

/// The device that a config's key `device` names; without a name CUDA's where there is one.
/// @throws ConfigError
c10::Device find_device(const Node& config, const std::optional<std::string>& name);

/// Sets LibTorch's threads: `env_cfg.num_threads`, or all cores.
void set_up_threads(const Node& env_cfg);

/// Sets determinism as `randomness` says.
/// @return its seed; that of the checkpoint, where a run goes on from one; a drawn one without both
int64_t set_up_randomness(const Node& randomness, std::optional<int64_t> resumed_seed);

}  // namespace polyak
