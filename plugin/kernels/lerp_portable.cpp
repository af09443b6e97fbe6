#include "polyak/kernels/lerp_loops.h"
#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {

Path portable_path(bool prefetches) {
  asks_ahead = prefetches;
  return {"portable", lerp_spans, lerp_group_spans, all_finite_spans};
}

}  // namespace polyak::kernels
