# Install rules. Read last, since they look at which targets there are.
include(CMakePackageConfigHelpers)
set(POLYAK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/polyak)
set(POLYAK_CONFIG_DIR ${CMAKE_INSTALL_DATADIR}/polyak/configs)

# Installed libraries and programs find each other, and the LibTorch that they were built with.
set(polyak_installed polyak)
foreach(target IN ITEMS polyak_trainer polyak_hooks polyak_attach polyak_cli)
  if(TARGET ${target})
    list(APPEND polyak_installed ${target})
  endif()
endforeach()
set(polyak_rpath "$ORIGIN" "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
if(NOT POLYAK_TORCH STREQUAL "system")
  list(APPEND polyak_rpath "${POLYAK_TORCH_LIBRARY_DIR}")
endif()
set_target_properties(${polyak_installed} PROPERTIES INSTALL_RPATH "${polyak_rpath}")

# In the tree the names are the installed ones.
add_library(polyak::polyak ALIAS polyak)
if(TARGET polyak_trainer)
  set_target_properties(polyak_trainer PROPERTIES EXPORT_NAME trainer)
  add_library(polyak::trainer ALIAS polyak_trainer)
endif()
if(TARGET polyak_hooks)
  set_target_properties(polyak_hooks PROPERTIES EXPORT_NAME hooks)
  add_library(polyak::hooks ALIAS polyak_hooks)
endif()
if(TARGET polyak_cli)
  set_target_properties(polyak_cli PROPERTIES OUTPUT_NAME polyak)
endif()

install(TARGETS ${polyak_installed} EXPORT polyakTargets)
install(EXPORT polyakTargets NAMESPACE polyak:: DESTINATION ${POLYAK_PACKAGE_DIR})

set(polyak_installed_floors ${POLYAK_FLOORS})
if(NOT TARGET polyak_trainer)
  list(REMOVE_ITEM polyak_installed_floors trainer)
endif()
foreach(floor IN LISTS polyak_installed_floors)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/plugin/${floor} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/polyak
          FILES_MATCHING PATTERN "*.h"
          PATTERN "config/scalar.h" EXCLUDE PATTERN "config/yaml.h" EXCLUDE PATTERN "config/merge.h" EXCLUDE
          PATTERN "config/check.h" EXCLUDE PATTERN "checkpoint/pickle_*.h" EXCLUDE
          PATTERN "checkpoint/zip_directory.h" EXCLUDE PATTERN "kernels/element.h" EXCLUDE
          PATTERN "trainer/random_stream.h" EXCLUDE PATTERN "trainer/saved_numbers.h" EXCLUDE PATTERN "averaging/slot.h" EXCLUDE PATTERN "averaging/plan.h" EXCLUDE
          PATTERN "averaging/background.h" EXCLUDE PATTERN "averaging/by_aten.h" EXCLUDE PATTERN "averaging/device_tables.h" EXCLUDE
          PATTERN "averaging/offload.h" EXCLUDE
          PATTERN "averaging/swap_state.h" EXCLUDE
          PATTERN "attach" EXCLUDE PATTERN "kernels/lerp_*.h" EXCLUDE PATTERN "cli" EXCLUDE PATTERN "cmake" EXCLUDE)
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/hooks DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/polyak
        FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_SOURCE_DIR}/plugin/polyak.h ${POLYAK_INCLUDE_ROOT}/polyak/version.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/polyak)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs/ DESTINATION ${POLYAK_CONFIG_DIR} OPTIONAL
        FILES_MATCHING PATTERN "*.yaml")

set(POLYAK_TORCH_INSTALLED "${POLYAK_TORCH}")
if(NOT POLYAK_TORCH STREQUAL "system")
  get_filename_component(POLYAK_TORCH_INSTALLED "${POLYAK_TORCH}" ABSOLUTE)
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/polyakConfig.cmake.in ${PROJECT_BINARY_DIR}/polyakConfig.cmake
  INSTALL_DESTINATION ${POLYAK_PACKAGE_DIR} PATH_VARS POLYAK_CONFIG_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/polyakConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/polyakConfig.cmake ${PROJECT_BINARY_DIR}/polyakConfigVersion.cmake
              ${CMAKE_CURRENT_LIST_DIR}/PolyakTorch.cmake
        DESTINATION ${POLYAK_PACKAGE_DIR})
