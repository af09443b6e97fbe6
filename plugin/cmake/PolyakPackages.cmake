# SPDX-License-Identifier: Apache-2.0
# `cpack -G DEB` in the build folder makes Debian packages, `cpack --config CPackSourceConfig.cmake` the source archive.
# Read after PolyakInstall.cmake, whose components become packages; docs/releasing.md says how they are made and tested.
set(CPACK_PACKAGE_NAME polyak)
set(CPACK_PACKAGE_VENDOR "The Polyak maintainers")
set(CPACK_PACKAGE_CONTACT "The Polyak maintainers")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS  # whatever the umask
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

# Packages of Debian
set(CPACK_GENERATOR DEB)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL polyak polyak_plugins polyak_dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_POLYAK_TORCH "${POLYAK_TORCH}")
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_LIST_DIR}/PolyakPackagesCheck.cmake)

# A plugin depends on what loads it. The other way round it is a recommendation, which apt installs as well: averages in a
# program of one's own and `polyak attach` need no plugin, and two packages that depend on each other have no order.
set(CPACK_DEBIAN_POLYAK_PACKAGE_NAME polyak)
set(CPACK_DEBIAN_POLYAK_PACKAGE_SECTION science)
set(CPACK_DEBIAN_POLYAK_PACKAGE_RECOMMENDS "polyak-plugins (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_POLYAK_PACKAGE_SUGGESTS "dataset-fashion-mnist, libpolyak-dev")
set(CPACK_DEBIAN_POLYAK_DESCRIPTION
"weight averaging for LibTorch training
The command polyak and its libraries: EMA, SWA, CosineEMA and more averages of a
model's weights while LibTorch trains it. The command trains by configs in
MMEngine's format, averages in compiled programs (polyak attach), and compares,
converts and averages checkpoint files.")

set(CPACK_DEBIAN_POLYAK_PLUGINS_PACKAGE_NAME polyak-plugins)
set(CPACK_DEBIAN_POLYAK_PLUGINS_PACKAGE_SECTION science)
set(CPACK_DEBIAN_POLYAK_PLUGINS_PACKAGE_DEPENDS "polyak (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_POLYAK_PLUGINS_DESCRIPTION
"weight averaging for LibTorch training, built-in hooks
The built-in hooks of Polyak (EMAHook, CheckpointHook, LoggerHook and others), a
plugin that configs and training loops load.")

# A program links polyak::hooks, too, so its package exports that library.
set(CPACK_DEBIAN_POLYAK_DEV_PACKAGE_NAME libpolyak-dev)
set(CPACK_DEBIAN_POLYAK_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_POLYAK_DEV_PACKAGE_DEPENDS
    "polyak (= ${PROJECT_VERSION}), polyak-plugins (= ${PROJECT_VERSION}), libtorch-dev (>= ${Torch_VERSION}), libfmt-dev (>= 9)")
set(CPACK_DEBIAN_POLYAK_DEV_PACKAGE_SUGGESTS "cmake, pkg-config, libgloo-dev")
set(CPACK_DEBIAN_POLYAK_DEV_DESCRIPTION
"weight averaging for LibTorch training, development files
Headers of Polyak, its CMake package and its pkg-config file, for training loops
of one's own in C++ and for plugins.")

foreach(package IN ITEMS POLYAK POLYAK_PLUGINS POLYAK_DEV)
  string(TOLOWER ${package} component)
  install(FILES ${CMAKE_CURRENT_LIST_DIR}/../packaging/debian/copyright COMPONENT ${component} EXCLUDE_FROM_ALL
          DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/${CPACK_DEBIAN_${package}_PACKAGE_NAME})
endforeach()

# The source archive: what lies in the source folder, save what is built or belongs to one machine. It needs no git.
set(CPACK_SOURCE_GENERATOR TGZ)
set(CPACK_SOURCE_PACKAGE_FILE_NAME polyak-${PROJECT_VERSION})
set(CPACK_SOURCE_STRIP_FILES OFF)
string(REGEX REPLACE "([][+.*()^$?|\\\\])" "\\\\\\1" polyak_source_regex "${PROJECT_SOURCE_DIR}")
set(CPACK_SOURCE_IGNORE_FILES "")
foreach(name IN ITEMS [.]git build "build-[^/]*" work_dirs [.]cache compile_commands[.]json CMakeUserPresets[.]json)
  list(APPEND CPACK_SOURCE_IGNORE_FILES "^${polyak_source_regex}/${name}$" "^${polyak_source_regex}/${name}/")
endforeach()
list(APPEND CPACK_SOURCE_IGNORE_FILES "/__pycache__/" "[.]pyc$")

include(CPack)
