// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>

#include <cstdint>
#include <initializer_list>

namespace polyak {

/// A generator whose numbers depend only on `keys`, such as {seed, epoch, batch}. They do not
/// change if other code draws random numbers, and a resumed run needs no saved state.
inline at::Generator make_random_stream(std::initializer_list<uint64_t> keys) {
  // The finalizer of splitmix64 (Steele et al. 2014): neighbouring keys give unrelated seeds.
  uint64_t state = 0;
  for (uint64_t key : keys) {
    state += key + 0x9e3779b97f4a7c15ULL;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
    state ^= state >> 31;
  }
  return at::make_generator<at::CPUGeneratorImpl>(state);
}

}  // namespace polyak
