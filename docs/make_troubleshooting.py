# SPDX-License-Identifier: Apache-2.0
"""Writes the part of docs/troubleshooting.md that is about wrong configs: each kind of mistake of
tests/golden/wrong_configs.txt with what `polyak check` says of it, and what to do.

Usage: make_troubleshooting.py ROOT [--check]     --check: status 1 where the page says something else
"""
import argparse
import pathlib
import re
import sys

BEGIN, END = "<!-- wrong_configs: begin -->", "<!-- wrong_configs: end -->"

# (title, sentences, {pattern of the reason: remedy}). The first pattern that fits a message is its own, and the first
# message of a pattern is the example. A message that fits none is an error of this script: write its remedy.
KINDS = [
    ("A key that nothing has", "The name is checked where it stands: a key of another average, or one level too high or too "
     "deep, is as unknown as a misspelt one.", {
         r"unknown key; did you mean": "take the name that is proposed",
         r"unknown key; .* takes": "`polyak describe NAME` shows the keys of a block; move the key to the block that has it, "
                                   "or remove it",
     }),
    ("A name that nothing has", "", {
        r"no (?!priority)\w+ is named .*did you mean": "take the name that is proposed",
        r"no (?!priority)\w+ is named": "`polyak list` shows all names by kind; one of a plugin needs `plugins` in the config",
        r"'type' is missing": "add `type`; several hooks are a list, each item with its own",
        r"no priority is named": "one of these names, in any case, or a number",
    }),
    ("A value of another type", "YAML reads `yes` and `'0.1'` as strings, and an empty value as null.", {
        r"must be a string, got": "put quotes around it",
        r"must be a number, got the string .*drop the quotes": "write it without quotes",
        r"must be a number, got": "one number, such as 0.004",
        r"must be an integer, got": "a whole number, without a point",
        r"fits in 64 bits": "a smaller number",
        r"must be true or false": "`true` or `false`; YAML 1.2 knows no `yes`",
        r"must be one of": "one of the words that the message shows",
        r"is not a length": "one of the four forms that the message shows",
        r"must be a list, got": "put a `-` before each item, or brackets around them",
        r"must be a mapping with a 'type', got": "`- {type: NAME, ...}` in place of the name alone",
        r"(?<!top level )must be a mapping, got": "`key: value` lines below it, or `{key: value}`; a blank belongs behind each colon",
        r"must be \[epoch or iteration, interval\]": "a list of pairs of two integers",
    }),
    ("A value out of range", "The range is in the message, in `polyak describe` and in [reference.md](reference.md).", {
        r"must be in \(0, 1\)": "a weight or a decay between 0 and 1. The momentum is the weight of the NEW value, such as 0.004",
        r"must be in \[|must be at least|must be at most": "a value in this range",
        r"is not a device": "one of these three forms",
        r"is not a regular expression": "a backslash before a bracket that stands for itself: `'layer\\(1\\)'`",
    }),
    ("Two keys that exclude each other", "", {
        r"says the same as": "remove one of the two",
        r"cannot both be set": "remove one of the two",
        r"belongs into an entry of 'averages'": "move the key into the entries of the list",
        r"is the name of an earlier average": "a name of its own for each average; one may have none",
        r"this loop counts epochs": "one of the two that the message names",
        r"contradicts type": "remove `by_epoch`, or the `type`; with `_base_`, the other may be in the base",
        r"takes one of": "remove one of the two",
        r"are both set": "remove one of the two",
        r"counts epochs, but the training loop": "`by_epoch: false` in the schedule, and its numbers in iterations",
        r"would never start": "an earlier beginning, or a longer run",
    }),
    ("Something that is missing", "", {
        r"also needs": "add the key that is named",
        r"is missing; a|: max_epochs is missing": "add it: `polyak init` prints a whole config with comments",
    }),
    ("YAML itself", "What cannot be read as YAML is reported alone, since the rest of the file has no meaning then.", {
        r"indented by a tab": "blanks in place of tabs",
        r"duplicate key": "remove one of the two: YAML keeps only one of them",
        r"anchor is not defined": "define `&name` above its first `*name`",
        r"cannot be inside its own anchor": "write the value out, or give it an anchor of its own",
        r"<<: must be a mapping": "`<<: *name` only merges mappings",
        r"a '\[' has no '\]'": "the bracket that the caret shows",
        r"quote is not closed": "the same quote at the end of the value",
        r"has no value; write it as": "a blank behind the colon",
        r"':' is not allowed here": "the same indentation for all keys of a block; quotes around a value with `: ` in it",
        r"a second document": "remove the `---`",
        r"the tag .* is not supported": "the value without the tag",
        r"top level must be a mapping": "`key: value` lines at the left margin",
    }),
    ("Bases and other files", "`_base_`, `plugins` with a slash and `model.path` are seen from the folder of the file that "
     "names them.", {
         r"_base_: .*no such file": "the path as it is seen from this file",
         r"is a directory, not a config": "the path of a file",
         r"bases form a cycle": "remove one of the `_base_` in the chain that is shown",
         r"must not share a top-level key": "put one base below the other: `_base_` in the second, which then overrides the first",
         r"cannot be merged into a list": "write the whole list; lists are replaced, not merged",
         r"plugin .* was not found": "a path with a slash, or a name without one and `POLYAK_PLUGIN_PATH`",
         r": no such file": "the path of a file that exists",
     }),
    ("The command line", "", {
        r"must have the form key=value": "`--cfg-options a.b.c=1`",
        r"index \d+ is out of range": "a smaller index; the first item has the index 0",
        r"brackets do not match": "quotes around it, so that the shell leaves brackets and blanks alone",
    }),
]


