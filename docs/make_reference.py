# SPDX-License-Identifier: Apache-2.0
"""Makes docs/reference.md: every key of everything that a config can name, as the command itself describes it.

Usage: make_reference.py POLYAK OUTPUT            writes OUTPUT
       make_reference.py POLYAK OUTPUT --check    status 1 when OUTPUT is not what would be written
"""
import argparse
import pathlib
import subprocess
import sys

INTRO = """# Reference

Every key of everything that a config can name, by kind. Made by `docs/make_reference.py` from `polyak list` and
`polyak describe NAME --format markdown`; do not edit it by hand. Beside its own keys every block has `type`, the name.
The top-level keys of a config are in [from_mmengine.md](from_mmengine.md#the-config).
"""

# Where a kind stands in a config.
PLACES = {
    "average": "Named by `ema_type` of EMAHook; the keys stand in EMAHook's own block.",
    "backbone": "`model.backbone`.",
    "dataset": "`train_dataloader.dataset`, `val_dataloader.dataset`, `test_dataloader.dataset`.",
    "head": "`model.head`.",
    "hook": "`custom_hooks`, a list, and `default_hooks`, by name. Every hook also takes `priority`: a name such as NORMAL, or 0 to "
            "100.",
    "loss": "`model.head.loss`.",
    "metric": "`val_evaluator`, `test_evaluator`: one or a list.",
    "model": "`model`.",
    "optimizer": "`optim_wrapper.optimizer`.",
    "parameter scheduler": "`param_scheduler`: one or a list.",
    "sampler": "`train_dataloader.sampler` and those of validation and test.",
    "vis backend": "`vis_backends`, a list.",
    "transform": "`pipeline` of a dataset, a list.",
}
FIRST = ["average", "hook"]  # what most readers look for


def ask(polyak, *arguments):
    done = subprocess.run([polyak, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{polyak} {' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def read_kinds(polyak):
    """{kind: [name, ...]} as `polyak list` shows them: names are indented below their kind."""
    kinds = {}
    for line in ask(polyak, "list").splitlines():
        if not line.strip():
            continue
        if line.startswith(" "):
            kinds[kind].append(line.split()[0])
        else:
            kind = line.strip()
            kinds[kind] = []
    if not any(kinds.values()):
        sys.exit(f"{polyak} list shows nothing")
    return kinds


def describe(polyak, kinds):
    """{(kind, name): block}. `describe` shows one for each kind that has the name, in the order of `list`."""
    names = list(dict.fromkeys(name for names in kinds.values() for name in names))
    blocks = ask(polyak, "describe", *names, "--format", "markdown").split("### ")[1:]
    places = [(kind, name) for name in names for kind in kinds if name in kinds[kind]]
    assert len(places) == len(blocks)
    return {place: "### " + block.strip() for place, block in zip(places, blocks)}


def make(polyak):
    kinds = read_kinds(polyak)
    blocks = describe(polyak, kinds)
    parts = [INTRO.strip()]
    for kind in sorted(kinds, key=lambda kind: (FIRST.index(kind) if kind in FIRST else len(FIRST), kind)):
        parts.append(f"## {kind}")
        if kind in PLACES:
            parts.append(PLACES[kind])
        parts += [blocks[kind, name] for name in kinds[kind]]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Makes docs/reference.md from the polyak command.")
    parser.add_argument("polyak", help="the built command")
    parser.add_argument("output", type=pathlib.Path, help="docs/reference.md")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    text = make(arguments.polyak)
    if not arguments.check:
        arguments.output.write_text(text)
    elif not arguments.output.exists() or arguments.output.read_text() != text:
        sys.exit(f"{arguments.output} is out of date; run: {sys.argv[0]} {arguments.polyak} {arguments.output}")


if __name__ == "__main__":
    main()
