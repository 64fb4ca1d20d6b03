# SPDX-License-Identifier: Apache-2.0
# Compiler settings shared by every target, and the functions that modules and tests are declared with:
#   chappe_module(<name> SOURCES … [DEPENDS <modules>] [LIBS <libraries>])
#   chappe_unit_test(<module> SOURCES … [DEPENDS <modules>] [LIBS <libraries>])
#   chappe_fuzz(<name> SOURCES … [DEPENDS <modules>])
#   chappe_program(<name> SOURCES …)
# A module may name a module that does not exist (yet): the graph is resolved at the end of configuration.
include(CheckCSourceCompiles)
include_guard(GLOBAL)

# All flags travel on this target. Third-party headers come through imported targets, as system headers.
add_library(chappe_flags INTERFACE)
target_include_directories(chappe_flags INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(
  chappe_flags
  INTERFACE _GNU_SOURCE
            CHAPPE_VERSION="${PROJECT_VERSION}"
            $<$<CONFIG:Debug>:CHAPPE_DEBUG>
            $<$<BOOL:${CHAPPE_HAVE_URING}>:CHAPPE_HAVE_URING=1>
            $<$<BOOL:${CHAPPE_ARENA_SEPARATE}>:CHAPPE_ARENA_SEPARATE=1>)
target_compile_options(
  chappe_flags
  INTERFACE -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wvla
            -Wformat=2 -Wundef -Wimplicit-fallthrough $<$<BOOL:${CHAPPE_WERROR}>:-Werror> -g
            -fno-omit-frame-pointer -fstack-protector-strong -fstack-clash-protection)
target_link_options(chappe_flags INTERFACE -Wl,-z,relro,-z,now)
target_link_libraries(chappe_flags INTERFACE Threads::Threads)

# The build types of CMake say -O3 or -O2 without assertions; ours say -O2, and ASSERT() is always on.
set(CMAKE_C_FLAGS_RELEASE "-O2")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2")
set(CMAKE_C_FLAGS_DEBUG "-O0")

if(CHAPPE_SANITIZE OR CHAPPE_FUZZ)
  set(chappe_sanitizers ${CHAPPE_SANITIZE})
  if(CHAPPE_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
      message(FATAL_ERROR "CHAPPE_FUZZ needs clang")
    endif()
    list(APPEND chappe_sanitizers address undefined)
    list(REMOVE_DUPLICATES chappe_sanitizers)
    target_compile_options(chappe_flags INTERFACE -fsanitize=fuzzer-no-link)
  endif()
  list(JOIN chappe_sanitizers "," chappe_sanitizers)
  target_compile_options(chappe_flags INTERFACE -fsanitize=${chappe_sanitizers} -fno-sanitize-recover=all)
  target_link_options(chappe_flags INTERFACE -fsanitize=${chappe_sanitizers})
else()
  # _FORTIFY_SOURCE needs optimisation, and is useless under AddressSanitizer.
  set(CMAKE_REQUIRED_FLAGS "-O2 -Werror -D_FORTIFY_SOURCE=3")
  check_c_source_compiles("#include <string.h>\nint main(int c, char **v) { (void)v; return c > 9; }"
                          CHAPPE_FORTIFY_3)
  unset(CMAKE_REQUIRED_FLAGS)
  if(CHAPPE_FORTIFY_3)
    set(chappe_fortify 3)
  else()
    set(chappe_fortify 2)
  endif()
  target_compile_options(chappe_flags
                         INTERFACE "$<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=${chappe_fortify}>")
endif()
if(CHAPPE_COVERAGE)
  target_compile_options(chappe_flags INTERFACE --coverage)
  target_link_options(chappe_flags INTERFACE --coverage)
endif()
include(CheckPIESupported)
check_pie_supported()

function(chappe_add_directories pattern)
  file(GLOB lists CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${pattern})
  foreach(list IN LISTS lists)
    get_filename_component(dir ${list} DIRECTORY)
    add_subdirectory(${dir})
  endforeach()
endfunction()

# Sources that are not written yet are left out with a warning; the globs bring configuration back when they appear.
file(GLOB chappe_all_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*/*.c ${PROJECT_SOURCE_DIR}/tests/unit/*/*.c
     ${PROJECT_SOURCE_DIR}/tests/fuzz/*.c ${PROJECT_SOURCE_DIR}/src/*.c)
function(chappe_present out)
  set(present)
  foreach(source IN LISTS ARGN)
    if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source} OR IS_ABSOLUTE ${source})
      list(APPEND present ${source})
    else()
      message(WARNING "missing source left out: ${CMAKE_CURRENT_SOURCE_DIR}/${source}")
    endif()
  endforeach()
  set(${out} ${present} PARENT_SCOPE)
endfunction()

# Links modules by name. $<TARGET_NAME_IF_EXISTS> is evaluated at the end, so order of declaration is free.
function(chappe_link target)
  foreach(module IN LISTS ARGN)
    target_link_libraries(${target} PUBLIC $<TARGET_NAME_IF_EXISTS:chappe_${module}>)
  endforeach()
endfunction()

function(chappe_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPENDS;LIBS")
  chappe_present(arg_SOURCES ${arg_SOURCES})
  if(NOT arg_SOURCES)
    return()
  endif()
  add_library(chappe_${name} STATIC ${arg_SOURCES})
  target_link_libraries(chappe_${name} PUBLIC chappe_flags ${arg_LIBS})
  target_include_directories(chappe_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  chappe_link(chappe_${name} ${arg_DEPENDS})
  set_property(GLOBAL APPEND PROPERTY CHAPPE_MODULES ${name})
endfunction()

function(chappe_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES")
  get_property(modules GLOBAL PROPERTY CHAPPE_MODULES)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE chappe_flags)
  chappe_link_all(${name} ${modules})
endfunction()

function(chappe_link_all target)
  list(TRANSFORM ARGN PREPEND chappe_ OUTPUT_VARIABLE libraries)
  # Modules may call each other through callbacks only, but one group keeps the link free of order.
  target_link_libraries(${target} PRIVATE -Wl,--start-group ${libraries} -Wl,--end-group)
  if(chappe_malloc STREQUAL "jemalloc")
    target_link_libraries(${target} PRIVATE PkgConfig::JEMALLOC)
  endif()
endfunction()

# One binary per module; a test may include the module's private header.
function(chappe_unit_test module)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPENDS;LIBS")
  set(target test_${module})
  chappe_present(arg_SOURCES ${arg_SOURCES})
  if(NOT arg_SOURCES)
    return()
  endif()
  add_executable(${target} ${arg_SOURCES})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src/${module} ${PROJECT_SOURCE_DIR}/tests/unit
                             ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${target} PRIVATE chappe_flags PkgConfig::CMOCKA ${arg_LIBS})
  chappe_link(${target} ${module} ${arg_DEPENDS})
  add_test(NAME unit_${module} COMMAND ${target} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(unit_${module} PROPERTIES LABELS unit TIMEOUT 400)
endfunction()

# A libFuzzer binary, or a replay of the corpus (each file in a heap block of its exact size).
function(chappe_fuzz name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPENDS;LIBS")
  set(target fuzz_${name})
  chappe_present(arg_SOURCES ${arg_SOURCES})
  if(NOT arg_SOURCES)
    return()
  endif()
  set(corpus ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name})
  if(CHAPPE_FUZZ)
    add_executable(${target} ${arg_SOURCES})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    add_test(NAME fuzz_${name} COMMAND ${target} -runs=0 ${corpus})
  else()
    add_executable(${target} ${arg_SOURCES} ${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.c)
    add_test(NAME fuzz_${name} COMMAND ${target} ${corpus})
  endif()
  target_link_libraries(${target} PRIVATE chappe_flags ${arg_LIBS})
  chappe_link(${target} ${arg_DEPENDS})
  set_tests_properties(fuzz_${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
