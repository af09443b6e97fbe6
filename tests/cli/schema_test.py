# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema that `polyak schema` prints, by a validator that knows nothing of Polyak; and the blocks of YAML that
`polyak describe --format yaml` prints.

Usage: schema_test.py POLYAK CONFIGS WRONG_CONFIGS [unittest arguments]. Needs Debian's python3-jsonschema and
python3-yaml.
"""
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import jsonschema
import yaml

POLYAK = CONFIGS = WRONG_CONFIGS = None


class CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, as Polyak reads it: yes is a string, 1e-3 a number."""
    yaml_implicit_resolvers = {}


for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
         list("-+0123456789."))):
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)
CoreLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("^<<$"), ["<"])


def load(text):
    return yaml.load(text, CoreLoader)


def run(*arguments, status=0):
    done = subprocess.run([POLYAK, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if done.returncode != status:
        raise AssertionError(f"{arguments} ended with status {done.returncode}\n{done.stderr}")
    return done.stdout


def run_all(commands):
    """The outputs of several commands, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda arguments: run(*arguments), commands))


class Schema(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.schema = json.loads(run("schema"))
        cls.validator = jsonschema.Draft202012Validator(cls.schema)

    def errors(self, config):
        return [f"{error.json_path}: {error.message[:200]}" for error in self.validator.iter_errors(config)]

    def test_is_valid_and_has_all_that_it_refers_to(self):
        jsonschema.Draft202012Validator.check_schema(self.schema)
        references = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(self.schema)))
        self.assertEqual(references - set(self.schema["$defs"]), set())
        self.assertNotIn(None, self.schema["$defs"].values())

    def test_accepts_each_shipped_config_as_it_is_and_resolved(self):
        files = sorted(CONFIGS.glob("*.yaml"))
        self.assertGreater(len(files), 10)
        resolved = run_all([("check", "--static", path) for path in files])
        for path, text in zip(files, resolved):
            self.assertEqual(self.errors(load(path.read_text())), [], path)
            self.assertEqual(self.errors(load(text)), [], path)
            self.assertNotIn("_base_", text)

    def test_is_beside_the_shipped_configs_which_name_it_for_editors(self):
        self.assertEqual((CONFIGS / "polyak.schema.json").read_text(), run("schema"),
                         "not up to date; run `polyak schema > configs/polyak.schema.json`")
        for path in sorted(CONFIGS.glob("*.yaml")):
            first = path.read_text().splitlines()[0]
            self.assertEqual(first, "# yaml-language-server: $schema=polyak.schema.json", path)

    def test_requires_nothing_where_a_base_stands_and_all_of_it_elsewhere(self):
        self.assertEqual(self.errors({"_base_": "a.yaml"}), [])
        self.assertEqual(self.errors({"_base_": ["a.yaml"], "optim_wrapper": {"optimizer": {"lr": 0.1}}}), [])
        self.assertEqual(len(self.errors({})), 1)
        whole = {"model": {"type": "ImageClassifier", "backbone": {"type": "MLP"}, "head": {"type": "LinearClsHead"}}}
        self.assertEqual(self.errors(whole), [])
        del whole["model"]["head"]
        self.assertIn("'head' is a required property", self.errors(whole)[0])

    def test_refuses_the_wrong_configs_that_a_schema_can_refuse(self):
        cases = WRONG_CONFIGS.read_text().split("\n#### ")[2:]
        self.assertGreaterEqual(len(cases), 60)
        refused = 0
        for case in cases:
            title, text = case.split("\n", 1)
            text = text.split("== c.yaml\n", 1)[1].split("\n== ", 1)[0].split("==> text", 1)[0]
            try:
                config = load(text)
            except yaml.YAMLError:
                self.assertNotIn("[schema]", title)
                continue
            errors = self.errors(config) if isinstance(config, dict) else []
            self.assertEqual(bool(errors), title.endswith("[schema]"), f"{title}\n{text}{errors}")
            refused += bool(errors)
        self.assertGreaterEqual(refused, 45)

    def test_takes_the_scopes_of_mmengine(self):
        hook = {"_base_": "a.yaml", "custom_hooks": [{"type": "mmpretrain.EMAHook", "momentum": 0.1}]}
        self.assertEqual(self.errors(hook), [])
        hook["custom_hooks"][0]["momentm"] = 0.1
        self.assertNotEqual(self.errors(hook), [])


class Blocks(unittest.TestCase):
    HOOKS = ("CheckpointHook", "LoggerHook", "PostHocEMAHook", "CosineEMA", "SlidingWindowAverage", "WarmupEMA")

    def test_can_be_pasted(self):
        texts = run_all([("describe", name, "--format", "yaml") for name in self.HOOKS])
        for text in texts:
            for line in text.splitlines():
                self.assertLessEqual(len(line), 100)
        hooks = [load(text) for text in texts]
        with tempfile.TemporaryDirectory(prefix="polyak_schema_") as folder:
            config = pathlib.Path(folder) / "config.yaml"
            base = sorted(CONFIGS.glob("fashion*.yaml"))[0].resolve()
            config.write_text(f"_base_: {base}\ncustom_hooks:\n" + "".join(
                "  - " + text.strip().replace("\n", "\n    ") + "\n" for text in texts))
            resolved = load(run("check", "--static", config))
        self.assertEqual(resolved["custom_hooks"], hooks)

    def test_show_each_key_with_its_default_and_its_sentence(self):
        text = run("describe", "AdamW", "--format", "yaml")
        self.assertTrue(text.startswith("# optimizer: Adam with decoupled weight decay.\ntype: AdamW\n"), text)
        self.assertIn("# Decay rates of the running averages of gradients and of their squares. Must be in [0, 1).\n"
                      "betas: [0.9, 0.999]\n", text)
        text = run("describe", "SGD", "--format", "yaml")
        self.assertIn("# Required. Learning rate. Must be at least 0.\nlr:\n", text)


if __name__ == "__main__":
    POLYAK, CONFIGS, WRONG_CONFIGS = sys.argv[1], *map(pathlib.Path, sys.argv[2:4])
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
