#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What cpack makes: three Debian packages, each with what it should carry, and a source archive that lacks nothing.

usage: packages_test.py BUILD_DIR SOURCE_DIR CPACK

The dependencies on Debian's libraries are left out here, since dpkg-shlibdeps reads all symbols of LibTorch for each
package, which takes half a minute; tests/packages/clean_root.sh installs the packages with them.
"""
import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

BUILD, SOURCE = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
CPACK = sys.argv[3]
VERSION = re.search(r'POLYAK_VERSION "([^"]+)"', (SOURCE / "plugin/polyak/version.h").read_text())[1]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Debs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        run(CPACK, "-G", "DEB", "-B", folder.name, "-D", "CPACK_DEBIAN_PACKAGE_SHLIBDEPS=OFF", "-D",
            "CPACK_DEBIAN_COMPRESSION_TYPE=gzip", cwd=BUILD)
        cls.debs = {path.name.split("_")[0]: path for path in Path(folder.name).glob("*.deb")}
        cls.fields, cls.files, cls.tree = {}, {}, {}
        for name, path in cls.debs.items():
            fields = run("dpkg-deb", "-f", path)
            cls.fields[name] = dict(re.findall(r"^([A-Za-z-]+): (.*)$", fields, re.M))
            cls.tree[name] = Path(folder.name) / "tree" / name
            cls.tree[name].mkdir(parents=True)
            run("dpkg-deb", "-x", path, cls.tree[name])
            cls.files[name] = {str(file.relative_to(cls.tree[name])) for file in cls.tree[name].rglob("*")
                               if not file.is_dir() or file.is_symlink()}

    def has(self, package, *patterns):
        for pattern in patterns:
            found = [file for file in self.files[package] if re.fullmatch(pattern, file)]
            self.assertTrue(found, f"{package} has no {pattern}: {sorted(self.files[package])}")

    def test_there_are_three_of_this_version(self):
        self.assertEqual(set(self.debs), {"polyak", "polyak-plugins", "libpolyak-dev"})
        for name, fields in self.fields.items():
            self.assertEqual((fields["Package"], fields["Version"]), (name, VERSION))
            self.assertIn("weight averaging", fields["Description"])
            self.has(name, f"usr/share/doc/{name}/copyright")

    def test_each_names_the_others_that_it_needs(self):
        same = f"(= {VERSION})"
        self.assertEqual(self.fields["polyak"]["Recommends"], f"polyak-plugins {same}")
        self.assertIn(f"polyak {same}", self.fields["polyak-plugins"]["Depends"])
        depends = self.fields["libpolyak-dev"]["Depends"]
        for part in (f"polyak {same}", f"polyak-plugins {same}", "libtorch-dev", "libfmt-dev"):
            self.assertIn(part, depends)

    def test_each_carries_its_files(self):
        number = re.escape(VERSION)
        self.has("polyak", "usr/bin/polyak", f"usr/lib/.*libpolyak[.]so[.]{number}",
                 f"usr/lib/.*libpolyak_distributed[.]so[.]{number}", f"usr/lib/.*libpolyak_trainer[.]so[.]{number}",
                 "usr/lib/.*libpolyak_attach[.]so", "usr/share/polyak/configs/fashion_mnist_cosine_ema.yaml",
                 "usr/share/polyak/key_maps/timm_vit.yaml", "usr/share/polyak/configs/polyak.schema.json",
                 "usr/share/man/man1/polyak[.]1", "usr/share/man/man1/polyak-train[.]1",
                 "usr/share/bash-completion/completions/polyak", "usr/share/zsh/vendor-completions/_polyak",
                 "usr/share/fish/vendor_completions.d/polyak.fish")
        self.has("polyak-plugins", "usr/lib/.*libpolyak_hooks[.]so", f"usr/lib/.*libpolyak_hooks[.]so[.]{number}")
        self.has("libpolyak-dev", "usr/include/polyak/polyak[.]h", "usr/include/polyak/hooks/ema_hook[.]h",
                 "usr/lib/.*cmake/polyak/polyakConfig[.]cmake", "usr/lib/.*pkgconfig/polyak[.]pc", "usr/lib/.*libpolyak[.]so")

    def test_a_command_without_the_plugins_says_which_package_has_them(self):
        done = subprocess.run([self.tree["polyak"] / "usr/bin/polyak", "list"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("the package polyak-plugins", done.stderr)

    def test_together_they_have_what_an_installation_has_and_nothing_twice(self):
        packaged = sorted(file for files in self.files.values() for file in files if "/share/doc/" not in file)
        self.assertEqual(len(packaged), len(set(packaged)))
        installed = set()
        with tempfile.TemporaryDirectory() as prefix:
            run("cmake", "--install", BUILD, "--prefix", prefix)
            for file in Path(prefix).rglob("*"):
                if not file.is_dir() or file.is_symlink():
                    installed.add("usr/" + str(file.relative_to(prefix)))
        self.assertEqual({file for file in installed if "/share/doc/" not in file}, set(packaged))

    def test_no_file_names_a_folder_of_this_machine(self):
        for name, tree in self.tree.items():
            for file in self.files[name]:
                path = tree / file
                if path.is_symlink():
                    self.assertFalse(os.path.isabs(os.readlink(path)), file)
                    continue
                content = path.read_bytes()
                for folder in (SOURCE, BUILD):
                    self.assertNotIn(str(folder).encode(), content, f"{name}: {file}")

    def test_libraries_look_for_each_other_in_their_own_folder(self):
        for name, tree in self.tree.items():
            for file in self.files[name]:
                path = tree / file
                if path.is_symlink() or path.read_bytes()[:4] != b"\x7fELF":
                    continue
                found = re.findall(r"R(?:UN)?PATH.*\[(.*)\]", run("readelf", "-d", path))
                if file.startswith("usr/bin/"):
                    self.assertRegex(" ".join(found), r"^[$]ORIGIN/[.][.]/lib[^:]*$", file)
                else:
                    self.assertEqual(found, [] if "attach" in file else ["$ORIGIN"], file)


class SourceArchive(unittest.TestCase):
    def test_it_has_every_file_that_git_has_and_no_other(self):
        with tempfile.TemporaryDirectory() as folder:
            run(CPACK, "--config", "CPackSourceConfig.cmake", "-B", folder, cwd=BUILD)
            top = f"polyak-{VERSION}"
            with tarfile.open(Path(folder) / f"{top}.tar.gz") as archive:
                names = {member.name for member in archive if not member.isdir()}
        self.assertTrue(all(name.startswith(top + "/") for name in names))
        names = {name[len(top) + 1:] for name in names}
        if not (SOURCE / ".git").exists():  # itself from an archive
            self.assertIn("CMakeLists.txt", names)
            return
        tracked = run("git", "-c", f"safe.directory={SOURCE}", "-C", SOURCE, "ls-files", "--cached", "--others",
                      "--exclude-standard", "-z").split("\0")
        self.assertEqual(names, {name for name in tracked if name and (SOURCE / name).exists()})


class Recipes(unittest.TestCase):
    """The files of other package managers, as far as that can be told without those."""

    def test_vcpkg_has_this_version(self):
        port = json.loads((SOURCE / "plugin/packaging/vcpkg/polyak/vcpkg.json").read_text())
        self.assertEqual((port["name"], port["version"]), ("polyak", VERSION))
        self.assertTrue((SOURCE / "plugin/packaging/vcpkg/polyak/portfile.cmake").exists())

    def test_conan_is_python(self):
        tree = ast.parse((SOURCE / "plugin/packaging/conan/conanfile.py").read_text())
        self.assertIn("PolyakConan", [node.name for node in tree.body if isinstance(node, ast.ClassDef)])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
