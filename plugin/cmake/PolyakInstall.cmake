# SPDX-License-Identifier: Apache-2.0
# Install rules. Read last, since they look at which targets there are.
include(CMakePackageConfigHelpers)
set(POLYAK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/polyak)
set(POLYAK_CONFIG_DIR ${CMAKE_INSTALL_DATADIR}/polyak/configs)

# What runs is the component polyak, the built-in hooks are polyak_plugins, what compilers need is polyak_dev: packages are
# made of these (PolyakPackages.cmake).
set(polyak_run polyak polyak_distributed)
foreach(target IN ITEMS polyak_trainer polyak_attach polyak_cli)
  if(TARGET ${target})
    list(APPEND polyak_run ${target})
  endif()
endforeach()

# Installed libraries and programs find each other, and the LibTorch that they were built with.
function(polyak_install_rpath target)  # and folders, from its own
  if(TARGET ${target})
    list(TRANSFORM ARGN PREPEND "$ORIGIN/")
    list(TRANSFORM ARGN REPLACE "/[.]$" "")
    if(NOT POLYAK_TORCH STREQUAL "system")
      list(APPEND ARGN "${POLYAK_TORCH_LIBRARY_DIR}")
    endif()
    set_target_properties(${target} PROPERTIES INSTALL_RPATH "${ARGN}")
  endif()
endfunction()
file(RELATIVE_PATH polyak_lib_from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
polyak_install_rpath(polyak_cli ${polyak_lib_from_bin})
polyak_install_rpath(polyak_attach)  # it needs none of ours
foreach(target IN ITEMS polyak polyak_distributed polyak_trainer polyak_hooks)
  polyak_install_rpath(${target} .)
endforeach()

# In the tree the names are the installed ones.
add_library(polyak::polyak ALIAS polyak)
set_target_properties(polyak_distributed PROPERTIES EXPORT_NAME distributed)
add_library(polyak::distributed ALIAS polyak_distributed)
if(TARGET polyak_trainer)
  set_target_properties(polyak_trainer PROPERTIES EXPORT_NAME trainer)
  add_library(polyak::trainer ALIAS polyak_trainer)
endif()
set_target_properties(polyak_hooks PROPERTIES EXPORT_NAME hooks)
add_library(polyak::hooks ALIAS polyak_hooks)
if(TARGET polyak_cli)
  set_target_properties(polyak_cli PROPERTIES OUTPUT_NAME polyak)
endif()

install(TARGETS ${polyak_run} EXPORT polyakTargets
        RUNTIME COMPONENT polyak LIBRARY COMPONENT polyak NAMELINK_COMPONENT polyak_dev)
# Programs link the hooks, and the loader opens them by the name without a number.
install(TARGETS polyak_hooks EXPORT polyakTargets LIBRARY COMPONENT polyak_plugins NAMELINK_COMPONENT polyak_plugins)
install(EXPORT polyakTargets NAMESPACE polyak:: DESTINATION ${POLYAK_PACKAGE_DIR} COMPONENT polyak_dev)

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
    install(FILES ${PROJECT_SOURCE_DIR}/${part}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder}
            COMPONENT polyak_dev)
  endforeach()
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs/ DESTINATION ${POLYAK_CONFIG_DIR} COMPONENT polyak OPTIONAL
        FILES_MATCHING PATTERN "*.yaml" PATTERN "*.schema.json" PATTERN key_maps EXCLUDE)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs/key_maps DESTINATION ${CMAKE_INSTALL_DATADIR}/polyak COMPONENT polyak)

set(POLYAK_TORCH_INSTALLED "${POLYAK_TORCH}")
if(NOT POLYAK_TORCH STREQUAL "system")
  get_filename_component(POLYAK_TORCH_INSTALLED "${POLYAK_TORCH}" ABSOLUTE)
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/polyakConfig.cmake.in ${PROJECT_BINARY_DIR}/polyakConfig.cmake
  INSTALL_DESTINATION ${POLYAK_PACKAGE_DIR} PATH_VARS POLYAK_CONFIG_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/polyakConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/polyakConfig.cmake ${PROJECT_BINARY_DIR}/polyakConfigVersion.cmake
              ${CMAKE_CURRENT_LIST_DIR}/PolyakTorch.cmake
        DESTINATION ${POLYAK_PACKAGE_DIR} COMPONENT polyak_dev)

# The same for builds without CMake. Of Debian's LibTorch alone: the headers of a wheel need some of another fmt hidden,
# which flags cannot do (PolyakTorch.cmake).
if(POLYAK_TORCH STREQUAL "system")
  set(polyak_pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
  file(RELATIVE_PATH polyak_pc_includedir ${polyak_pc_dir} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
  get_filename_component(polyak_pc_torch "${POLYAK_TORCH_INCLUDE_DIR}" ABSOLUTE)
  set(polyak_pc_cflags "-isystem ${polyak_pc_torch}/torch/csrc/api/include")
  set(polyak_pc_libs "-L${POLYAK_TORCH_LIBRARY_DIR} -ltorch_cpu -lc10")
  if(NOT polyak_pc_torch IN_LIST CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
    string(PREPEND polyak_pc_cflags "-I${polyak_pc_torch} ")
  endif()
  if(polyak_openmp_name MATCHES "gomp")
    string(APPEND polyak_pc_cflags " -fopenmp")
    string(APPEND polyak_pc_libs " -lgomp")
  endif()
  configure_file(${CMAKE_CURRENT_LIST_DIR}/polyak.pc.in ${PROJECT_BINARY_DIR}/polyak.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/polyak.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT polyak_dev)
endif()
