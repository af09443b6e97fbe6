"""The arrows of docs/design.md: a floor of plugin/ includes only floors below it, hooks/ includes plugin/ only
and never each other, only config/ sees yaml-cpp, and kernels/ knows no torch.

Usage: floors_test.py ROOT. Proves first that it finds a back-arrow when there is one.
"""
import pathlib
import re
import sys

FLOORS = {"core": 0, "config": 1, "kernels": 1, "registry": 2, "averaging": 3, "checkpoint": 3, "runtime": 4,
          "loader": 5, "attach": 5, "trainer": 6, "embed": 6, "cli": 7}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def problems_of(path, text):
    """What is wrong with a file, by its path below the root."""
    place, found = path.parts[0], []
    floor = path.parts[1] if place == "plugin" and len(path.parts) > 2 else None
    for name in INCLUDE.findall(text):
        parts = name.split("/")
        if parts[0] == "polyak" and len(parts) == 3:
            target = parts[1]
            if place == "plugin" and floor is not None and target != floor:
                if target not in FLOORS or FLOORS[target] >= FLOORS[floor]:
                    found.append(f"{path}: {floor} includes {target}, which is not below it")
            if place == "hooks" and target == "hooks":
                stem = parts[2].rsplit(".", 1)[0]
                own = path.stem == stem or path.stem.startswith(stem + "_")  # a second file of one hook
                if not own and path.name != "register.cpp":
                    found.append(f"{path}: includes another hook, {parts[2]}")
        if name == "torch/torch.h" and path.suffix == ".h":
            found.append(f"{path}: includes the heavy torch/torch.h")
        if name.startswith("yaml-cpp/") and floor != "config":
            found.append(f"{path}: only config/ may see yaml-cpp")
        if floor == "kernels" and re.match(r"(torch|ATen|c10|caffe2)/", name):
            found.append(f"{path}: kernels/ knows no torch, but includes {name}")
    return found


def main(root):
    broken = {"plugin/core/a.h": '#include "polyak/config/node.h"', "plugin/averaging/a.cpp": '#include "polyak/checkpoint/pth.h"',
              "plugin/registry/a.cpp": '#include <polyak/hooks/ema_hook.h>', "hooks/a.cpp": '#include "polyak/hooks/b.h"',
              "plugin/cli/a.cpp": "#include <yaml-cpp/yaml.h>", "plugin/kernels/a.h": "#include <ATen/ATen.h>"}
    for path, text in broken.items():
        if not problems_of(pathlib.Path(path), text):
            sys.exit(f"the check does not see the broken arrow of {path}")

    found, files = [], 0
    for folder in ("plugin", "hooks"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cpp", ".cu"):
                files += 1
                found += problems_of(path.relative_to(root), path.read_text())
    floors = {path.name for path in (root / "plugin").iterdir() if path.is_dir() and path.name != "cmake"}
    found += [f"plugin/{name} is no floor of docs/design.md" for name in sorted(floors - set(FLOORS))]
    if found or files < 50:
        sys.exit("\n".join(found) or f"only {files} files were found")
    print(f"{files} files, every arrow points down")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
