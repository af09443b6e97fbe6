# SPDX-License-Identifier: Apache-2.0
# Configures SOURCE_DIR with Polyak inside it, by add_subdirectory of POLYAK_DIR and by FetchContent of the archive that
# cpack makes in BUILD_DIR. It compiles the host's file and not Polyak once more, which takes minutes: docs/releasing.md
# has the whole.
set(work ${BUILD_DIR}/subproject)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status WORKING_DIRECTORY ${BUILD_DIR})
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " line)
    message(FATAL_ERROR "exit status ${status}: ${line}")
  endif()
endfunction()

run(${CPACK} --config CPackSourceConfig.cmake -B ${work})
file(GLOB archive ${work}/polyak-*.tar.gz)
foreach(way IN ITEMS -DPOLYAK_ARCHIVE=${archive} -DPOLYAK_SOURCE=${POLYAK_DIR})
  string(REGEX REPLACE "=.*|-DPOLYAK_" "" name ${way})
  run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${work}/${name} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX} ${way}
      "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" -DPOLYAK_TORCH=${TORCH} -DPOLYAK_DISTRIBUTED=OFF)
  run(${CMAKE_COMMAND} --build ${work}/${name} --target host_alone)
endforeach()
