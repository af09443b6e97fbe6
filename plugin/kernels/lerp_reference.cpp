#include "polyak/kernels/lerp_loops.h"
#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {

Path reference_path() {
  return {"reference", lerp_spans, lerp_group_spans, all_finite_spans};
}

}  // namespace polyak::kernels
