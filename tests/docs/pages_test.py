# SPDX-License-Identifier: Apache-2.0
"""Every block of the pages: YAML is checked by `polyak check --static`, commands have existing names and options, and are
run where that costs nothing, C++ is quoted from programs that tests build, Python compiles.

Usage: pages_test.py POLYAK ROOT EXAMPLES [unittest arguments]: the command, the source tree, where the plugins of
docs/examples were built.

What stands before a block may say more:
  <!-- quote: FILE PART -->   docs/quote_examples.py compares it
  <!-- file: NAME -->         the block is this file, which later blocks of the page may name
  <!-- output -->             the block is what the last command of the block before it prints
  <!-- not run: REASON -->    it is none of these
"""
import ast
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import yaml

POLYAK = ROOT = EXAMPLES = None

BLOCK = re.compile(r"(?:^<!-- (?P<marker>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
                   re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:\A|\n)\n((?:    [^\n]*\n)+)")

# What a fragment is merged into; one that has a model takes no part of this one.
MODEL = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4, 8]}
  head: {type: LinearClsHead, num_classes: 4}
"""
REST = """
train_dataloader:
  batch_size: 16
  dataset: {type: RandomImages, size: 64, num_classes: 4}
val_dataloader:
  batch_size: 64
  dataset: {type: RandomImages, size: 64, num_classes: 4, seed: 1}
val_evaluator: {type: Accuracy}
train_cfg: {by_epoch: true, max_epochs: 3}
optim_wrapper:
  optimizer: {type: SGD, lr: 0.05}
"""
ATTACH_KEYS = {"max_iters", "output_dir", "every", "names", "siblings", "streams", "format", "every_rank"}
LETTERS = {"d": "0.999", "p": "0.75", "u": "10", "n": "5"}  # what tables write for any number


class Block:
    def __init__(self, page, line, marker, language, text):
        self.page, self.marker, self.language, self.text = page, marker or "", language, text
        self.place = f"{page.relative_to(ROOT)}:{line}"

    def says(self, word):
        return self.marker.startswith(word)


def pages():
    return [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks_of(page):
    text = page.read_text()
    found = [Block(page, text.count("\n", 0, match.start("text")), match["marker"], match["language"], match["text"])
             for match in BLOCK.finditer(text)]
    # The README has its commands indented, which takes fewer lines.
    for match in INDENTED.finditer(BLOCK.sub(lambda m: "\n" * m[0].count("\n"), text)):
        found.append(Block(page, text.count("\n", 0, match.start(1)) + 1, "", "indented", match[1]))
    return found


def run(*arguments, cwd=None):
    return subprocess.run([str(argument) for argument in arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def in_parallel(function, items):
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        return list(threads.map(function, items))


def options_of_commands():
    """{subcommand: its options}, as the manual pages have them; "" is what stands before a subcommand."""
    with tempfile.TemporaryDirectory() as folder:
        done = run(POLYAK, "man", "--folder", folder)
        assert done.returncode == 0, done.stderr
        pages_of = {path.stem.partition("-")[2]: path.read_text().replace("\\-", "-") for path in pathlib.Path(folder).glob("*.1")}
    return {name: set(re.findall(r"\\fB(--?[a-z][a-z-]*)", text)) for name, text in pages_of.items()}


def commands_of(text):
    """The lines of a shell block, joined and without comments and explanations behind them."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*| {3,}\S.*$", "", line).strip()
        if line:
            yield line


