// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/span.h"

namespace polyak::kernels {

/// Whether lerp() takes an average of this type.
POLYAK_API bool supports_average(DType average);

int64_t POLYAK_API bytes_of(DType type);

/// Bytes that an update of the span reads and writes.
POLYAK_API int64_t traffic_of(const Span& span);

/// Cuts spans into chunks of at most `size` elements, so that threads can share them. A chunk ends
/// with a page of the source, unless its span ends or `size` does not reach so far.
POLYAK_API std::vector<Span> cut(const std::vector<Span>& spans, int64_t size);

/// average += weight * (source - average) for each span, in the average's type; for weight >= 0.5
/// in the form source - (source - average) * (1 - weight), so that weight 1 copies exactly; a
/// weight of 0 leaves the average alone, whatever the source. One pass, no memory of its own. Spans
/// must not overlap. Safe from several threads on different spans. The same bits on every machine.
POLYAK_API void lerp(const Span* spans, size_t count, double weight);

/// lerp() for several averages of one source, which is read once: spans that agree in source,
/// source type and size, each with a weight of its own. The same bits.
POLYAK_API void lerp_group(const Span* const* spans, const double* weights, size_t count);

/// Whether no source element is NaN or infinite. Reads the sources only.
POLYAK_API bool all_finite(const Span* spans, size_t count);

/// The paths that this machine can take, the one for it first, the reference last: plain code that
/// compilers may not vectorise. lerp() takes the first, or the last when the environment has
/// POLYAK_FORCE_REFERENCE=1 at its first call.
POLYAK_API const std::vector<Path>& paths();
/// The path that lerp() takes.
POLYAK_API const Path& chosen_path();

}  // namespace polyak::kernels