def cases(text):
    """(title, files, messages with their excerpts) of each case."""
    for case in re.split(r"(?m)^#### ", text)[1:]:
        if "==> text\n" not in case:
            continue
        head, said = case.split("==> text\n")
        files = dict(re.findall(r"(?ms)^== (\S+)\n(.*?)(?=^== |\Z)", head))
        yield head.split("\n")[0].removesuffix(" [schema]"), files, re.split(r"(?m)^(?=polyak: )", said.strip())[1:]


def reason_of(message):
    return message.split("\n")[0].removeprefix("polyak: ")


def shortened(text):
    """Lists of names that would fill the screen."""
    return re.sub(r"((?: takes| are|one of)[: ] ?)((?:\w+, ){3})(?:\w+, ){3,}\w+", r"\1\2...", text)


def place(message):
    """The kind and the pattern that a message belongs to."""
    for kind, (_, _, remedies) in enumerate(KINDS):
        for pattern in remedies:
            if re.search(pattern, reason_of(message)):
                return kind, pattern
    sys.exit(f"docs/make_troubleshooting.py has no remedy for: {message}")


def make(text):
    found, examples = {}, {}
    for _, files, messages in cases(text):
        for message in messages:
            if re.fullmatch(r"polyak: \d+ problems", message.strip()):
                continue
            kind, pattern = place(message)
            found.setdefault((kind, pattern), reason_of(message))
            if len(messages) == 1 and "\n" in message and len(files) == 1:
                examples.setdefault(kind, (files.get("c.yaml", ""), message))
    unused = [pattern for kind, (_, _, remedies) in enumerate(KINDS) for pattern in remedies if (kind, pattern) not in found]
    if unused:
        sys.exit(f"docs/make_troubleshooting.py: no message fits {unused}")
    parts = []
    for kind, (title, sentences, remedies) in enumerate(KINDS):
        parts.append(f"### {title}\n")
        if sentences:
            parts.append(sentences + "\n")
        if kind in examples:
            parts.append(f"```text\n{shortened(examples[kind][1].rstrip())}\n```\n")
        parts.append("| message | what to do |\n|---|---|")
        for pattern, remedy in remedies.items():
            said = re.sub(r"^[\w./-]+\.yaml:\d+:\d+: ", "", shortened(found[kind, pattern])).replace("|", "\\|")
            parts.append(f"| `{said}` | {remedy} |")
        parts.append("")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description="Writes the part about wrong configs into docs/troubleshooting.md.")
    parser.add_argument("root", type=pathlib.Path, help="the source tree")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    page = arguments.root / "docs" / "troubleshooting.md"
    old = page.read_text()
    made = make((arguments.root / "tests" / "golden" / "wrong_configs.txt").read_text())
    new = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{made}\n{END}", old, flags=re.DOTALL)
    if BEGIN not in old or END not in old:
        sys.exit(f"{page} has no {BEGIN} and {END}")
    if not arguments.check:
        page.write_text(new)
    elif new != old:
        sys.exit(f"{page} is out of date; run: python3 docs/make_troubleshooting.py {arguments.root}")


if __name__ == "__main__":
    main()
