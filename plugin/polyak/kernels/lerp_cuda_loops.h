// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "polyak/kernels/element.h"
#include "polyak/kernels/lerp_cuda_table.h"

// The work of one thread of the CUDA kernel. Threads never wait for each other, so a test can run
// the same code on the CPU, one thread after another.
#ifdef __CUDA_ARCH__
#define POLYAK_UNROLL _Pragma("unroll")  // or the arrays would not be in registers
#else
#define POLYAK_UNROLL
#endif

namespace polyak::kernels {

/// Elements that are read at once; float64 takes two reads.
template <class T, int kWidth>
struct alignas(kWidth * sizeof(T) < 16 ? kWidth * sizeof(T) : 16) Pack {
  T at[kWidth];
};

/// The number of threads that share a piece, and the rank of this one.
struct Team {
  uint32_t size;
  uint32_t rank;
};

/// An update's weight, or 1 - weight if it is 0.5 or more.
template <class Average>
struct Step {
  bool below_half;
  Average weight;
};

template <class T, class Average>
POLYAK_ELEMENT T moved(T average, Average value, Step<Average> step) {
  return step.below_half ? move_towards(average, value, step.weight)
                         : move_back_from(value, average, step.weight);
}

/// kWidth elements of each array. kResidual: whether there are residuals.
template <int kWidth, bool kResidual, class Average, class Source>
struct Packs {
  Pack<Average, kWidth> average;
  Pack<Source, kWidth> source;
  Pack<int16_t, kWidth> residual;
};

template <int kWidth, bool kResidual, class Average, class Source>
POLYAK_ELEMENT void move(Packs<kWidth, kResidual, Average, Source>& packs, Step<Average> step) {
  POLYAK_UNROLL
  for (int e = 0; e < kWidth; ++e) {
    const auto value = static_cast<Average>(widen(packs.source.at[e]));
    if constexpr (kResidual) {
      const Compensated before{packs.average.at[e], packs.residual.at[e]};
      const Compensated after = moved(before, value, step);
      packs.average.at[e] = after.average;
      packs.residual.at[e] = static_cast<int16_t>(after.residual);
    } else {
      packs.average.at[e] = moved(packs.average.at[e], value, step);
    }
  }
}

/// Averages a team's `count` packs; those from index `gap_at` on are `gap` packs further.
template <int kWidth, bool kResidual, class Average, class Source>
POLYAK_ELEMENT void lerp_packs(Average* __restrict average, const Source* __restrict source,
                               int16_t* __restrict residual, uint32_t count, uint32_t gap_at,
                               uint32_t gap, Team team, Step<Average> step) {
#ifdef __CUDA_ARCH__
  // A pointer from a table could point to any memory space, for which instructions are slower.
  __builtin_assume(__isGlobal(average));
  __builtin_assume(__isGlobal(source));
  if (kResidual) __builtin_assume(__isGlobal(residual));
#endif
  auto* averages = reinterpret_cast<Pack<Average, kWidth>*>(average);
  const auto* sources = reinterpret_cast<const Pack<Source, kWidth>*>(source);
  auto* residuals = reinterpret_cast<Pack<int16_t, kWidth>*>(residual);
  // To hide latency, a thread issues the loads of up to 64 bytes of each array at once. More would
  // not fit in registers.
  constexpr int kLarger = int(sizeof(Average) > sizeof(Source) ? sizeof(Average) : sizeof(Source));
  constexpr int kAtOnce = kWidth == 1 ? 4 : (kResidual ? 32 : 64) / (kLarger * kWidth);
  for (uint32_t first = team.rank; first < count; first += kAtOnce * team.size) {
    // Without initial values, the packs that are not read would occupy registers across rows.
    Packs<kWidth, kResidual, Average, Source> packs[kAtOnce] = {};
    POLYAK_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const uint32_t i = first + k * team.size;
      if (i >= count) continue;
      const uint32_t at = i < gap_at ? i : i + gap;
      packs[k].average = averages[at];
      packs[k].source = sources[at];
      if (kResidual) packs[k].residual = residuals[at];
    }
    POLYAK_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const uint32_t i = first + k * team.size;
      if (i >= count) continue;
      const uint32_t at = i < gap_at ? i : i + gap;
      move(packs[k], step);
      averages[at] = packs[k].average;
      if (kResidual) residuals[at] = packs[k].residual;
    }
  }
}

