# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Conan 2 recipe. Eigen is all that bisup::bisup needs; the components are options."""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout

required_conan_version = ">=2.0"


class BisupConan(ConanFile):
    name = "bisup"
    description = "Weight, activation and KV-cache quantization of Llama models on processors"
    license = "Apache-2.0"
    topics = ("quantization", "llm", "inference", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"io": [True, False], "text": [True, False]}
    default_options = {"io": False, "text": False}
    exports_sources = "include/*", "LICENSE"
    no_copy_source = True

    def set_version(self):
        header = load(self, os.path.join(self.recipe_folder, "include/bisup/core/version.hpp"))
        self.version = re.search(r'VERSION_STRING "([^"]+)"', header).group(1)

    def layout(self):
        basic_layout(self, src_folder=".")

    def requirements(self):
        self.requires("eigen/3.4.0", transitive_headers=True)
        if self.options.io or self.options.text:
            self.requires("nlohmann_json/3.11.3", transitive_headers=True)
        if self.options.text:
            self.requires("pcre2/10.42", transitive_headers=True)
            self.requires("utf8proc/2.8.0", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def build(self):
        pass

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        copy(self, "*.hpp", os.path.join(self.source_folder, "include"),
             os.path.join(self.package_folder, "include"))

    def package_id(self):
        self.info.clear()

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "bisup")
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
        if not (self.options.io or self.options.text):
            # Without components Conan itself passes Eigen on, one of the platform's as well.
            self.cpp_info.set_property("cmake_target_name", "bisup::bisup")
            self._add_threads(self.cpp_info)
            return
        components = {"bisup": ["eigen::eigen"], "io": ["bisup", "nlohmann_json::nlohmann_json"]}
        if self.options.text:
            components["text"] = ["io", "pcre2::pcre2-8", "utf8proc::utf8proc"]
        for name, requires in components.items():
            component = self.cpp_info.components[name]
            component.set_property("cmake_target_name", f"bisup::{name}")
            component.bindirs = component.libdirs = []
            component.requires = requires
        self._add_threads(self.cpp_info.components["bisup"])

    def _add_threads(self, info):
        if self.settings.os in ("Linux", "FreeBSD"):
            info.system_libs = ["pthread"]
