# SPDX-License-Identifier: Apache-2.0
"""Makes the site of docs/ with mkdocs-material: build/site, with the API documentation in build/site/api.

Usage: make_site.py           builds it; afterwards: python3 -m http.server -d build/site
       make_site.py --check   the same in a folder that is removed
       --api FOLDER           what docs/make_api.py has written, such as build/api; without it Doxygen runs

Ends with 1 where a link, an anchor, a picture or a page of the menu is missing, and where a page would fetch something
from the network. The network is only used to install mkdocs-material into build/site-env (.ci/setup.sh), once.
"""
import argparse
import html.parser
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(*command, **keywords):
    """Runs a command, whose words matter where it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **keywords)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{' '.join(command[:3])} ... ended with {done.returncode}")


class Page(html.parser.HTMLParser):
    """What a page links to, what it fetches, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.links, self.fetches, self.anchors, self.path = [], [], set(), path
        self.feed(path.read_text(errors="replace"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for key in ("id", "name"):
            self.anchors.add(attributes.get(key))
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.fetches.append(attributes.get("href"))
        elif tag in ("script", "img", "iframe", "source", "object"):
            self.fetches.append(attributes.get("src") or attributes.get("data"))


def problems_of(site):
    """What is wrong in the pages that are written. MkDocs has compared links in Markdown; this also sees what hooks and
    themes add."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html") if "api" not in path.relative_to(site).parts}
    for path, page in pages.items():
        here = path.relative_to(site.resolve())
        if here.name == "404.html":  # its links start at the top of a server
            continue
        for fetched in filter(None, page.fetches):
            if re.match(r"https?:|//", fetched):
                yield f"{here}: would fetch {fetched}"
        for link in [*page.links, *filter(None, page.fetches)]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                yield f"{here}: {link} is missing"
            elif parts.fragment and target in pages and urllib.parse.unquote(parts.fragment) not in pages[target].anchors:
                yield f"{here}: {link}: there is no such anchor"
        # A list or a table right below a sentence is one on GitHub, but not here.
        for text in re.findall(r"<p>(.*?)</p>", path.read_text(), re.DOTALL):
            if re.search(r"\n(- |\d+\. |\|)", text):
                yield f"{here}: a list or table needs a blank line before it: {text[:60]!r}"


def prove():
    """A check that finds nothing must be able to find something."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "a.html").write_text('<a href="b.html">b</a> <a href="#c">c</a> <script src="https://example.org/d.js"></script>'
                                       '<p>a sentence\n- a list</p>')
        if len(list(problems_of(folder))) != 4:
            sys.exit("the check does not see what is wrong in a page")


def build(site, api):
    if api is None:
        api = ROOT / "build" / "api"
        run(sys.executable, "docs/make_api.py", str(api))
    run("bash", "-c", "source .ci/setup.sh && install_site")
    # Not quiet: what is not logged is not counted, and `strict` counts warnings.
    run(str(ROOT / "build/site-env/bin/python"), "-m", "mkdocs", "build", "--clean", "-f", "docs/site/mkdocs.yml", "-d", str(site),
        env={**os.environ, "POLYAK_SITE_API": str(api.resolve() / "html"), "NO_MKDOCS_2_WARNING": "1"})
    found = sorted(set(problems_of(site)))
    if found:
        sys.exit("\n".join(found) + f"\n{len(found)} problems")
    print(f"{sum(1 for _ in site.rglob('*.html'))} pages, and no link is broken")


def main():
    parser = argparse.ArgumentParser(description="Makes the site of docs/.")
    parser.add_argument("--check", action="store_true", help="build into a folder that is removed")
    parser.add_argument("--api", type=pathlib.Path, help="what docs/make_api.py has written")
    arguments = parser.parse_args()
    if arguments.check:
        prove()
        with tempfile.TemporaryDirectory() as folder:
            build(pathlib.Path(folder) / "site", arguments.api)
    else:
        build(ROOT / "build" / "site", arguments.api)


if __name__ == "__main__":
    main()
