# SPDX-License-Identifier: Apache-2.0
# Finds LibTorch and defines the target polyak_torch: headers, libraries and the OpenMP runtime that LibTorch
# itself loads; and polyak_torch_cpu, the same without LibTorch's CUDA half. The build uses this file, and so does an
# installed polyakConfig.cmake.
#
#   POLYAK_TORCH    `system`, or a folder: LibTorch's own (include/, lib/), or Python's site-packages[/torch].
#                   Unset, it follows Torch_DIR where that is given, and is `system` otherwise.
#   Torch_VERSION, POLYAK_TORCH_LIBRARY_DIR, POLYAK_TORCH_CXX_STANDARD, POLYAK_TORCH_CUDA    set for the caller.
#
# LibTorch's own CMake package is left aside: that of the PyPI wheel stops where it finds no CUDA toolkit, and
# none of them names the OpenMP runtime, without which at::parallel_for runs on one thread.

if(NOT POLYAK_TORCH)
  if(Torch_DIR)
    get_filename_component(POLYAK_TORCH "${Torch_DIR}/../../.." ABSOLUTE)
    if(NOT EXISTS "${POLYAK_TORCH}/include/ATen")  # Debian keeps its packages one folder deeper
      set(POLYAK_TORCH system)
    endif()
  else()
    set(POLYAK_TORCH system)
  endif()
endif()

if(POLYAK_TORCH STREQUAL "system")
  find_path(POLYAK_TORCH_INCLUDE_DIR ATen/ATen.h NO_CACHE)
  find_library(POLYAK_TORCH_CPU_LIBRARY torch_cpu NO_CACHE)
  set(polyak_torch_hint "On Debian and Ubuntu it is the package libtorch-dev; -DPOLYAK_TORCH=FOLDER takes another.")
else()
  get_filename_component(polyak_torch_root "${POLYAK_TORCH}" ABSOLUTE)
  if(EXISTS "${polyak_torch_root}/torch/lib")
    string(APPEND polyak_torch_root "/torch")
  endif()
  find_path(POLYAK_TORCH_INCLUDE_DIR ATen/ATen.h PATHS "${polyak_torch_root}/include" NO_DEFAULT_PATH NO_CACHE)
  find_library(POLYAK_TORCH_CPU_LIBRARY torch_cpu PATHS "${polyak_torch_root}/lib" NO_DEFAULT_PATH NO_CACHE)
  set(polyak_torch_hint "It must hold include/ATen/ATen.h and lib/libtorch_cpu.so.")
endif()
if(NOT POLYAK_TORCH_INCLUDE_DIR OR NOT POLYAK_TORCH_CPU_LIBRARY)
  message(FATAL_ERROR "No LibTorch at POLYAK_TORCH=${POLYAK_TORCH}. ${polyak_torch_hint}")
endif()
get_filename_component(POLYAK_TORCH_LIBRARY_DIR "${POLYAK_TORCH_CPU_LIBRARY}" DIRECTORY)

