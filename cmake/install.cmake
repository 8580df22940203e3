# What `cmake --install` puts under the prefix: the library with its CMake package and .pc file, the command, and the
# example specs and prelude to read.
include(CMakePackageConfigHelpers)

set(attn_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/attn")
set(attn_data_dir "${CMAKE_INSTALL_DATADIR}/attn")

install(TARGETS attn EXPORT attn
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(TARGETS attnc RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(DIRECTORY runtime/include/attn DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")

install(EXPORT attn NAMESPACE attn:: DESTINATION "${attn_cmake_dir}" FILE attn-targets.cmake)
configure_package_config_file(cmake/attn-config.cmake.in "${PROJECT_BINARY_DIR}/attn-config.cmake"
                              INSTALL_DESTINATION "${attn_cmake_dir}"
                              NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/attn-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/attn-config.cmake" "${PROJECT_BINARY_DIR}/attn-config-version.cmake"
        DESTINATION "${attn_cmake_dir}")

foreach(kind IN ITEMS LIB INCLUDE)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${kind}DIR}")
    set(pc_${kind}DIR "${CMAKE_INSTALL_${kind}DIR}")
  else()
    set(pc_${kind}DIR "\${prefix}/${CMAKE_INSTALL_${kind}DIR}")
  endif()
endforeach()
# The .pc file finds its prefix from its own place, so that an install under another prefix or moved later stays right.
file(RELATIVE_PATH pc_prefix_from_here "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" pc_prefix_from_here "${pc_prefix_from_here}")
configure_file(cmake/attn.pc.in "${PROJECT_BINARY_DIR}/attn.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/attn.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

install(DIRECTORY examples/ DESTINATION "${attn_data_dir}/examples" FILES_MATCHING PATTERN "*.attn"
        PATTERN data EXCLUDE PATTERN consumer EXCLUDE)
install(DIRECTORY dsl/prelude DESTINATION "${attn_data_dir}" FILES_MATCHING PATTERN "*.attn")
install(FILES docs/man/attnc.1 DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
install(FILES LICENSE README.md CHANGELOG.md DESTINATION "${CMAKE_INSTALL_DOCDIR}")
