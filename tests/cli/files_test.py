# SPDX-License-Identifier: Apache-2.0
"""The commands for files of weights: `polyak inspect` and `polyak convert`, and the mapping form of load_from.

Usage: files_test.py POLYAK [unittest arguments].
"""
import json
import sys
import unittest

import cli_test
from cli_test import CommandTest
from resume_test import BASE, EMA


class Files(CommandTest):
    """One run of two epochs, whose files all tests look at."""

    def setUp(self):
        super().setUp()
        self.config = self.write(BASE.replace("max_epochs: 3", "max_epochs: 2") + EMA)
        self.train(self.config, "--work-dir", "run")
        self.file = "run/epoch_2.pth"

    def inspect(self, *arguments):
        return json.loads(self.run_polyak("inspect", *arguments, "--format", "json").stdout)

    def refusal(self, *arguments, status):
        done = self.run_polyak(*arguments, status=status)
        return done.stderr

    def test_are_shown_compared_converted_and_loaded(self):
        text = self.run_polyak("inspect", self.file).stdout
        self.assertIn("written by Polyak", text)
        self.assertIn("weights at state_dict (averaged by CosineEMA, 12 steps): ", text)
        self.assertIn("weights at ema_state_dict (raw): ", text)
        self.assertIn("all finite", text)
        self.assertRegex(text, r"\n  backbone\.\S+ +float32 \[8, 1, 3, 3\]\n")
        shown = self.inspect(self.file)
        tensors = {weights["key"]: weights["tensors"] for weights in shown["weights"]}
        self.assertEqual(tensors["ema_state_dict"], tensors["state_dict"] + 1)  # its steps
        self.assertEqual(shown["content"]["meta"]["epoch"], 2)

        self.assertIn("equal, bit by bit; there are no others",
                      self.run_polyak("inspect", self.file, self.file).stdout)
        self.assertIn("common tensors differ", self.run_polyak("inspect", "run/epoch_1.pth", self.file).stdout)

        # Through each format and back: the same bits.
        for name, more in (("a.safetensors", []), ("a.pth", []), ("a.pt", ["--format", "archive"])):
            done = self.run_polyak("convert", self.file, name, *more)
            self.assertRegex(done.stdout, rf"^{name}: {tensors['state_dict']} tensors, [\d.]+ kB\n$")
            compared = self.inspect(self.file, name)
            self.assertEqual([compared[key] for key in ("missing", "extra", "other_shape")], [[], [], []])
            self.assertTrue(all(tensor["equal"] for tensor in compared["tensors"]), name)

        # Raw weights are what the average's entry holds.
        self.run_polyak("convert", self.file, "raw.safetensors", "--weights", "raw")
        self.run_polyak("convert", self.file, "entry.pth", "--key", "ema_state_dict")
        compared = self.inspect("raw.safetensors", "entry.pth")
        self.assertTrue(all(tensor["equal"] for tensor in compared["tensors"]))
        self.assertEqual(len(compared["tensors"]), tensors["state_dict"])

        self.run_polyak("convert", self.file, "half.safetensors", "--dtype", "bfloat16")
        compared = self.inspect(self.file, "half.safetensors")["tensors"]
        self.assertEqual({tensor.get("dtypes") for tensor in compared}, {"float32, bfloat16", None})
        self.assertLess(max(tensor["relative"] for tensor in compared), 0.005)

        # A run starts from them, and the accuracy of a test is that of the checkpoint.
        accuracy = self.run_polyak("test", self.config, self.file).stdout.splitlines()[0]
        self.assertEqual(self.run_polyak("test", self.config, "a.safetensors").stdout.splitlines()[0], accuracy)
        more = BASE + "load_from: {path: a.safetensors, prefix: {map: {'backbone.': a_, 'head.': b_}}}\n"
        self.assertIn("none of it fits the model",
                      self.refuse_with_lines("train", self.write(more, "wrong.yaml"), "--work-dir", "other"))
        more = BASE + "load_from: {path: a.safetensors, exclude: ['head.*']}\n"
        done = self.train(self.write(more, "part.yaml"), "--work-dir", "part")
        self.assertIn("missing in the checkpoint: head.fc.weight, head.fc.bias", done.stderr)

    def refuse_with_lines(self, *arguments):
        done = self.run_polyak(*arguments, status=1)
        self.assertIn("in the model", done.stderr)
        return done.stderr

    def test_and_choices_that_are_wrong_are_told_in_one_line(self):
        self.assertIn("add --format pth, safetensors or archive",
                      self.refusal("convert", self.file, "a.pt", status=2))
        self.assertIn("would be replaced by its own conversion",
                      self.refusal("convert", self.file, self.file, status=2))
        self.assertIn("holds no weights 'slow'; it holds raw, averaged",
                      self.refusal("convert", self.file, "a.pth", "--weights", "slow", status=1))
        self.assertIn("there is no key 'modle'",
                      self.refusal("convert", self.file, "a.pth", "--key", "modle", status=1))
        self.assertIn("give one of them",
                      self.refusal("convert", self.file, "a.pth", "--key", "x", "--weights", "raw", status=2))
        self.assertIn("is neither a file nor a key map of Polyak; those are",
                      self.refusal("convert", self.file, "a.pth", "--map", "tim_vit", status=2))
        self.assertIn("renames none of the file's tensors",
                      self.refusal("convert", self.file, "a.pth", "--map", "timm_vit", status=1))
        self.assertIn("none.pth: cannot be read", self.refusal("inspect", "none.pth", status=1))
        keyed = self.write(BASE + f"load_from: {{path: {self.file}, key: state_dict}}\nresume: true\n", "key.yaml")
        self.assertIn("load_from: key, prefix and exclude choose weights for a new run",
                      self.refusal("train", keyed, "--work-dir", "new", status=2))
        self.assertIn("did you mean 'prefix'?",
                      self.refusal("train", self.write(BASE + f"load_from: {{path: {self.file}, prefx: 1}}\n",
                                                       "typo.yaml"), status=2))
        self.assertFalse((self.folder / "a.pth").exists())


if __name__ == "__main__":
    cli_test.POLYAK = sys.argv[1]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
