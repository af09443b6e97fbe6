# Finds LibTorch and gives the target polyak_torch: headers as system headers, libraries, OpenMP.
find_package(Torch REQUIRED)
set(CMAKE_CXX_STANDARD 17)
find_package(OpenMP REQUIRED COMPONENTS CXX)
add_library(polyak_torch INTERFACE)
target_include_directories(polyak_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(polyak_torch INTERFACE torch_cpu c10 OpenMP::OpenMP_CXX)
