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

// Settings of a training run for the whole process: threads, determinism, random numbers, the
// device.
namespace polyak {

/// Saves the random state of a device and restores it in the destructor.
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

/// The random state of a device, a byte tensor on the CPU.
at::Tensor random_state(c10::Device device);
void set_random_state(c10::Device device, const at::Tensor& state);

/// The random state of a training run: seeded, or from the checkpoint that it resumes from.
class POLYAK_API RunRandomness {
 public:
  RunRandomness() = default;
  /// @param offset of a process whose random numbers differ from the others'
  RunRandomness(uint64_t seed, c10::Device device, uint64_t offset = 0)
      : seed_(seed), offset_(offset), device_(device) {}

  uint64_t seed() const { return seed_; }
  /// Remembers the random state of a checkpoint, if it has one; begin() sets it. Of several
  /// processes, each has its own if there were as many before.
  void restore(const Value& checkpoint, int64_t rank = 0, int64_t size = 1);
  /// Call this right before the first iteration, so that copies of the model and hooks that draw
  /// random numbers do not change training.
  void begin();
  /// For a checkpoint: {cpu: uint8 tensor, device: uint8 tensor}. Before begin() of a resumed run:
  /// the state that begin() will set.
  Value state() const;

 private:
  uint64_t seed_ = 0;
  uint64_t offset_ = 0;
  c10::Device device_{c10::kCPU};
  at::Tensor restored_cpu_;  // to be set by begin(); undefined: none
  at::Tensor restored_device_;
};

/// The device of a config's key `device`; by default CUDA if available.
/// @throws ConfigError
c10::Device find_device(const Node& config, const std::optional<std::string>& name);

/// Sets LibTorch's threads: `env_cfg.num_threads`, or all cores.
void set_up_threads(const Node& env_cfg);

/// Sets determinism according to `randomness`.
/// @return the seed: of the checkpoint if the run is resumed, otherwise of the config, otherwise a
/// random one
int64_t set_up_randomness(const Node& randomness, std::optional<int64_t> resumed_seed);

}  // namespace polyak
