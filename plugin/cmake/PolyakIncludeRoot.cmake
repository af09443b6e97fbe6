# `#include <polyak/averaging/cosine_ema.h>` reads the same in the tree and installed: a folder of links
# in the build tree gives each floor, and hooks/, its place under polyak/.
set(POLYAK_FLOORS core config kernels registry averaging checkpoint runtime loader attach trainer embed cli)
set(POLYAK_INCLUDE_ROOT ${PROJECT_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${POLYAK_INCLUDE_ROOT}/polyak)
foreach(floor IN LISTS POLYAK_FLOORS)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/plugin/${floor} ${POLYAK_INCLUDE_ROOT}/polyak/${floor} SYMBOLIC)
endforeach()
file(CREATE_LINK ${PROJECT_SOURCE_DIR}/hooks ${POLYAK_INCLUDE_ROOT}/polyak/hooks SYMBOLIC)
file(CREATE_LINK ${PROJECT_SOURCE_DIR}/plugin/polyak.h ${POLYAK_INCLUDE_ROOT}/polyak/polyak.h SYMBOLIC)
configure_file(${PROJECT_SOURCE_DIR}/plugin/core/version.h.in ${POLYAK_INCLUDE_ROOT}/polyak/version.h @ONLY)