class Pages(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.options = options_of_commands()
        cls.blocks = [block for page in pages() for block in blocks_of(page)]

    def test_there_is_a_language_or_a_reason(self):
        known = {"cpp", "yaml", "sh", "python", "cmake", "text", "indented"}
        self.assertGreater(len(self.blocks), 60)
        for block in self.blocks:
            with self.subTest(block.place):
                self.assertIn(block.language, known)
                if block.says("not run:"):
                    self.assertGreater(len(block.marker), len("not run: ") + 10, "a reason")
                elif block.language in ("cpp", "cmake"):
                    self.assertTrue(block.says("quote:"), "C++ and CMake are quoted from docs/examples, or say why not")
                elif block.language == "indented":
                    self.assertEqual(block.page.name, "README.md", "fence it, and name the language")

    # YAML

    def write_config(self, block, folder):
        """Makes the block a config that can be checked; returns its arguments of the command."""
        text = block.text
        plugins = re.findall(r"\./build/lib(\w+)\.so", text)
        for name in plugins:
            text = text.replace(f"./build/lib{name}.so", f"{EXAMPLES}/lib{ {'my_hooks': 'hook_plugin', 'my_averages': 'average_plugin'}[name] }.so")
        named = re.fullmatch(r"file: (\S+)", block.marker)
        tree = yaml.safe_load(text) or {}  # a comment alone is nothing
        path = folder / (named[1] if named else f"block_{block.place.replace('/', '_').replace(':', '_')}.yaml")
        if set(tree) == {"pipeline"}:
            text = "train_dataloader:\n  dataset:\n" + "".join(f"    {line}\n" for line in text.splitlines())
        if ATTACH_KEYS & set(tree):
            path.write_text(text)
            return ["attach", path, "--", POLYAK, "--version"]
        if "_base_" not in tree and not {"model", "train_dataloader", "optim_wrapper"} <= set(tree):
            text = f"_base_: {'rest' if 'model' in tree else 'base'}.yaml\n" + text
        (folder / "net.pt").touch()
        path.write_text(text)
        return ["check", "--static", path]

    @staticmethod
    def has_hooks_only(block):
        if block.language != "yaml" or block.marker:
            return False
        tree = yaml.safe_load(block.text) or {}
        return set(tree) == {"custom_hooks"} and all(
            hook["type"] == "EMAHook" and "name" not in hook and "averages" not in hook for hook in tree["custom_hooks"])

    def test_yaml_is_what_the_command_takes(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "rest.yaml").write_text(REST)
            (folder / "base.yaml").write_text(MODEL + REST)
            jobs = []
            for block in self.blocks:
                if block.language != "yaml" or block.says("not run:") or block.says("quote:") or self.has_hooks_only(block):
                    continue
                if set(yaml.safe_load(block.text) or {}) >= {"signature", "rules"}:
                    self.expect_key_map(block)
                    continue
                jobs.append((block, self.write_config(block, folder)))
            self.assertGreater(len(jobs), 15)
            for (block, arguments), done in zip(jobs, in_parallel(lambda job: run(POLYAK, *job[1], cwd=folder), jobs)):
                with self.subTest(block.place):
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertNotIn("WARNING", done.stderr)

    def expect_key_map(self, block):
        shown = yaml.safe_load(block.text)
        shipped = yaml.safe_load((ROOT / "configs/key_maps" / f"{shown['name']}.yaml").read_text())
        with self.subTest(block.place):
            self.assertLessEqual(set(shown), set(shipped))
            for key in ("rules", "unseen", "signature"):
                for item in shown[key]:
                    self.assertIn(item, shipped[key])

    def test_hooks_of_blocks_and_recipes_in_tables(self):
        """Blocks of EMAHooks alone, and `ema_type: NAME, key: value` in a sentence or a table, which is what stands behind
        `type: EMAHook`: all in one config, since a process takes longer than a check."""
        recipes = {}
        for block in self.blocks:
            if self.has_hooks_only(block):
                for hook in yaml.safe_load(block.text)["custom_hooks"]:
                    recipes[json.dumps({key: value for key, value in hook.items() if key != "type"})[1:-1]] = block.place
        for page in pages():
            for text in re.findall(r"`((?:ema_type|momentum|decay|averages): [^`\n]*)`", BLOCK.sub("", page.read_text())):
                filled = re.sub(r"(: )([dpun])\b(?!\w)", lambda m: m[1] + LETTERS[m[2]], text)
                if "," in filled or filled.startswith(("ema_type", "averages")):
                    recipes.setdefault(filled, f"{page.name}: {text}")
        self.assertGreater(len(recipes), 12)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "rest.yaml").write_text(REST)
            (folder / "base.yaml").write_text(MODEL + REST)
            lines = ["_base_: base.yaml", "custom_hooks:"]
            for number, recipe in enumerate(recipes):
                names = "" if "averages:" in recipe else f", name: r{number}"
                length = ", max_iters: 100" if "CosineEMA" in recipe and "max_iters" not in recipe else ""
                if "averages:" in recipe:
                    recipe = recipe.replace("averages: [{", "averages: [{name: first, ", 1)
                lines.append(f"  - {{type: EMAHook, {recipe}{names}{length}}}")
            # Other hooks in sentences.
            for page in pages():
                for text in re.findall(r"`(\{type: (?!EMAHook)\w+Hook, [^`]*\})`", BLOCK.sub("", page.read_text())):
                    if "..." not in text:
                        lines.append(f"  - {' '.join(text.split())}")
            config = folder / "recipes.yaml"
            config.write_text("\n".join(lines))
            done = run(POLYAK, "check", "--static", config)
            self.assertEqual(done.returncode, 0, f"{done.stderr}\n{list(recipes.values())}")

    # Commands

    def expect_command(self, place, line):
        """`polyak SUB --option ...` anywhere in a line: the names exist."""
        for match in re.finditer(r"(?:^|(?<=[\s;&|]))polyak(?=\s|$)(.*)", line):
            words = match[1].split()
            if not words:
                continue
            with self.subTest(place, line=line):
                while words and words[0] in ("--debug", "[--debug]"):
                    words.pop(0)
                name = words[0] if re.fullmatch(r"[a-z]+", words[0]) else ""
                self.assertIn(name, self.options, "no such subcommand")
                rest = " ".join(words).split(" -- ")[0]
                for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?![\w-])", rest):
                    self.assertIn(option, self.options[name])
                for config in re.findall(r"(?<![\w/.])configs/\S+\.yaml", rest):
                    self.assertTrue((ROOT / config).exists(), config)

    def test_commands_have_existing_names_and_options(self):
        presets = {preset["name"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}
        others = {"cmake", "cd", "export", "mpirun", "torchrun", "srun", "RANK=1", "RANK=0", "#!/bin/bash", "torchrun",
                  "python3", "pip", "git", "ctest"}
        seen = 0
        for block in self.blocks:
            if block.language not in ("sh", "indented") or block.says("not run:"):
                continue
            for line in commands_of(block.text):
                seen += 1
                word = line.split()[0]
                with self.subTest(block.place, line=line):
                    script = ROOT / word
                    if word == "polyak" or word.startswith("build/"):
                        pass
                    elif script.is_file():
                        text = script.read_text()
                        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line):
                            self.assertIn(option, text)
                    elif word == "python3" and (ROOT / line.split()[1]).is_file():
                        pass
                    elif word == "python3" and line.split()[1] in ("-m", "train.py"):
                        pass
                    elif word in others or line.startswith("BUILD/"):
                        for preset in re.findall(r"--preset (\S+)", line):
                            self.assertIn(preset, presets)
                    else:
                        self.fail("not a command that this test knows")
                self.expect_command(block.place, line)
        self.assertGreater(seen, 50)

    def test_commands_in_sentences(self):
        for page in pages():
            for text in re.findall(r"`(polyak [^`]*)`", BLOCK.sub("", page.read_text())):
                self.expect_command(page.name, " ".join(text.split()))

    def test_commands_that_cost_nothing_run(self):
        """What only prints is run; of what trains a shipped config, the config and its options are checked."""
        lines = {line for block in self.blocks if block.language in ("sh", "indented") for line in commands_of(block.text)}
        for page in pages():
            lines |= {" ".join(text.split()) for text in re.findall(r"`(polyak [^`]*)`", BLOCK.sub("", page.read_text()))}
        commands = {}
        for line in lines:
            words = re.sub(r"(>|\|) .*", "", line).split()
            if words[0] != "polyak" or len(words) < 2:
                continue
            if words[1] in ("list", "describe", "schema", "plot", "init", "--version"):
                if not any(re.search(r"\b[A-Z]{4,}\b|\.\.\.|\[", word) for word in words) and (len(words) > 2 or words[1] in (
                        "list", "schema", "init", "--version")):
                    commands[line] = words[1:]
            elif words[1] == "train" and words[2:] and words[2].startswith("configs/"):
                options = words[words.index("--cfg-options"):] if "--cfg-options" in words else []
                commands[line] = ["check", "--static", words[2], *(re.sub("=N$", "=1", option) for option in options)]
        self.assertGreater(len(commands), 8)
        with tempfile.TemporaryDirectory() as folder:  # for what they write
            for name in ("configs", "docs"):
                (pathlib.Path(folder) / name).symlink_to(ROOT / name)
            runs = in_parallel(lambda words: run(POLYAK, *words, cwd=folder), commands.values())
            for line, done in zip(commands, runs):
                with self.subTest(line):
                    self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_quickstart_lists_every_command(self):
        rows = re.findall(r"(?m)^\| (`polyak .*?) \|", (ROOT / "docs/quickstart.md").read_text())
        listed = set(re.findall(r"`polyak ([a-z]+)", "".join(rows)))
        self.assertEqual(listed, set(self.options) - {""})

    def test_outputs_are_what_the_command_prints(self):
        found = 0
        for before, block in zip(self.blocks, self.blocks[1:]):
            if not block.says("output"):
                continue
            found += 1
            with self.subTest(block.place):
                command = list(commands_of(before.text))[-1].split()
                self.assertEqual(command[0], "polyak")
                self.assertEqual(run(POLYAK, *command[1:]).stdout.strip(), block.text.strip())
        self.assertGreater(found, 0)

    # The rest

    def test_python_compiles(self):
        for block in self.blocks:
            if block.language == "python":
                with self.subTest(block.place):
                    ast.parse(block.text)

    def test_messages_in_tables_are_those_of_the_sources(self):
        """Three words in sequence of each message stand in a string of the sources, as a message that is gone does not."""
        strings = []
        for place in ("plugin", "hooks", "CMakeLists.txt", "cmake"):
            top = ROOT / place
            for path in [top] if top.is_file() else [p for p in top.rglob("*") if p.suffix in (".cpp", ".h", ".cmake")]:
                # Strings that the compiler puts together.
                strings.append(re.sub(r'"\s*\n\s*"', "", path.read_text()).replace('\\"', '"'))
        strings = "\n".join(strings)
        for name, heading in (("troubleshooting.md", "## Messages of a run"), ("write_a_hook.md", "## What the loader refuses"),
                              ("torchscript.md", "## Messages")):
            part = (ROOT / "docs" / name).read_text().split(heading)[1].split("\n## ")[0]
            rows = [row for row in re.findall(r"(?m)^\|(.*)\|$", part) if "`" in row]
            self.assertGreater(len(rows), 4)
            for row in rows:
                cell = next(cell for cell in row.split(" | ") if "`" in cell)
                words = [re.split(r"[\s:;]+", message) for message in re.findall(r"`([^`]+)`", cell)]
                runs = [" ".join(line[i:i + 3]) for line in words for i in range(max(1, len(line) - 2))]
                with self.subTest(name, message=cell.strip()):
                    self.assertTrue(any(run in strings for run in runs if len(run) > 8), "no source says three words of this")


if __name__ == "__main__":
    POLYAK, ROOT, EXAMPLES = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(3))
    unittest.main()
