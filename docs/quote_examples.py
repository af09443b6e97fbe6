# SPDX-License-Identifier: Apache-2.0
"""Puts the parts of docs/examples that the pages quote into the pages.

Usage: quote_examples.py DOCS [--check]. In a page, `<!-- quote: FILE PART -->` before a code block says that the
block is what stands in examples/FILE between `--8<-- [start:PART]` and `--8<-- [end:PART]`, moved to the left margin;
without PART the whole file. --check changes nothing and fails where a page says something else.
"""
import pathlib
import re
import sys
import textwrap

QUOTE = re.compile(r"(<!-- quote: (\S+)(?: (\S+))? -->\n```\w*\n)(.*?)(^```$)", re.DOTALL | re.MULTILINE)


def part_of(path, name):
    lines = path.read_text().splitlines(keepends=True)
    if name:
        begin = [i for i, line in enumerate(lines) if f"--8<-- [start:{name}]" in line]
        end = [i for i, line in enumerate(lines) if f"--8<-- [end:{name}]" in line]
        if len(begin) != 1 or len(end) != 1:
            sys.exit(f"{path}: must have one start and one end of '{name}'")
        lines = lines[begin[0] + 1:end[0]]
    return textwrap.dedent("".join(line for line in lines if "--8<--" not in line and "SPDX-" not in line))


def main(docs, check):
    quotes, stale = 0, []
    for page in [*sorted(docs.glob("*.md")), docs.parent / "README.md"]:
        def quoted(match):
            nonlocal quotes
            quotes += 1
            return match[1] + part_of(docs / "examples" / match[2], match[3]) + match[5]
        text = page.read_text()
        if text.count("<!-- quote:") != len(QUOTE.findall(text)):
            sys.exit(f"{page}: a quote has no code block behind it")
        new = QUOTE.sub(quoted, text)
        if new != text:
            stale.append(page)
            if not check:
                page.write_text(new)
    if check and stale:
        sys.exit(f"{', '.join(map(str, stale))}: not what docs/examples says; run docs/quote_examples.py {docs}")
    if quotes < 5:
        sys.exit(f"only {quotes} quotes were found")
    print(f"{quotes} quotes")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), "--check" in sys.argv[2:])
