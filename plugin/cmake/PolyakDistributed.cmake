# SPDX-License-Identifier: Apache-2.0
# Finds out whether several processes can train together, says so in one line, and sets
#
#   POLYAK_WITH_DISTRIBUTED     c10d over Gloo is there
#   POLYAK_WHY_NOT_DISTRIBUTED  otherwise, the reason
#   POLYAK_C10D_REDUCER         LibTorch's engine for gradients is there too
#   polyak_c10d                 a target with what the files over c10d need
#
#   POLYAK_DISTRIBUTED          AUTO, ON (fails where it cannot be) or OFF
include(CheckCXXSourceCompiles)
set(POLYAK_WITH_DISTRIBUTED OFF)
set(POLYAK_C10D_REDUCER OFF)
set(POLYAK_WHY_NOT_DISTRIBUTED "")
string(TOUPPER "${POLYAK_DISTRIBUTED}" polyak_distributed_wanted)

# Only pointers to Gloo's objects cross from us to LibTorch, so that the headers of Debian's package serve a wheel,
# which has Gloo inside, too. Debian's LibTorch needs the library, and lacks a header that one of its own includes.
add_library(polyak_c10d INTERFACE IMPORTED)
target_link_libraries(polyak_c10d INTERFACE polyak_torch)
target_compile_definitions(polyak_c10d INTERFACE USE_C10D_GLOO)
if(NOT EXISTS "${POLYAK_TORCH_INCLUDE_DIR}/torch/csrc/distributed/autograd/context/context.h")
  target_include_directories(polyak_c10d SYSTEM INTERFACE
    ${PROJECT_SOURCE_DIR}/plugin/polyak/distributed/headers_1_13)
endif()
if(POLYAK_TORCH STREQUAL "system")
  find_library(POLYAK_GLOO_LIBRARY gloo NO_CACHE)
  if(POLYAK_GLOO_LIBRARY)
    target_link_libraries(polyak_c10d INTERFACE "${POLYAK_GLOO_LIBRARY}")
  endif()
endif()

function(polyak_check_c10d result source)
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)  # compiled, not linked
  set(CMAKE_REQUIRED_LIBRARIES polyak_c10d)
  set(CMAKE_REQUIRED_QUIET ON)
  set(CMAKE_CXX_STANDARD ${POLYAK_TORCH_CXX_STANDARD})
  check_cxx_source_compiles("${source}" ${result})
  set(${result} ${${result}} PARENT_SCOPE)
  if(NOT ${result})  # look again next time: the package may be installed by then
    unset(${result} CACHE)
  endif()
endfunction()

if(NOT polyak_distributed_wanted MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "POLYAK_DISTRIBUTED=${POLYAK_DISTRIBUTED}: must be AUTO, ON or OFF.")
elseif(polyak_distributed_wanted STREQUAL "OFF")
  set(POLYAK_WHY_NOT_DISTRIBUTED "POLYAK_DISTRIBUTED is OFF")
elseif(NOT EXISTS "${POLYAK_TORCH_INCLUDE_DIR}/torch/csrc/distributed/c10d/ProcessGroupGloo.hpp")
  set(POLYAK_WHY_NOT_DISTRIBUTED "LibTorch has no c10d")
else()
  set(polyak_c10d_gloo "#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
c10d::ProcessGroupGloo* polyak_gloo;
")
  polyak_check_c10d(POLYAK_HAS_C10D_AND_REDUCER "${polyak_c10d_gloo}
#include <torch/csrc/distributed/c10d/reducer.hpp>
c10d::Reducer* polyak_reducer;
")
  if(POLYAK_HAS_C10D_AND_REDUCER)
    set(POLYAK_WITH_DISTRIBUTED ON)
    set(POLYAK_C10D_REDUCER ON)
  else()
    polyak_check_c10d(POLYAK_HAS_C10D "${polyak_c10d_gloo}")
    set(POLYAK_WITH_DISTRIBUTED ${POLYAK_HAS_C10D})
    if(NOT POLYAK_HAS_C10D)
      set(POLYAK_WHY_NOT_DISTRIBUTED "its headers do not compile without those of Gloo, Debian's package libgloo-dev")
    endif()
  endif()
endif()

if(POLYAK_WITH_DISTRIBUTED AND POLYAK_C10D_REDUCER)
  message(STATUS "Several processes: c10d over Gloo, gradients by c10d::Reducer")
elseif(POLYAK_WITH_DISTRIBUTED)
  message(STATUS "Several processes: c10d over Gloo, gradients after the backward pass, as c10d/reducer.hpp does not compile")
elseif(polyak_distributed_wanted STREQUAL "ON")
  message(FATAL_ERROR "Several processes cannot train together: ${POLYAK_WHY_NOT_DISTRIBUTED}.")
else()
  message(STATUS "Several processes: not supported, as ${POLYAK_WHY_NOT_DISTRIBUTED}")
endif()
