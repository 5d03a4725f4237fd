# What `cmake --install` puts in place: the program, the library with its public headers, and a CMake
# package, so that another project says find_package(megabyte) and links megabyte::megabyte.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS megabyte megabyte_cli EXPORT megabyte-targets)
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY plans/ DESTINATION ${CMAKE_INSTALL_DATADIR}/megabyte/plans)
# From bin/, the program looks for them in ../share.
install(DIRECTORY share/megabyte/model share/megabyte/model-fast DESTINATION ${CMAKE_INSTALL_DATADIR}/megabyte)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/megabyte)
install(EXPORT megabyte-targets NAMESPACE megabyte:: DESTINATION ${package_folder})
configure_package_config_file(cmake/megabyte-config.cmake.in ${PROJECT_BINARY_DIR}/megabyte-config.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/megabyte-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/megabyte-config.cmake ${PROJECT_BINARY_DIR}/megabyte-config-version.cmake
        DESTINATION ${package_folder})
