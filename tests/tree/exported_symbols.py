# SPDX-License-Identifier: Apache-2.0
"""The functions and variables that Polyak's libraries export, compared with the lists that are kept of them: whoever adds
or drops one sees it in the diff. And the libraries' SONAMEs, which follow from the version. docs/versioning.md says what
a change of either means for a release.

Usage: exported_symbols.py FOLDER [--update]

FOLDER holds the libraries, build/release-system/lib say. --update writes the lists anew. Proves first that it finds
what it looks for.

A list is the same for each LibTorch, compiler and build: it holds what is defined in namespace polyak and in one object
only. So it leaves out tables of virtual functions and type information, inline functions and instances of templates,
which each compiler puts where it likes; and it shortens the names of types that other libraries own.
"""
import difflib
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTS = ROOT / "tests" / "tree" / "exported_symbols"
LIBRARIES = ("libpolyak", "libpolyak_distributed", "libpolyak_trainer", "libpolyak_hooks", "libpolyak_attach")
STRONG = "TDBR"  # text, data, zeroed data, constants; not the weak W, V and u
HEAD = "# What {}.so exports. Written by tests/tree/exported_symbols.py --update\n"


def without_default_arguments(name):
    """std::vector<int, std::allocator<int> > as vector<int>."""
    begin = re.search(r", (?:allocator|char_traits|default_delete|less|hash|equal_to)<", name)
    if not begin:
        return name
    depth, end = 1, begin.end()
    while depth:
        depth += {"<": 1, ">": -1}.get(name[end], 0)
        end += 1
    return without_default_arguments(name[:begin.start()] + name[end:])


def shortened(name):
    name = re.sub(r"\[abi:\w+\]", "", name)
    name = re.sub(r"\b(?:std|__cxx11|__1|c10|at|torch|headeronly)::", "", name)
    name = without_default_arguments(name.replace(" >", ">"))
    return name.replace("basic_string_view<char>", "string_view").replace("basic_string<char>", "string").replace(" >", ">")


def symbols_of(text):
    """From what `nm -D -C --defined-only` prints."""
    found = set()
    for line in text.splitlines():
        match = re.match(r"[0-9a-f]+ (\w) (.+)", line)
        if match and match[1] in STRONG and re.match(r"polyak(::|_)", match[2]):
            found.add(shortened(match[2]))
    return sorted(found)


def exported(library):
    done = subprocess.run(["nm", "-D", "-C", "--defined-only", library], check=True, capture_output=True, text=True)
    return symbols_of(done.stdout)


def soname(library):
    done = subprocess.run(["objdump", "-p", library], check=True, capture_output=True, text=True)
    return re.search(r"SONAME +(\S+)", done.stdout)[1]


def expected_soname(name):
    version = re.search(r'POLYAK_VERSION "(\d+)\.(\d+)', (ROOT / "plugin" / "polyak" / "version.h").read_text())
    if name == "libpolyak_attach":
        return f"{name}.so"  # loaded by the command beside it alone
    return f"{name}.so.{version[1]}" + (f".{version[2]}" if version[1] == "0" else "")


def prove():
    text = """
0000000000012340 T polyak::Value::find(polyak::Value const&) const
0000000000012341 T polyak::names[abi:cxx11](std::vector<std::__cxx11::basic_string<char, std::char_traits<char>, \
std::allocator<char> >, std::allocator<std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > > > const&, int)
0000000000012342 T polyak::set(c10::optional<c10::Device>)
0000000000012343 T torch::optim::SGD::step()
0000000000012344 W polyak::Inline::~Inline()
0000000000012345 V vtable for polyak::Value
0000000000012346 D vtable for polyak::Value
0000000000012347 T polyak_plugin_info
"""
    wanted = ["polyak::Value::find(polyak::Value const&) const", "polyak::names(vector<string> const&, int)",
              "polyak::set(optional<Device>)", "polyak_plugin_info"]
    if symbols_of(text) != wanted:
        sys.exit(f"the lists are not made as they should be: {symbols_of(text)}")


def main():
    prove()
    arguments = [argument for argument in sys.argv[1:] if argument != "--update"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    differences, counts = [], []
    for name in LIBRARIES:
        library, kept = pathlib.Path(arguments[0]) / f"{name}.so", LISTS / f"{name}.txt"
        if soname(library) != expected_soname(name):
            differences.append(f"{library}: its SONAME is {soname(library)}, and not {expected_soname(name)}")
        symbols = exported(library)
        counts.append(f"{name} {len(symbols)}")
        text = HEAD.format(name) + "".join(symbol + "\n" for symbol in symbols)
        if "--update" in sys.argv:
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(text)
            continue
        old = kept.read_text() if kept.exists() else ""
        differences += difflib.unified_diff(old.splitlines(), text.splitlines(), f"kept: {kept.name}", f"built: {library}",
                                            lineterm="", n=0)
    if differences:
        sys.exit("\n".join(differences) + "\n\nWhere that is meant, run this with --update; see docs/versioning.md")
    print("exported symbols: " + ", ".join(counts))


if __name__ == "__main__":
    main()
