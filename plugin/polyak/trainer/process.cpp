// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/process.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/cuda.h>

#include <algorithm>
#include <mutex>
#include <random>
#include <thread>

#include "polyak/config/options.h"
#include "polyak/core/cleanup.h"
#include "polyak/core/log.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

RandomStateGuard::RandomStateGuard(c10::Device device)
    : generator_(at::globalContext().defaultGenerator(device)), state_(generator_.get_state()) {}

RandomStateGuard::~RandomStateGuard() {
  clean_up("restoring the random state", [&] { generator_.set_state(state_); });
}

at::Tensor random_state(c10::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(c10::Device device, const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

void RunRandomness::restore(const Value& checkpoint, int64_t rank, int64_t size) {
  const Value* extra = checkpoint.find("polyak");
  const Value* random = extra ? extra->find("random_state") : nullptr;
  if (!random) return;
  restored_cpu_ = random->at("cpu").as_tensor();
  const Value* of_ranks = random->find("ranks");
  if (of_ranks && static_cast<int64_t>(of_ranks->items().size()) == size) {
    restored_cpu_ = of_ranks->items()[static_cast<size_t>(rank)].as_tensor();
  }
  const Value* on_device = random->find("device");
  if (on_device && !device_.is_cpu()) restored_device_ = on_device->as_tensor();
}

void RunRandomness::begin() {
  if (!restored_cpu_.defined()) {
    at::manual_seed(seed_ + offset_);
    return;
  }
  set_random_state(c10::kCPU, restored_cpu_);
  if (restored_device_.defined()) set_random_state(device_, restored_device_);
  restored_cpu_ = restored_device_ = at::Tensor();
}

Value RunRandomness::state() const {
  Value state = Value::dict();
  state.set("cpu", restored_cpu_.defined() ? restored_cpu_ : random_state(c10::kCPU));
  if (!device_.is_cpu()) {
    state.set("device", restored_device_.defined() ? restored_device_ : random_state(device_));
  }
  return state;
}

c10::Device find_device(const Node& config, const std::optional<std::string>& name) {
  if (!name) return c10::Device(torch::cuda::is_available() ? c10::kCUDA : c10::kCPU);
  const Node& node = config.at("device");
  std::optional<c10::Device> device;
  try {
    device.emplace(*name);
  } catch (const c10::Error&) {
    node.fail(fmt::format("no device is named '{}'; it must be cpu, cuda or cuda:N", *name));
  }
  if (device->is_cpu()) return *device;
  if (!device->is_cuda()) {
    node.fail(fmt::format("'{}' is not supported; it must be cpu, cuda or cuda:N", *name));
  }
  const auto count = static_cast<int64_t>(torch::cuda::device_count());
  if (count == 0) node.fail("LibTorch finds no CUDA device here; use cpu");
  if (device->has_index() && device->index() >= count) {
    node.fail(fmt::format("there are {} CUDA devices, numbered from 0; got {}", count, *name));
  }
  return *device;
}

void set_up_threads(const Node& env_cfg) {
  EnvOptions env;
  read_options(env_cfg, env, "env_cfg");
  const auto cores =
      std::max<int64_t>(static_cast<int64_t>(std::thread::hardware_concurrency()), 1);
  if (env.num_threads.value_or(1) > 4 * cores) {
    log_warning("{}{} threads share {} cores, which slows down every operation",
                env_cfg.at("num_threads").prefix(), *env.num_threads, cores);
  }
  at::set_num_threads(static_cast<int>(env.num_threads.value_or(cores)));
}

int64_t set_up_randomness(const Node& randomness, std::optional<int64_t> resumed_seed) {
  RandomnessOptions options;
  read_options(randomness, options, "randomness");
  if (resumed_seed && options.seed.value_or(*resumed_seed) != *resumed_seed) {
    log_warning("randomness.seed is {}, but the checkpoint was trained with seed {}; using {}",
                *options.seed, *resumed_seed, *resumed_seed);
  }
  if (resumed_seed) options.seed = resumed_seed;
  if (!options.seed) {
    options.seed = std::random_device()() >> 1;
    log_info("randomness.seed is not set; drew {}", *options.seed);
  }
  at::globalContext().setDeterministicAlgorithms(options.deterministic, /*warn_only=*/false);
  at::globalContext().setDeterministicCuDNN(options.deterministic);
  return *options.seed;
}

}  // namespace polyak
