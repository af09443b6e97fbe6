# SPDX-License-Identifier: Apache-2.0
# Decides whether the CUDA kernel is built, says so in one line, and sets POLYAK_WITH_CUDA. With it the language CUDA
# is on, and CUDAToolkit_INCLUDE_DIRS and CUDA::cudart_static are there.
#
#   POLYAK_CUDA                 AUTO, ON (fails where it cannot be) or OFF
#   CMAKE_CUDA_COMPILER, CMAKE_CUDA_HOST_COMPILER, CMAKE_CUDA_ARCHITECTURES    CMake's own; unset, they follow the
#                               PATH (or CUDACXX), the C++ compiler, and polyak_cuda_architectures below
set(POLYAK_WITH_CUDA OFF)
string(TOUPPER "${POLYAK_CUDA}" polyak_cuda_wanted)

# Code for each generation that this nvcc knows (that for 8.0 runs on 8.9 too), and, as the first in the list is not
# -real, a form that the driver compiles for any other.
function(polyak_cuda_architectures result)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    set(${result} 75 80-real 90-real 100-real 120-real PARENT_SCOPE)
  elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(${result} 70 80-real 90-real 100-real 120-real PARENT_SCOPE)
  elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 11.8)
    set(${result} 70 80-real 90-real PARENT_SCOPE)
  else()
    set(${result} 70 80-real PARENT_SCOPE)
  endif()
endfunction()

# Sets polyak_cuda_problem to why the kernel cannot be built, or to nothing. A macro: a language must be enabled in
# the scope that uses it.
macro(polyak_enable_cuda)
  set(polyak_cuda_problem "")
  if(NOT POLYAK_TORCH_CUDA_LIBRARY OR NOT POLYAK_TORCH_C10_CUDA_LIBRARY)
    set(polyak_cuda_problem "this LibTorch has no CUDA")
  elseif(NOT POLYAK_TORCH_CUDA)
    set(polyak_cuda_problem "LibTorch's CUDA half is left out")
  elseif(NOT EXISTS "${POLYAK_TORCH_INCLUDE_DIR}/c10/cuda/CUDAStream.h")
    set(polyak_cuda_problem "LibTorch's headers lack c10/cuda/CUDAStream.h")
  else()
    if(NOT DEFINED CMAKE_CUDA_HOST_COMPILER)
      set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}" CACHE FILEPATH "Compiler that nvcc takes for host code")
    endif()
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      set(polyak_cuda_problem "no nvcc works here; PATH, CUDACXX or -DCMAKE_CUDA_COMPILER must name one that takes \
${CMAKE_CUDA_HOST_COMPILER} (CMakeFiles/ keeps what it said)")
    else()
      if(DEFINED CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
        enable_language(CUDA)
      else()
        enable_language(CUDA)
        polyak_cuda_architectures(polyak_architectures)
        set(CMAKE_CUDA_ARCHITECTURES "${polyak_architectures}" CACHE STRING "CUDA architectures" FORCE)
      endif()
      # A driver that runs LibTorch's CUDA runs the kernel's when both are of one major version.
      polyak_needed("${POLYAK_TORCH_C10_CUDA_LIBRARY}" polyak_c10_cuda_needs unused)
      string(REGEX MATCH "libcudart[^;]*\\.so\\.([0-9]+)" unused "${polyak_c10_cuda_needs}")
      if(CMAKE_MATCH_1 AND NOT CMAKE_CUDA_COMPILER_VERSION MATCHES "^${CMAKE_MATCH_1}\\.")
        set(polyak_cuda_problem "LibTorch was made with CUDA ${CMAKE_MATCH_1} and nvcc is ${CMAKE_CUDA_COMPILER_VERSION}")
      endif()
    endif()
  endif()
endmacro()

if(NOT polyak_cuda_wanted MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "POLYAK_CUDA=${POLYAK_CUDA}: must be AUTO, ON or OFF.")
elseif(polyak_cuda_wanted STREQUAL "OFF")
  message(STATUS "CUDA kernel: not built, as POLYAK_CUDA is OFF")
else()
  polyak_enable_cuda()
  if(NOT polyak_cuda_problem)
    set(POLYAK_WITH_CUDA ON)
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
    # CUDA's runtime goes into our library, its symbols hidden, beside LibTorch's own: they share what the driver keeps.
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    message(STATUS "CUDA kernel: built by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(polyak_cuda_wanted STREQUAL "ON")
    message(FATAL_ERROR "The CUDA kernel cannot be built: ${polyak_cuda_problem}.")
  else()
    message(STATUS "CUDA kernel: not built, as ${polyak_cuda_problem}; CUDA tensors are averaged by LibTorch's operations")
  endif()
endif()
