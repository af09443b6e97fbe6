# SPDX-License-Identifier: Apache-2.0
# What packages take from the command itself: manual pages and completion.
#   cmake -DPOLYAK=COMMAND -DFOLDER=FOLDER -P write_pages.cmake
function(write file)  # "": no output is kept
  if(file)
    set(output OUTPUT_FILE ${FOLDER}/${file})
  endif()
  execute_process(COMMAND ${POLYAK} ${ARGN} ${output} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${POLYAK} ${ARGN} failed: ${status}")
  endif()
endfunction()

file(MAKE_DIRECTORY ${FOLDER}/man1)
write("" man --folder ${FOLDER}/man1)
write(polyak completion bash)
write(_polyak completion zsh)
write(polyak.fish completion fish)
file(WRITE ${FOLDER}/made "")
