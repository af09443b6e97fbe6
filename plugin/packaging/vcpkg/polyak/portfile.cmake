# SPDX-License-Identifier: Apache-2.0
# An overlay port that builds the source tree in which it lies. UNTESTED: docs/install.md says how to try it.
vcpkg_check_linkage(ONLY_DYNAMIC_LIBRARY)
get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../../.." ABSOLUTE)
vcpkg_check_features(OUT_FEATURE_OPTIONS features
  FEATURES tools POLYAK_BUILD_TRAINER
           tools POLYAK_BUILD_CLI
           tools POLYAK_BUILD_ATTACH)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    ${features}
    -DPOLYAK_BUILD_TESTS=OFF
    -DPOLYAK_CCACHE=OFF
    -DPOLYAK_CUDA=OFF
    -DPOLYAK_DISTRIBUTED=OFF
    "-DPOLYAK_TORCH=${CURRENT_INSTALLED_DIR}")
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/polyak)
if("tools" IN_LIST FEATURES)
  vcpkg_copy_tools(TOOL_NAMES polyak AUTO_CLEAN)
endif()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
