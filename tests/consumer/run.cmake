# SPDX-License-Identifier: Apache-2.0
# Installs BUILD_DIR below itself, then configures, builds and runs SOURCE_DIR against that.
set(work ${BUILD_DIR}/consumer)
file(REMOVE_RECURSE ${work})
set(flags "")
if(SANITIZE)
  set(flags -DCMAKE_CXX_FLAGS=-fsanitize=${SANITIZE})
endif()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " line)
    message(FATAL_ERROR "exit status ${status}: ${line}")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${work}/prefix)
foreach(file IN ITEMS configs/fashion_mnist_cosine_ema.yaml key_maps/torchvision_resnet.yaml)
  if(NOT EXISTS ${work}/prefix/share/polyak/${file})
    message(FATAL_ERROR "share/polyak/${file} is not installed")
  endif()
endforeach()
run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${work}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
    "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${work}/prefix ${flags})
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/consumer)
