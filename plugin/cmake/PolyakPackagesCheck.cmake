# SPDX-License-Identifier: Apache-2.0
# Read by cpack, once for each kind of package.
if(CPACK_GENERATOR STREQUAL "DEB")
  set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")  # each package has its own
endif()
if(CPACK_GENERATOR STREQUAL "DEB" AND NOT CPACK_POLYAK_TORCH STREQUAL "system")
  message(FATAL_ERROR "Debian packages need Debian's LibTorch, but this build has ${CPACK_POLYAK_TORCH}: "
                      "configure with -DPOLYAK_TORCH=system.")
endif()
