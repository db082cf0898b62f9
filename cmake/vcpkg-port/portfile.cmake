# SPDX-License-Identifier: Apache-2.0
set(VCPKG_BUILD_TYPE release) # header-only

# SHA512 is that of the release's archive: written when the release is tagged.
vcpkg_from_github(
    OUT_SOURCE_PATH SOURCE_PATH
    REPO bisup/bisup
    REF "v${VERSION}"
    SHA512 0
    HEAD_REF main
)

vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS
        -DBISUP_BUILD_TESTS=OFF
        -DBISUP_BUILD_EXAMPLES=OFF
        -DBISUP_BUILD_BENCH=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME bisup CONFIG_PATH share/bisup)

vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
