# SPDX-License-Identifier: Apache-2.0
# Install rules. Read last, since they look at which targets there are.
include(CMakePackageConfigHelpers)
set(POLYAK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/polyak)
set(POLYAK_CONFIG_DIR ${CMAKE_INSTALL_DATADIR}/polyak/configs)

# Installed libraries and programs find each other, and the LibTorch that they were built with.
set(polyak_installed polyak polyak_distributed)
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
set_target_properties(polyak_distributed PROPERTIES EXPORT_NAME distributed)
add_library(polyak::distributed ALIAS polyak_distributed)
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

# public_headers.txt is the list of what is installed, compiled alone by a test and documented.
foreach(part IN ITEMS plugin hooks)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${part}/public_headers.txt)
  file(STRINGS ${PROJECT_SOURCE_DIR}/${part}/public_headers.txt headers REGEX "^polyak/")
  if(NOT TARGET polyak_trainer)
    list(FILTER headers EXCLUDE REGEX "^polyak/trainer/")
  endif()
  if(NOT POLYAK_WITH_DISTRIBUTED)  # what includes c10d
    list(FILTER headers EXCLUDE REGEX "^polyak/distributed/c10d")
  endif()
  foreach(header IN LISTS headers)
    get_filename_component(folder ${header} DIRECTORY)
    install(FILES ${PROJECT_SOURCE_DIR}/${part}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder})
  endforeach()
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs/ DESTINATION ${POLYAK_CONFIG_DIR} OPTIONAL
        FILES_MATCHING PATTERN "*.yaml" PATTERN "*.schema.json" PATTERN key_maps EXCLUDE)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs/key_maps DESTINATION ${CMAKE_INSTALL_DATADIR}/polyak)

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
