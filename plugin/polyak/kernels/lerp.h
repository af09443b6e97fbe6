// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/span.h"

namespace polyak::kernels {

/// Whether lerp() supports averages of this type.
bool supports_average(DType average);

int64_t bytes_of(DType type);

/// Bytes that an update of the span reads and writes in total.
int64_t traffic_of(const Span& span);

/// Splits spans into chunks of at most `size` elements, so that threads can share the work. A chunk
/// ends at a page boundary of the source, unless its span ends first or `size` is too small.
std::vector<Span> split_into_chunks(const std::vector<Span>& spans, int64_t size);

/// Computes average += weight * (source - average) for each span, in the average's type. For weight
/// >= 0.5 it uses the form source - (source - average) * (1 - weight), so that weight 1 copies
/// exactly. A weight of 0 leaves the average unchanged, even if the source holds NaN. One pass, no
/// allocation. Spans must not overlap. Different threads may update different spans. The result has
/// the same bits on every machine.
void lerp(const Span* spans, size_t count, double weight);

/// lerp() for several averages of one source, which is read only once. All spans have the same
/// source, source type and size; weights[i] belongs to spans[i]. The same bits as lerp().
void lerp_group(const Span* const* spans, const double* weights, size_t count);

/// Whether all source elements are finite. Reads only the sources.
bool all_finite(const Span* spans, size_t count);

/// The kernel variants that this machine supports: the fastest first, the reference last. The
/// reference is plain code that compilers may not vectorise. lerp() uses the first variant, or the
/// reference if POLYAK_FORCE_REFERENCE=1 is set in the environment at its first call.
const std::vector<KernelVariant>& kernel_variants();
/// The variant that lerp() uses.
POLYAK_API const KernelVariant& chosen_variant();

}  // namespace polyak::kernels
