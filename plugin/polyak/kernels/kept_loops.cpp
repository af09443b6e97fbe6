// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/kept_loops.h"

namespace polyak::kernels {

// The arrays never overlap; saying so lets the compiler use vectors.

template <class T>
void average_corrected(T* __restrict average, T* __restrict published, const T* __restrict first,
                       const T* __restrict now, int64_t size, double weight, double correction) {
  const T w = static_cast<T>(weight), c = static_cast<T>(correction);
  for (int64_t i = 0; i < size; ++i) {
    const T moved = average[i] + w * (now[i] - average[i]);
    average[i] = moved;
    published[i] = moved + c * (now[i] - first[i]);
  }
}

template <class T>
void slide(double* __restrict mean, T* __restrict oldest, T* __restrict average,
           const T* __restrict now, int64_t size, double share) {
  for (int64_t i = 0; i < size; ++i) {
    const double change = static_cast<double>(now[i]) - static_cast<double>(oldest[i]);
    const double moved = mean[i] + share * change;
    mean[i] = moved;
    oldest[i] = now[i];
    average[i] = static_cast<T>(moved);
  }
}

template <class T>
void grow(double* __restrict mean, T* __restrict kept, T* __restrict average,
          const T* __restrict now, int64_t size, double share) {
  for (int64_t i = 0; i < size; ++i) {
    const double moved = mean[i] + share * (static_cast<double>(now[i]) - mean[i]);
    mean[i] = moved;
    kept[i] = now[i];
    average[i] = static_cast<T>(moved);
  }
}

#define POLYAK_KEPT_LOOPS(T)                                                            \
  template void average_corrected(T*, T*, const T*, const T*, int64_t, double, double); \
  template void slide(double*, T*, T*, const T*, int64_t, double);                      \
  template void grow(double*, T*, T*, const T*, int64_t, double);
POLYAK_KEPT_LOOPS(float)
POLYAK_KEPT_LOOPS(double)
#undef POLYAK_KEPT_LOOPS

}  // namespace polyak::kernels
