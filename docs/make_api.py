# SPDX-License-Identifier: Apache-2.0
"""API documentation of the public headers, by Doxygen, and a check that no public member goes undocumented.

Usage: make_api.py OUT            writes OUT/html
       make_api.py --check        writes nothing; lists what is undocumented and ends with 1
       make_api.py --check OUT    both, in one run
       make_api.py --filter F     a header as Doxygen reads it

The first three take the headers from plugin/public_headers.txt and hooks/public_headers.txt and end with 1 where Doxygen warns.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAIN_PAGE = "docs/site/api.md"


def public_headers():
    for place in ("plugin", "hooks"):
        for line in (ROOT / place / "public_headers.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                yield f"{place}/{line}"


def reference():
    """What docs/reference.md says of the keys of each component, by its name in small letters; of those that all who
    have it say the same of, for options that several components derive from, under ""."""
    components, keys = {}, {}
    for section in (ROOT / "docs" / "reference.md").read_text().split("\n### ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", section, re.MULTILINE)
        components[section.split("\n")[0].strip().lower()] = dict(rows)
        for key, meaning in rows:
            keys.setdefault(key, set()).add(meaning)
    components[""] = {key: meanings.pop() for key, meanings in keys.items() if len(meanings) == 1}
    return components


def with_keys(text):
    """Members of Options structs with the sentences that their visit() gives, as docs/reference.md has them."""
    components, lines, keys = reference(), [], None
    for line in text.split("\n"):
        begin = re.match(r"struct (?:POLYAK_API )?(\w+)Options(?: final)? : ", line)
        if begin:
            keys = {**components[""], **components.get(begin[1].lower(), {})}
            if not lines[-1].startswith("///"):
                line = f"/** The keys of {begin[1]}. */ {line}"
        elif line.startswith("}"):
            keys = None
        member = keys and re.match(r"  \S.*?[ &*](\w+)(?:\(| = |;)", line)
        if member and member[1] in keys and not lines[-1].lstrip().startswith("///") and "///<" not in line:
            line = f"  /** {keys[member[1]]} */{line[1:]}"
        lines.append(line)
    return "\n".join(lines)


def filtered(text):
    """Habits of this project's comments, as Doxygen writes them: what stands behind a member says what it is; what stands
    above a member is about all that follow up to the next comment or blank line, a setter and its getter say; and keys
    are described in visit()."""
    text = re.sub(r"([;,{)\w])( *)  // (?=\S)", r"\1\2  ///< ", text)
    lines, group, members = [], None, 0

    def close():
        nonlocal group, members
        if group is not None and members > 1:
            lines[group] = "/**@{*/ " + lines[group]
            lines[-1] += " /**@}*/"
        group, members = None, 0

    for line in text.split("\n"):
        code = line.strip()
        comment = code.startswith("/// ") or code == "///"
        scope = re.match(r"(class|struct|enum|namespace|public:|private:|protected:|#)|\};", code)
        new_overrides = " override" in line and members and " override" not in lines[-1]  # they have the base's comment
        if not code or scope or not line.startswith("  ") or new_overrides:
            close()
        elif comment and (group is None or members):
            close()
            group = len(lines)
        lines.append(line)
        members += re.match(r"  [^\s/}:]", line) is not None and not code.startswith("template")
    close()
    return with_keys("\n".join(lines))


def run_doxygen(out, html, headers):
    """What Doxygen warns of."""
    settings = (ROOT / "docs" / "Doxyfile").read_text()
    settings += f"INPUT = {' '.join(headers)}\nOUTPUT_DIRECTORY = {out}\nGENERATE_HTML = {'YES' if html else 'NO'}\n"
    if not html:
        settings += "GENERATE_XML = YES\n"  # it warns only where it writes something
    done = subprocess.run(["doxygen", "-"], input=settings, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"doxygen ended with {done.returncode}: {done.stderr}")
    # Members of a template are named once more for each class that derives from an instance of it. What moves and copies
    # needs no comment.
    known = re.compile(r" of class \w+< |Member (\w+)\((const )?\1 ?&|Member operator=\(")
    return sorted({line.replace(f"{ROOT}/", "") for line in done.stderr.splitlines() if line.strip() and not known.search(line)})


def prove():
    """A check that finds nothing must be able to find something."""
    with tempfile.TemporaryDirectory() as folder:
        header = pathlib.Path(folder) / "a.h"
        header.write_text("/// A class.\nclass A {\n public:\n  void undocumented();\n};\n")
        if not any("undocumented" in line for line in run_doxygen(folder, False, [str(header)])):
            sys.exit("the check does not see an undocumented member")


def main(out, check):
    headers = list(public_headers())
    if check:
        prove()
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            warnings = run_doxygen(folder, False, [MAIN_PAGE, *headers])
    else:
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        warnings = run_doxygen(pathlib.Path(out).resolve(), True, [MAIN_PAGE, *headers])
    if warnings:
        sys.exit("\n".join(warnings) + f"\n{len(warnings)} warnings")
    print(f"{len(headers)} headers: every public member is documented")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--filter":
        text = pathlib.Path(sys.argv[2]).read_text()
        print(text if sys.argv[2].endswith(".md") else filtered(text), end="")
    elif sys.argv[1:2] == ["--check"] and len(sys.argv) <= 3:
        main(sys.argv[2] if len(sys.argv) == 3 else None, True)
    elif len(sys.argv) == 2:
        main(sys.argv[1], False)
    else:
        sys.exit(__doc__)
