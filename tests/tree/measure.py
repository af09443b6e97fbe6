# SPDX-License-Identifier: Apache-2.0
"""Sizes of the house, for a look before and after a change of its structure: a table on standard output.

Usage: measure.py ROOT [--build FOLDER] [--consumer]

ROOT is a working tree. --build names a build folder of it: symbols that its libraries export, headers that it
installs. --consumer configures and compiles a program of three lines that takes ROOT by add_subdirectory, and counts
objects and seconds (minutes, with an empty ccache).
"""
import argparse
import os
import pathlib
import re
import subprocess
import tempfile
import time

LIMIT = 600  # lines of a file
METHODS = 25  # public ones of a class


def sources(root):
    found = []
    for folder in ("plugin", "hooks", "tests"):
        found += [path for path in (root / folder).rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".py")]
    return sorted(found)


def lines(path):
    return path.read_text().count("\n")


def classes(path):
    """(name, lines, public methods) of each class that a header defines at the outermost level."""
    text = path.read_text()
    for match in re.finditer(r"^(class|struct) (?:POLYAK_API )?(\w+)(?: final)?(?: : [^{;]*)?\s*\{", text, re.M):
        end = text.find("\n};", match.end())
        body = text[match.end():end]
        public, inside = 0, match[1] == "struct"
        depth = 0
        for line in body.splitlines():
            if depth == 0 and re.match(r"\s*(public|protected|private):", line):
                inside = "public" in line
            code = line.split("//")[0]
            if depth == 0 and inside and re.match(r"  \S", line) and re.search(r"\b~?\w+\(|operator", code):
                public += not re.match(r"\s*(return|if|for|while)\b", code)
            depth += code.count("{") - code.count("}")
        yield match[2], body.count("\n") + 1, public


def exported(library):
    done = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", library], check=True, capture_output=True,
                          text=True)
    return sum(line.split()[1] in "TtVvWwBbDdRru" for line in done.stdout.splitlines())


def measure_build(build):
    print("| library | exported symbols |\n|---|---|")
    for library in sorted((build / "lib").glob("libpolyak*.so")):
        print(f"| {library.name} | {exported(library)} |")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cmake", "--install", build, "--prefix", folder], check=True, capture_output=True)
        headers = list(pathlib.Path(folder).rglob("*.h"))
        print(f"\nInstalled headers: {len(headers)}")


CONSUMER = """cmake_minimum_required(VERSION 3.22)
project(consumer CXX)
add_subdirectory({root} polyak)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE polyak::polyak)
"""
PROGRAM = """#include <polyak/polyak.h>
#include <torch/nn/modules/linear.h>
int main() {
  torch::nn::Linear model(2, 2);
  polyak::ExponentialMovingAverage average(*model, polyak::ExponentialMovingAverageOptions().momentum(0.1));
  average.update_parameters(*model);
}
"""


def measure_consumer(root):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "CMakeLists.txt").write_text(CONSUMER.format(root=root))
        (folder / "main.cpp").write_text(PROGRAM)
        build = folder / "build"
        subprocess.run(["cmake", "-S", folder, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                        "-DPOLYAK_CCACHE=OFF", "-DPOLYAK_TORCH=system"], check=True, capture_output=True)
        done = subprocess.run(["ninja", "-C", build, "-n", "-v", "consumer"], check=True, capture_output=True, text=True)
        objects = len(set(re.findall(r" -o (\S+\.o) ", done.stdout)))
        begin = time.monotonic()
        subprocess.run(["cmake", "--build", build, "--target", "consumer", "-j", str(os.cpu_count())], check=True,
                       capture_output=True)
        print(f"\nA program of three lines: {objects} objects, {time.monotonic() - begin:.0f} s on {os.cpu_count()} cores")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--consumer", action="store_true")
    arguments = parser.parse_args()
    root = arguments.root.resolve()

    files = sources(root)
    print(f"Files: {len(files)}, lines: {sum(map(lines, files))}\n\n| file | lines |\n|---|---|")
    for path in sorted(files, key=lines, reverse=True)[:12]:
        print(f"| {path.relative_to(root)} | {lines(path)}{' (too many)' if lines(path) > LIMIT else ''} |")

    print("\n| class | lines of its definition | public methods |\n|---|---|---|")
    known = [entry for path in files if path.suffix == ".h" for entry in classes(path)]
    for name, size, methods in sorted(known, key=lambda entry: entry[2], reverse=True)[:12]:
        print(f"| {name} | {size} | {methods}{' (too many)' if methods > METHODS else ''} |")
    print()
    if arguments.build:
        measure_build(arguments.build)
    if arguments.consumer:
        measure_consumer(root)


if __name__ == "__main__":
    main()
