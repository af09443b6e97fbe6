// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Updates of averages that keep more than the average, over contiguous arrays of `size` numbers.
// float and double; one pass over the memory.
namespace polyak::kernels {

/// average += weight * (now - average); published = average + correction * (now - first).
template <class T>
void average_corrected(T* average, T* published, const T* first, const T* now, int64_t size,
                       double weight, double correction);

/// mean += share * (now - oldest); oldest = now; average = mean, rounded.
template <class T>
void slide(double* mean, T* oldest, T* average, const T* now, int64_t size, double share);

/// mean += share * (now - mean); kept = now; average = mean, rounded.
template <class T>
void grow(double* mean, T* kept, T* average, const T* now, int64_t size, double share);

}  // namespace polyak::kernels
