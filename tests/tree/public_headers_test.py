# SPDX-License-Identifier: Apache-2.0
"""Each public header compiles alone: with the flags of the tree, and with no header of ours before it.

Usage: public_headers_test.py ROOT BUILD [--alone] [HEADER ...]. BUILD has compile_commands.json. LibTorch's headers take
10 s a file, so they come precompiled, as the tree's own sources have them, for headers that include any of them; to read
what is precompiled takes 3 s. With --alone nothing comes before a header, for a release. Two compilers run at a time. Proves first that it notices a header that does not compile alone.
"""
import concurrent.futures
import json
import pathlib
import re
import shlex
import subprocess
import sys

# Any file of polyak_floors has the flags of all, by itself or with others in a unity build.
FLAGS_OF = "/plugin/polyak/core/error.cpp", "/polyak_floors.dir/Unity/unity_0_cxx.cxx"


def read_list(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def compile_command(root, build, alone):
    """What compiles a file of the tree, without what it reads and writes; alone: without the precompiled header."""
    cache = (build / "CMakeCache.txt").read_text()
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache, re.MULTILINE)[1]
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if entry["file"].endswith(FLAGS_OF):
            break
    else:
        sys.exit(f"{build}/compile_commands.json knows none of {', '.join(FLAGS_OF)}")
    words = shlex.split(entry["command"])
    kept, words = [compiler], words[words.index(compiler) + 1:]
    while words:
        word = words.pop(0)
        if word in ("-o", "-c", "-MT", "-MF") or alone and word in ("-include", "-Xclang"):
            words.pop(0)
        elif word != "-MD" and not (alone and word in ("-Winvalid-pch", "-fpch-preprocess")):
            kept.append(word)
    return [*kept, "-Werror", "-fsyntax-only"]


def problem_of(command, folder, header):
    """What the compiler says of a file that includes the header alone, twice; nothing where it has no complaint."""
    source = folder / (str(header).strip("/").replace("/", "_") + ".cpp")
    source.write_text(f"#include <{header}>\n#include <{header}>\n")
    done = subprocess.run([*command, source], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    return f"{header} does not compile alone:\n{done.stderr[:2000]}"


def uses_torch(header, root, known):
    """Whether a header of ours includes one of LibTorch's, itself or through others of ours."""
    if header in known:
        return known[header]
    known[header] = False  # for a circle
    path = next((root / place / header for place in ("plugin", "hooks") if (root / place / header).exists()), None)
    if path is None:  # made by CMake
        return False
    text = path.read_text()
    known[header] = bool(re.search(r"#include <(?:torch|ATen|c10)/", text)) or any(
        uses_torch(name, root, known) for name in re.findall(r'#include "(polyak/[^"]+)"', text))
    return known[header]


def prove(command, folder):
    good, bad = folder / "good.h", folder / "bad.h"
    good.write_text("#pragma once\n#include <string>\ninline std::string text() { return {}; }\n")
    bad.write_text("#pragma once\ninline polyak::ConfigError text() { return {}; }\n")
    if problem_of(command, folder, good) or not problem_of(command, folder, bad):
        sys.exit("the check does not tell a header that compiles alone from one that does not")


def main(root, build, *wanted, alone):
    lists = {place: read_list(root / place / "public_headers.txt") for place in ("plugin", "hooks")}
    folder = build / "public_headers"  # the same paths each time, for ccache
    folder.mkdir(exist_ok=True)
    command = [*compile_command(root, build, alone), f"-I{root / 'hooks'}"]
    prove(command, folder)
    headers = list(wanted) or lists["plugin"] + lists["hooks"]
    plain, known = [*compile_command(root, build, True), f"-I{root / 'hooks'}"], {}
    commands = {header: command if uses_torch(header, root, known) else plain for header in headers}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [problem for problem in pool.map(lambda header: problem_of(commands[header], folder, header), headers)
                 if problem]
    if found or not headers:
        sys.exit("\n".join(found) or "no headers are listed")
    print(f"{len(headers)} public headers compile alone")


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--alone"]
    main(*map(pathlib.Path, arguments[:2]), *arguments[2:], alone="--alone" in sys.argv)
