# SPDX-License-Identifier: Apache-2.0
# bisup_test_folder(core [library...]): tests/core/*_test.cpp become one executable tests_core, because
# links are slow, and each file becomes one ctest core/<header>.
function(bisup_test_folder folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*_test.cpp)
  add_executable(tests_${folder} ${sources})
  target_link_libraries(tests_${folder} PRIVATE bisup_test_main ${ARGN})
  # What takes time is the library that each file compiles anew: sixteen files share one copy, and so
  # what stands in their unnamed namespaces must differ. -DBISUP_UNITY_TESTS=OFF to work on one file.
  set_target_properties(tests_${folder} PROPERTIES UNITY_BUILD ${BISUP_UNITY_TESTS}
    UNITY_BUILD_BATCH_SIZE 16)
  foreach(source IN LISTS sources)
    get_filename_component(file ${source} NAME_WE)
    string(REGEX REPLACE "_test$" "" name ${file})
    add_test(NAME ${folder}/${name} COMMAND tests_${folder} -\# "[#${file}]~[.]" ${catch_warnings})
    set_tests_properties(${folder}/${name} PROPERTIES TIMEOUT 600 LABELS ${folder})
  endforeach()
endfunction()

# bisup_test_targets(ops): the whole executable once more on each target, weaker ones than this
# machine's included. One that the machine lacks is reported as skipped, by name.
function(bisup_test_targets folder)
  foreach(target scalar neon avx2 avx_vnni avx512 avx512_vnni)
    add_test(NAME ${folder}@${target} COMMAND tests_${folder})
    set_tests_properties(${folder}@${target} PROPERTIES TIMEOUT 900 LABELS "target:${target}"
      ENVIRONMENT BISUP_TARGET=${target} SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# bisup_test_script(habits/layering file.cmake [NAME=value...]): a ctest that runs a CMake script.
function(bisup_test_script name script)
  list(TRANSFORM ARGN PREPEND -D)
  add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} ${ARGN}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/${script})
  get_filename_component(label ${name} DIRECTORY)
  set_tests_properties(${name} PROPERTIES TIMEOUT 120 LABELS ${label})
endfunction()
