# attn_dependencies: what the library is compiled and linked with. Each is looked for by hand, because a missing one
# should name the package to install. libLLVM is not linked: it is loaded when something has to be compiled, by
# compiler/emit/llvm_api.c.
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

function(attn_require variable what package)
  if(NOT ${variable})
    message(FATAL_ERROR "${what} was not found (Debian: apt-get install ${package})")
  endif()
endfunction()

# LLVM's own CMake package asks for everything LLVM was built with; the C API needs a header folder and one library.
if(NOT ATTN_LLVM_CONFIG)
  find_program(ATTN_LLVM_CONFIG_FOUND NAMES llvm-config-22 llvm-config)
  mark_as_advanced(ATTN_LLVM_CONFIG_FOUND)
  attn_require(ATTN_LLVM_CONFIG_FOUND "llvm-config-22" "--no-install-recommends llvm-22-dev")
  set(llvm_config "${ATTN_LLVM_CONFIG_FOUND}")
else()
  set(llvm_config "${ATTN_LLVM_CONFIG}")
endif()
foreach(what IN ITEMS version includedir libdir)
  execute_process(COMMAND "${llvm_config}" --${what}
                  OUTPUT_VARIABLE llvm_${what} OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endforeach()
if(NOT llvm_version MATCHES "^22\\.")
  message(FATAL_ERROR "${llvm_config} is of LLVM ${llvm_version}; attn needs LLVM 22 (Debian: apt-get install "
                      "--no-install-recommends llvm-22-dev, or set ATTN_LLVM_CONFIG)")
endif()
find_library(ATTN_LLVM_LIBRARY NAMES LLVM-22 PATHS "${llvm_libdir}" NO_DEFAULT_PATH)
attn_require(ATTN_LLVM_LIBRARY "libLLVM-22.so in ${llvm_libdir}" "--no-install-recommends llvm-22-dev")

find_path(ATTN_CJSON_INCLUDE_DIR cjson/cJSON.h)
find_library(ATTN_CJSON_LIBRARY NAMES cjson)
attn_require(ATTN_CJSON_INCLUDE_DIR "cjson/cJSON.h" libcjson-dev)
attn_require(ATTN_CJSON_LIBRARY "libcjson" libcjson-dev)
find_path(ATTN_DLPACK_INCLUDE_DIR dlpack/dlpack.h)
attn_require(ATTN_DLPACK_INCLUDE_DIR "dlpack/dlpack.h" libdlpack-dev)
find_path(ATTN_PNG_INCLUDE_DIR png.h)
find_library(ATTN_PNG_LIBRARY NAMES png16 png)
attn_require(ATTN_PNG_INCLUDE_DIR "png.h" libpng-dev)
attn_require(ATTN_PNG_LIBRARY "libpng" libpng-dev)
mark_as_advanced(ATTN_LLVM_LIBRARY ATTN_CJSON_INCLUDE_DIR ATTN_CJSON_LIBRARY ATTN_DLPACK_INCLUDE_DIR
                 ATTN_PNG_INCLUDE_DIR ATTN_PNG_LIBRARY)

add_library(attn_dependencies INTERFACE)
target_include_directories(attn_dependencies SYSTEM INTERFACE
  "${llvm_includedir}" "${ATTN_CJSON_INCLUDE_DIR}" "${ATTN_DLPACK_INCLUDE_DIR}")
target_link_libraries(attn_dependencies INTERFACE
  "${ATTN_CJSON_LIBRARY}" Threads::Threads m ${CMAKE_DL_LIBS})

# The macros that send calls of LLVM through the table of compiler/emit/llvm_api.h.
set(llvm_list "${PROJECT_SOURCE_DIR}/compiler/emit/llvm_api.def")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${llvm_list}")
file(STRINGS "${llvm_list}" llvm_lines REGEX "^LLVM_CALL")
list(TRANSFORM llvm_lines REPLACE "^LLVM_CALL\\((.*)\\)$" "#define \\1 llvm_api.\\1")
list(JOIN llvm_lines "\n" llvm_lines)
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/compiler/emit/llvm_calls.h" CONTENT "${llvm_lines}\n" @ONLY)