# Version and C++ standard, as the headers state them.
set(polyak_torch_api "${POLYAK_TORCH_INCLUDE_DIR}/torch/csrc/api/include")
set(Torch_VERSION "")
foreach(header IN ITEMS "${POLYAK_TORCH_INCLUDE_DIR}/torch/headeronly/version.h" "${polyak_torch_api}/torch/version.h")
  if(NOT Torch_VERSION AND EXISTS "${header}")
    file(STRINGS "${header}" lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
    string(REGEX REPLACE "[^0-9;]+" "" lines "${lines}")
    list(JOIN lines "." Torch_VERSION)
  endif()
endforeach()
if(Torch_VERSION VERSION_LESS 1.13)
  message(FATAL_ERROR "LibTorch ${Torch_VERSION} in ${POLYAK_TORCH_INCLUDE_DIR} is too old: 1.13 is the oldest that Polyak takes.")
endif()
set(POLYAK_TORCH_CXX_STANDARD 17)
file(STRINGS "${POLYAK_TORCH_INCLUDE_DIR}/ATen/ATen.h" lines REGEX "C\\+\\+[0-9]+ or later")
if(lines MATCHES "C\\+\\+([0-9]+)" AND CMAKE_MATCH_1 GREATER 17)
  set(POLYAK_TORCH_CXX_STANDARD ${CMAKE_MATCH_1})
endif()

if(TARGET polyak_torch)
  return()
endif()
add_library(polyak_torch_cpu INTERFACE IMPORTED GLOBAL)
add_library(polyak_torch INTERFACE IMPORTED GLOBAL)
target_link_libraries(polyak_torch INTERFACE polyak_torch_cpu)
target_compile_features(polyak_torch_cpu INTERFACE cxx_std_${POLYAK_TORCH_CXX_STANDARD})

# The wheel carries a copy of fmt's headers that does not fit the fmt library we link. A folder with a link to
# the right ones goes first.
if(EXISTS "${POLYAK_TORCH_INCLUDE_DIR}/fmt" AND NOT POLYAK_TORCH STREQUAL "system")
  find_package(fmt 9 REQUIRED)
  get_target_property(polyak_fmt_dirs fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  find_path(POLYAK_FMT_INCLUDE_DIR fmt/format.h HINTS ${polyak_fmt_dirs} NO_CACHE)
  file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/polyak_fmt")
  file(CREATE_LINK "${POLYAK_FMT_INCLUDE_DIR}/fmt" "${CMAKE_BINARY_DIR}/polyak_fmt/fmt" SYMBOLIC)
  target_include_directories(polyak_torch_cpu INTERFACE "${CMAKE_BINARY_DIR}/polyak_fmt")
endif()
target_include_directories(polyak_torch_cpu INTERFACE "${POLYAK_TORCH_INCLUDE_DIR}" "${polyak_torch_api}")

# libtorch_python is never linked, and libtorch.so, an empty shell over the others, is not either: it would
# load the CUDA half of a wheel whether or not that can run.
find_library(POLYAK_TORCH_C10_LIBRARY c10 PATHS "${POLYAK_TORCH_LIBRARY_DIR}" NO_DEFAULT_PATH NO_CACHE REQUIRED)
target_link_libraries(polyak_torch_cpu INTERFACE "${POLYAK_TORCH_CPU_LIBRARY}" "${POLYAK_TORCH_C10_LIBRARY}")

# What libraries a shared library names, and which of all that it needs cannot be found.
function(polyak_needed library needed missing)
  execute_process(COMMAND ${CMAKE_OBJDUMP} -p "${library}" OUTPUT_VARIABLE text ERROR_QUIET)
  string(REGEX MATCHALL "NEEDED +[^\n]+" names "${text}")
  list(TRANSFORM names REPLACE "NEEDED +" "")
  set(${needed} "${names}" PARENT_SCOPE)
  execute_process(COMMAND ldd "${library}" OUTPUT_VARIABLE text ERROR_QUIET)
  string(REGEX MATCHALL "[^ \t\n]+ => not found" names "${text}")
  list(TRANSFORM names REPLACE " => not found" "")
  list(REMOVE_DUPLICATES names)
  list(JOIN names ", " names)
  set(${missing} "${names}" PARENT_SCOPE)
endfunction()

polyak_needed("${POLYAK_TORCH_CPU_LIBRARY}" polyak_torch_needs polyak_torch_misses)
if(polyak_torch_misses)
  message(FATAL_ERROR "${POLYAK_TORCH_CPU_LIBRARY} needs libraries that are not there: ${polyak_torch_misses}.")
endif()

# A LibTorch of the old string ABI needs everything else in it too.
file(STRINGS "${POLYAK_TORCH_C10_LIBRARY}" lines REGEX "__cxx11" LIMIT_COUNT 1)
if(NOT lines)
  message(WARNING "This LibTorch was built with _GLIBCXX_USE_CXX11_ABI=0: fmt and yaml-cpp must be built so too.")
  target_compile_definitions(polyak_torch_cpu INTERFACE _GLIBCXX_USE_CXX11_ABI=0)
endif()

# The CUDA half is loaded even where nothing of ours calls into it (PolyakCuda.cmake decides), since it registers the
# device.
set(POLYAK_TORCH_CUDA OFF)
find_library(POLYAK_TORCH_CUDA_LIBRARY torch_cuda PATHS "${POLYAK_TORCH_LIBRARY_DIR}" NO_DEFAULT_PATH NO_CACHE)
find_library(POLYAK_TORCH_C10_CUDA_LIBRARY c10_cuda PATHS "${POLYAK_TORCH_LIBRARY_DIR}" NO_DEFAULT_PATH NO_CACHE)
if(POLYAK_TORCH_CUDA_LIBRARY AND POLYAK_TORCH_C10_CUDA_LIBRARY)
  polyak_needed("${POLYAK_TORCH_CUDA_LIBRARY}" unused polyak_torch_misses)
  if(polyak_torch_misses)
    message(STATUS "LibTorch's CUDA half is left out, as these are not there: ${polyak_torch_misses}")
  else()
    set(POLYAK_TORCH_CUDA ON)
    target_link_libraries(polyak_torch INTERFACE
      -Wl,--push-state,--no-as-needed "${POLYAK_TORCH_CUDA_LIBRARY}" "${POLYAK_TORCH_C10_CUDA_LIBRARY}" -Wl,--pop-state)
  endif()
endif()

# at::parallel_for is a header: compiled without OpenMP it runs on one thread, without a word. Two OpenMP
# runtimes in one process would start twice the threads, so link the very file that LibTorch loads.
set(polyak_openmp "no OpenMP")
set(polyak_openmp_name ${polyak_torch_needs})
list(FILTER polyak_openmp_name INCLUDE REGEX "^lib(gomp|iomp5|omp)[-.]")
if(polyak_openmp_name)
  list(GET polyak_openmp_name 0 polyak_openmp_name)
  find_file(POLYAK_OPENMP_LIBRARY "${polyak_openmp_name}" NO_CACHE NO_DEFAULT_PATH
            PATHS "${POLYAK_TORCH_LIBRARY_DIR}" "${POLYAK_TORCH_LIBRARY_DIR}/../../torch.libs")
  if(POLYAK_OPENMP_LIBRARY)
    set(polyak_openmp_link "${POLYAK_OPENMP_LIBRARY}")
  else()
    string(REGEX REPLACE "^lib(.*)\\.so.*$" "-l\\1" polyak_openmp_link "${polyak_openmp_name}")
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" OR NOT polyak_openmp_name MATCHES "gomp")
    set(polyak_openmp "${polyak_openmp_name}")
    target_compile_options(polyak_torch_cpu INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
    target_link_libraries(polyak_torch_cpu INTERFACE "${polyak_openmp_link}")
  else()
    set(polyak_openmp "${polyak_openmp_name}, not used")
    message(STATUS "${CMAKE_CXX_COMPILER_ID} cannot use ${polyak_openmp_name}, LibTorch's OpenMP runtime: "
                   "averaging on CPUs runs on one thread. Build with g++ for all of them.")
  endif()
endif()

message(STATUS "LibTorch ${Torch_VERSION} in ${POLYAK_TORCH_LIBRARY_DIR} (CUDA ${POLYAK_TORCH_CUDA}, ${polyak_openmp})")
