# SPDX-License-Identifier: Apache-2.0
"""Conan 2's recipe for the source tree in which it lies. Not built so far: docs/install.md says what was tried."""
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load
from conan.tools.system.package_manager import Apt

ROOT = "../../.."


class PolyakConan(ConanFile):
    name = "polyak"
    description = "Weight averaging for LibTorch training: EMA, SWA, CosineEMA and others"
    license = "Apache-2.0"
    topics = ("libtorch", "pytorch", "ema", "swa", "averaging")
    package_type = "shared-library"
    settings = "os", "compiler", "build_type", "arch"
    # torch: `system`, which is Debian's libtorch-dev, or the folder of another LibTorch.
    options = {"torch": ["system", "ANY"], "tools": [True, False]}
    default_options = {"torch": "system", "tools": False, "fmt/*:shared": True, "yaml-cpp/*:shared": True}

    def set_version(self):
        header = load(self, os.path.join(self.recipe_folder, ROOT, "plugin", "polyak", "version.h"))
        self.version = re.search(r'POLYAK_VERSION "([^"]+)"', header)[1]

    def export_sources(self):
        root = os.path.join(self.recipe_folder, ROOT)
        for pattern in ("CMakeLists.txt", "LICENSE", "plugin/*", "hooks/*", "configs/*"):
            copy(self, pattern, root, self.export_sources_folder)

    def validate(self):
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration("Polyak runs on Linux")

    def system_requirements(self):
        if self.options.torch == "system":
            Apt(self).install(["libtorch-dev"])

    def requirements(self):
        # A header of Polyak's formats messages, with the fmt of the library.
        self.requires("fmt/9.1.0", transitive_headers=True, transitive_libs=True)
        self.requires("yaml-cpp/0.7.0")
        self.requires("nlohmann_json/3.11.3")
        self.requires("zlib/[>=1.2.11 <2]")
        if self.options.tools:
            self.requires("cli11/2.3.2")
            self.requires("spdlog/1.11.0")
            self.requires("libjpeg-turbo/[>=2.1 <4]")
            self.requires("libpng/[>=1.6 <2]")

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "POLYAK_TORCH": str(self.options.torch), "POLYAK_BUILD_TESTS": False, "POLYAK_CCACHE": False,
            "POLYAK_BUILD_TRAINER": bool(self.options.tools), "POLYAK_BUILD_CLI": bool(self.options.tools),
            "POLYAK_BUILD_ATTACH": bool(self.options.tools)})
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        # Polyak's own CMake package knows LibTorch and its OpenMP runtime; a generated one would not.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "polyak")]
        self.cpp_info.libs = ["polyak"]