template <bool kResidual, class Average, class Source>
POLYAK_ELEMENT void lerp_typed(const CudaPiece& piece, Team team, double weight) {
  constexpr int kVector = int(kCudaVector);
  auto* average = static_cast<Average*>(piece.average);
  const auto* source = static_cast<const Source*>(piece.source);
  const bool below_half = weight < 0.5;
  const Step<Average> step{below_half, static_cast<Average>(below_half ? weight : 1.0 - weight)};
  const uint32_t head = piece.head;
  const uint32_t vectors = (piece.size - head) / kVector;
  lerp_packs<kVector, kResidual>(average + head, source + head,
                                 kResidual ? piece.residual + head : nullptr, vectors, vectors, 0,
                                 team, step);
  // The elements before and after the vectors.
  lerp_packs<1, kResidual>(average, source, piece.residual, piece.size - vectors * kVector, head,
                           vectors * kVector, team, step);
}

template <class Source>
POLYAK_ELEMENT void lerp_from(const CudaPiece& piece, Team team, double weight) {
  if (piece.average_type == DType::float64) {
    lerp_typed<false, double, Source>(piece, team, weight);
  } else if (!piece.residual) {
    lerp_typed<false, float, Source>(piece, team, weight);
  } else {
    lerp_typed<true, float, Source>(piece, team, weight);
  }
}

POLYAK_ELEMENT void lerp_piece(const CudaPiece& piece, Team team, double weight) {
  switch (piece.source_type) {
    case DType::float64:
      lerp_from<double>(piece, team, weight);
      break;
    case DType::float32:
      lerp_from<float>(piece, team, weight);
      break;
    case DType::float16:
      lerp_from<Half>(piece, team, weight);
      break;
    case DType::bfloat16:
      lerp_from<BFloat16>(piece, team, weight);
      break;
  }
}

template <class Unit>
POLYAK_ELEMENT void copy_units(const CudaPiece& piece, Team team) {
  auto* to = static_cast<Unit*>(piece.average);
  const auto* from = static_cast<const Unit*>(piece.source);
  const uint32_t count = piece.size / sizeof(Unit);
  for (uint32_t i = team.rank; i < count; i += team.size) to[i] = from[i];
}

POLYAK_ELEMENT void copy_piece(const CudaPiece& piece, Team team) {
  const uintptr_t ends = reinterpret_cast<uintptr_t>(piece.average) |
                         reinterpret_cast<uintptr_t>(piece.source) | piece.size;
  if (ends % 16 == 0) {
    copy_units<Pack<uint32_t, 4>>(piece, team);
  } else if (ends % 4 == 0) {
    copy_units<uint32_t>(piece, team);
  } else {
    copy_units<uint8_t>(piece, team);
  }
}

/// The arguments of a launch. The memory they point to must not change meanwhile.
struct CudaLaunch {
  const CudaPiece* pieces;
  const CudaTurn* turns;  // of the rows
  uint32_t rows;
  uint32_t columns;
  uint32_t for_blocks;
  uint32_t copies_from;
};

/// All work of one thread, given by the index of its block and its index in the block.
POLYAK_ELEMENT void lerp_thread(const CudaLaunch& launch, uint32_t block, uint32_t thread) {
  constexpr uint32_t kThreads = kCudaThreads, kWarps = kCudaWarps, kWarpThreads = kThreads / kWarps;
  const bool whole_block = block < launch.for_blocks;
  const uint32_t column = whole_block ? block
                                      : launch.for_blocks + (block - launch.for_blocks) * kWarps +
                                            thread / kWarpThreads;
  if (column >= launch.columns) return;
  const Team team =
      whole_block ? Team{kThreads, thread} : Team{kWarpThreads, thread % kWarpThreads};
  for (uint32_t row = 0; row < launch.rows; ++row) {
    const CudaPiece piece = launch.pieces[size_t{row} * launch.columns + column];
    const CudaTurn turn = launch.turns[row];
    if (column >= launch.copies_from) {
      if (piece.at_each_update ? turn.copies : turn.averages) copy_piece(piece, team);
    } else if (piece.size > 0 && turn.averages && turn.weight != 0) {  // not 0 * infinity
      lerp_piece(piece, team, turn.weight);
    }
  }
}

}  // namespace polyak::kernels
