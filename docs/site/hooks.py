# SPDX-License-Identifier: Apache-2.0
"""What the site has beside docs/*.md: the README as its first page, CONTRIBUTING and CHANGELOG, a page for each file of
the repository that a page links to (so one link works here and where the repository is browsed), and the API."""
import functools
import os
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LANGUAGES = {".cpp": "cpp", ".h": "cpp", ".yaml": "yaml", ".py": "python", ".sh": "bash", ".txt": "text"}
ASSETS = {".svg", ".png"}
FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!`)(!?\[)([^\]]*)(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
SHORT = re.compile(r"<code>([^<\s]{1,30}|[^<\n]{1,24})</code>")


def outside_fences(text, function):
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [function(text[end:fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, function(text[end:])])


def in_repository(page, link):
    """The file that a link of a page means, from the top of the repository; None where it is outside or missing."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def in_site(path):
    """Where a file of the repository is in the site."""
    if path in TOP:
        return TOP[path]
    if path.startswith("docs/") and pathlib.PurePath(path).suffix in {".md"} | ASSETS:
        return path.removeprefix("docs/")
    return f"files/{path}.md"


def pages():
    """{a page's place in the repository: its text}"""
    names = [*TOP, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    return {name: (ROOT / name).read_text() for name in names}


def with_links(name, text):
    """The text with its links as they are in the site."""
    here = posixpath.dirname(in_site(name))

    def moved(match):
        target = in_repository(name, match[4])
        if target is None:
            return match[0]
        # A reader of the site knows pages by their titles.
        text = title_of(target) if re.fullmatch(r"[\w/]+\.md", match[2]) else match[2]
        return match[1] + text + match[3] + posixpath.relpath(in_site(target), here or ".") + match[5]
    return outside_fences(text, lambda part: LINK.sub(moved, part))


@functools.lru_cache(None)
def title_of(path):
    return re.match(r"# (.*)", (ROOT / path).read_text())[1]


def source_page(path):
    text = (ROOT / path).read_text()
    language = LANGUAGES.get(pathlib.PurePath(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {path}\n\n````{language}\n{text.rstrip()}\n````\n"


def on_files(files, config):
    linked = set()
    for name, text in pages().items():
        outside_fences(text, lambda part: linked.update(in_repository(name, match[4]) for match in LINK.finditer(part)) or "")
    for name, place in TOP.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text()))
    for path in sorted(linked - {None}):
        if in_site(path).startswith("files/"):
            files.append(File.generated(config, in_site(path), content=source_page(path)))
    api = pathlib.Path(os.environ["POLYAK_SITE_API"])
    for path in sorted(api.rglob("*")):
        if path.is_file():
            files.append(File.generated(config, f"api/{path.relative_to(api)}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    place = page.file.src_uri
    if place.startswith("files/"):
        return markdown
    name = next((name for name, there in TOP.items() if there == place), f"docs/{place}")
    if name == "README.md":  # its table of pages is the menu here
        markdown = re.sub(r"^## Documentation\n.*?(?=^## )", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return with_links(name, markdown)


def on_page_content(html, page, config, files):
    """Names such as --debug stay in one line; and the tables of keys can be styled on their own."""
    html = SHORT.sub(r'<code class="short">\1</code>', html)
    return f'<div class="keys">{html}</div>' if page.file.src_uri == "reference.md" else html
