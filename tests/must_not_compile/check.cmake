# SPDX-License-Identifier: Apache-2.0
# cmake -DROOT= -DSOURCE= -DCOMPILER= -P check.cmake: the source compiles as it is; with -DMUST_FAIL it
# does not, and the compiler's message holds the words after "must say: " in it.
file(STRINGS ${SOURCE} line REGEX "must say: ")
string(REGEX REPLACE ".*must say: " "" words "${line}")
set(command ${COMPILER} -std=c++20 -fsyntax-only -I${ROOT}/include ${SOURCE})
execute_process(COMMAND ${command} RESULT_VARIABLE plain ERROR_VARIABLE message)
if(NOT plain EQUAL 0)
  message(FATAL_ERROR "should compile:\n${message}")
endif()
execute_process(COMMAND ${command} -DMUST_FAIL RESULT_VARIABLE broken ERROR_VARIABLE message)
if(broken EQUAL 0)
  message(FATAL_ERROR "compiles with MUST_FAIL")
endif()
string(FIND "${message}" "${words}" found)
if(words STREQUAL "" OR found EQUAL -1)
  message(FATAL_ERROR "the message does not say '${words}':\n${message}")
endif()
