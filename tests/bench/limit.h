// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polyak::bench {

/// What one thread of this CPU can do for `average += weight * (source - average)` over one array:
/// a plain loop that the compiler may tune to the machine. Calls over parts of one array together
/// are the limit that averages are measured against.
void plain_loop(float* average, const float* source, int64_t size, float weight);
/// The same from bfloat16 and float16, given as their bits.
void plain_loop_bfloat16(float* average, const uint16_t* source, int64_t size, float weight);
void plain_loop_float16(float* average, const uint16_t* source, int64_t size, float weight);

/// A source that never rests: source = base + amplitude * noise, the noise uniform in [-1, 1) from
/// one generator for each value. `state` is what the generators remember.
void next_source(float* source, const float* base, uint32_t* state, int64_t size, float amplitude);
/// The average as exactly as float64 has it.
void exact_average(double* average, const float* source, int64_t size, double weight);

}  // namespace polyak::bench
