# SPDX-License-Identifier: Apache-2.0
# Compiler settings that every target of this project shares.
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

if(POLYAK_CCACHE)
  find_program(POLYAK_CCACHE_PROGRAM ccache)
  if(POLYAK_CCACHE_PROGRAM)
    # Precompiled headers are cached only with this sloppiness. With the base folder, two clones and two build folders
    # of one tree share what they compile.
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
        CCACHE_SLOPPINESS=pch_defines,time_macros
        CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${POLYAK_CCACHE_PROGRAM})
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
    add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>
                        "$<$<COMPILE_LANG_AND_ID:CXX,Clang>:SHELL:-Xclang -fno-pch-timestamp>")
  endif()
endif()

function(polyak_compile_options target)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;$<$<BOOL:${POLYAK_WERROR}>:-Werror>>"
    # With C++20, g++ 12 warns of what its own std::string and std::vector do (GCC bug 105651 and its kin).
    "$<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict;-Wno-array-bounds;-Wno-stringop-overflow>"
    # What nvcc hands to the host's compiler is not pedantic.
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;$<$<BOOL:${POLYAK_WERROR}>:-Werror=all-warnings>>")
endfunction()

# polyak_without_sanitizers(TARGET): for code that tests run little or not at all with sanitizers, where compiling it so takes
# minutes. ThreadSanitizer must see all, or it takes what it did not see for a race.
function(polyak_without_sanitizers target)
  if(POLYAK_SANITIZE AND NOT POLYAK_SANITIZE MATCHES thread)
    target_compile_options(${target} PRIVATE -fno-sanitize=all -g0)
  endif()
endfunction()

if(POLYAK_SANITIZE)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${POLYAK_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all;-g1>")
  add_link_options(-fsanitize=${POLYAK_SANITIZE})
endif()
