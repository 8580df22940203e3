# attn_flags: how every source of the project is compiled.
add_library(attn_flags INTERFACE)
target_compile_definitions(attn_flags INTERFACE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)
target_compile_options(attn_flags INTERFACE -Wall -Wextra -Wswitch-enum -Wconversion)
target_include_directories(attn_flags INTERFACE
  "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/generated" "${PROJECT_SOURCE_DIR}/runtime/include")

# The code cache on disk tells builds apart by it.
target_link_options(attn_flags INTERFACE LINKER:--build-id=sha1)

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(ATTN_WERROR)
  target_compile_options(attn_flags INTERFACE -Werror)
endif()

if(ATTN_SANITIZE)
  if(NOT ATTN_SANITIZE MATCHES "^[a-z,]+$")
    message(FATAL_ERROR "ATTN_SANITIZE is \"${ATTN_SANITIZE}\"; write for instance address,undefined")
  endif()
  set(sanitize "-fsanitize=${ATTN_SANITIZE}")
  target_compile_options(attn_flags INTERFACE
    ${sanitize} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(attn_flags INTERFACE ${sanitize})
endif()

if(ATTN_COVERAGE)
  target_compile_options(attn_flags INTERFACE --coverage)
  target_link_options(attn_flags INTERFACE --coverage)
endif()

if(ATTN_FUZZ)
  if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "ATTN_FUZZ needs clang (libFuzzer): add -DCMAKE_C_COMPILER=clang, or use the preset fuzz")
  endif()
  target_compile_options(attn_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
