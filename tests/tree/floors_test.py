# SPDX-License-Identifier: Apache-2.0
"""The arrows of docs/design.md: a file of plugin/ includes only its own floor and lower ones, hooks/ includes plugin/ only
and never each other, no files of one floor include each other in a circle, only config/ sees yaml-cpp, kernels/ knows no
torch, and public headers include public headers only.

Usage: floors_test.py ROOT. Proves first that it finds what it looks for.
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
SOURCES = (".h", ".cpp", ".cu")


def read_list(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def read_floors(root):
    """Each floor's height: a line of floors.txt holds those that stand side by side."""
    lines = read_list(root / "plugin" / "floors.txt")
    return {name: height for height, line in enumerate(lines) for name in line.split()}


def place_of(path):
    """("plugin" or "hooks", floor or None) of a path below the root."""
    parts = path.parts
    floor = parts[2] if parts[0] == "plugin" and parts[1] == "polyak" and len(parts) > 3 else None
    return parts[0], floor


def problems_of(path, text, floors):
    """What is wrong with a file, by its path below the root."""
    place, floor = place_of(path)
    found = []
    for name in INCLUDE.findall(text):
        parts = name.split("/")
        if parts[0] == "polyak" and len(parts) == 3:
            target = parts[1]
            if floor is not None and target != floor:
                if target not in floors or floors[target] >= floors[floor]:
                    found.append(f"{path}: {floor} includes {target}, which is not below it")
            if place == "hooks" and target == "hooks":
                stem = parts[2].rsplit(".", 1)[0]
                own = path.stem.split("_hook")[0] == stem.split("_hook")[0]  # a second file of one hook
                if not own and path.name != "register.cpp":
                    found.append(f"{path}: includes another hook, {parts[2]}")
        if name == "torch/torch.h" and path.suffix == ".h":
            found.append(f"{path}: includes the heavy torch/torch.h")
        if name.startswith("yaml-cpp/") and floor != "config":
            found.append(f"{path}: only config/ may see yaml-cpp")
        if floor == "kernels" and re.match(r"(torch|ATen|c10|caffe2)/", name):
            found.append(f"{path}: kernels/ knows no torch, but includes {name}")
    return found


def circles_of(texts):
    """Circles among files, a header and the source of its name being one."""
    arrows = {}
    for path, text in texts.items():
        unit = str(path.with_suffix("")).split("polyak/", 1)[-1]
        targets = {name[len("polyak/"):].rsplit(".", 1)[0] for name in INCLUDE.findall(text)
                   if name.startswith("polyak/")}
        arrows.setdefault(unit, set()).update(targets - {unit})
    found, done = [], set()

    def visit(unit, trail):
        if unit in trail:
            circle = trail[trail.index(unit):] + [unit]
            found.append("a circle of includes: " + " -> ".join(circle))
        elif unit not in done:
            for target in sorted(arrows.get(unit, ())):
                visit(target, trail + [unit])
            done.add(unit)

    for unit in sorted(arrows):
        visit(unit, [])
    return found


def check_public(root, place):
    """Public headers are there and include public headers only."""
    listed = read_list(root / place / "public_headers.txt")
    others = set(read_list(root / "plugin" / "public_headers.txt"))
    found = []
    for name in listed:
        path = root / place / name
        if not path.exists():
            found.append(f"{place}/public_headers.txt: {name} is not there")
            continue
        for target in INCLUDE.findall(path.read_text()):
            if target.startswith("polyak/") and target not in others and target not in listed:
                found.append(f"{path.relative_to(root)}: is public and includes {target}, which is not")
    return found


def prove(floors):
    broken = {"plugin/polyak/core/a.h": '#include "polyak/config/node.h"',
              "plugin/polyak/averaging/a.cpp": '#include "polyak/checkpoint/pth.h"',
              "plugin/polyak/registry/a.cpp": '#include <polyak/hooks/ema_hook.h>',
              "hooks/polyak/hooks/a.cpp": '#include "polyak/hooks/b.h"',
              "plugin/polyak/cli/a.cpp": "#include <yaml-cpp/yaml.h>",
              "plugin/polyak/kernels/a.h": "#include <ATen/ATen.h>"}
    for path, text in broken.items():
        if not problems_of(pathlib.Path(path), text, floors):
            sys.exit(f"the check does not see the broken arrow of {path}")
    circle = {pathlib.Path("plugin/polyak/core/a.h"): "", pathlib.Path("plugin/polyak/core/b.h"): '#include "polyak/core/a.h"',
              pathlib.Path("plugin/polyak/core/a.cpp"): '#include "polyak/core/b.h"'}
    if len(circles_of(circle)) != 1:
        sys.exit("the check does not see a circle")


def main(root):
    floors = read_floors(root)
    prove(floors)
    texts = {path.relative_to(root): path.read_text() for folder in ("plugin", "hooks")
             for path in sorted((root / folder).rglob("*")) if path.suffix in SOURCES}
    found = [problem for path, text in texts.items() for problem in problems_of(path, text, floors)]
    found += circles_of(texts)
    found += check_public(root, "plugin") + check_public(root, "hooks")
    there = {path.name for path in (root / "plugin" / "polyak").iterdir() if path.is_dir()}
    found += [f"plugin/polyak/{name} is not in plugin/floors.txt" for name in sorted(there - set(floors))]
    if found or len(texts) < 50:
        sys.exit("\n".join(found) or f"only {len(texts)} files were found")
    print(f"{len(texts)} files: every arrow points down, and none in a circle")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
