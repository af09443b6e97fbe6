# SPDX-License-Identifier: Apache-2.0
"""`polyak average`: averages of files, greedy soups, and averages of a run's snapshots.

Usage: average_test.py POLYAK [unittest arguments].
"""
import array
import json
import math
import pathlib
import re
import shutil
import struct
import sys
import unittest

import cli_test
from cli_test import CommandTest
from resume_test import BASE

POWER = "{type: EMAHook, name: w%g, ema_type: PowerFunctionEMA, sigma_rel: %g, update_buffers: true, evaluate_on_ema: false}"
WIDTHS = (0.03, 0.07, 0.20)
POST_HOC = f"""
custom_hooks:
  - {{type: PostHocEMAHook, every: 2%}}
  - {POWER % (WIDTHS[0], WIDTHS[0])}
  - {POWER % (WIDTHS[1], WIDTHS[1])}
  - {POWER % (WIDTHS[2], WIDTHS[2])}
"""


def read_safetensors(path):
    """{name: floats} of the float32 tensors of a file, and its metadata."""
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "F32":
            tensors[name] = array.array("f", data[begin:end])
    return tensors, metadata


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for name, values in a.items() for x, y in zip(values, b[name])))


class AverageTest(CommandTest):
    def refusal(self, *arguments, status):
        done = self.run_polyak("average", *arguments, status=status)
        lines = [line for line in done.stderr.splitlines() if line.startswith("polyak: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        return lines[0]

    def read(self, name):
        return read_safetensors(self.folder / name)


class Files(AverageTest):
    """One run of four epochs, whose files all tests average."""

    def setUp(self):
        super().setUp()
        self.config = self.write(BASE.replace("max_epochs: 3", "max_epochs: 4") +
                                 "custom_hooks: [{type: EMAHook, momentum: 0.1}]\n")
        self.train(self.config, "--work-dir", "run")
        self.files = [f"run/epoch_{i}.pth" for i in (4, 2, 1, 3)]

    def raw(self, i):
        self.run_polyak("convert", f"run/epoch_{i}.pth", f"raw_{i}.safetensors", "--weights", "raw")
        return self.read(f"raw_{i}.safetensors")[0]

    def test_are_averaged_by_weights_shapes_and_rules(self):
        done = self.run_polyak("average", *self.files, "-o", "mean.safetensors", "--weights", "raw")
        self.assertIn("4 files, ordered by meta.iter:", done.stdout)
        self.assertEqual(re.findall(r"^ +(\d+) +0\.25  run/epoch_(\d)\.pth$", done.stdout, re.M),
                         [("6", "1"), ("12", "2"), ("18", "3"), ("24", "4")])
        self.assertRegex(done.stdout, r"mean\.safetensors: \d+ tensors, [\d.]+ kB, the mean of 4 files\n$")
        raw = [self.raw(i) for i in (1, 2, 3, 4)]
        mean, metadata = self.read("mean.safetensors")
        expected = {name: [sum(values) / 4 for values in zip(*(one[name] for one in raw))] for name in mean}
        self.assertLess(distance(mean, expected), 1e-6)
        made = json.loads(metadata["averaged"])
        self.assertEqual((made["by"], made["weights"], made["steps"]), ("the mean", "raw", [6, 12, 18, 24]))

        # Explicit weights, and the same as a shape: two files of minus_sqrt.
        ends = ["run/epoch_1.pth", "run/epoch_4.pth"]
        root = math.sqrt(0.5)
        self.run_polyak("average", *ends, "-o", "a.safetensors", "--weights", "raw", "--shape", "minus_sqrt")
        self.run_polyak("average", f"{ends[0]}:{root}", f"{ends[1]}:{1 - root}", "-o", "b.safetensors", "--weights",
                        "raw")
        a, b = self.read("a.safetensors")[0], self.read("b.safetensors")[0]
        self.assertLess(distance(a, b), 1e-6)
        expected = {name: [root * x + (1 - root) * y for x, y in zip(raw[0][name], raw[3][name])] for name in a}
        self.assertLess(distance(a, expected), 1e-6)
        done = self.run_polyak("average", f"{ends[0]}:3", f"{ends[1]}:1", "-o", "c.pth", "--weights", "raw",
                               "--normalize")
        self.assertEqual(done.stderr, "")
        self.assertIn(" 0.75  run/epoch_1.pth", done.stdout)

        # A rule, updated with one file after the other.
        self.run_polyak("average", *self.files, "-o", "ema.safetensors", "--weights", "raw", "--type",
                        "ExponentialMovingAverage", "--set", "momentum=0.5")
        expected = {name: [w / 8 + x / 8 + y / 4 + z / 2 for w, x, y, z in zip(*(one[name] for one in raw))]
                    for name in mean}
        self.assertLess(distance(self.read("ema.safetensors")[0], expected), 1e-6)

        # What comes out is a checkpoint: it is tested, trained from, and averaged again.
        self.run_polyak("average", *self.files, "-o", "mean.pth", "--weights", "averaged", "--dtype", "float16")
        self.assertRegex(self.run_polyak("test", self.config, "mean.pth").stdout, r"^accuracy: ")
        self.train(self.config, "--work-dir", "next", "--load-from", "mean.safetensors")
        self.run_polyak("average", "mean.pth", "mean.safetensors", "-o", "again.pth")
        content = json.loads(self.run_polyak("inspect", "mean.pth", "--format", "json").stdout)["content"]
        self.assertEqual(content["meta"]["averaged"]["by"], "the mean")

    def test_are_chosen_by_a_greedy_soup(self):
        done = self.run_polyak("average", *self.files, "-o", "soup.pth", "--weights", "raw", "--greedy", "--config",
                               self.config, "--metric", "accuracy")
        rows = re.findall(r"^ +([\d.]+) +(\S+) +(added|left out) +run/epoch_(\d)\.pth$", done.stdout, re.M)
        self.assertEqual(len(rows), 4, done.stdout)
        alone = [float(row[0]) for row in rows]
        self.assertEqual(alone, sorted(alone, reverse=True))
        best, added = alone[0], 1
        for _, together, verdict, _ in rows[1:]:
            self.assertEqual(verdict == "added", float(together) >= best)
            if verdict == "added":
                best, added = float(together), added + 1
        self.assertIn(f"the greedy soup of {added} files", done.stdout)
        measured = self.run_polyak("test", self.config, "soup.pth").stdout
        self.assertAlmostEqual(float(measured.split(": ")[1]), best, places=3)
        self.assertFalse((self.folder / "work_dirs").exists() and any((self.folder / "work_dirs").rglob("*.pth")))

    def test_and_wrong_uses_are_told_in_one_line(self):
        one, two = "run/epoch_1.pth", "run/epoch_2.pth"
        out = ("-o", "out.pth")
        for arguments, says in (
                ((one, two), "-o is missing"),
                ((one, two, "-o", "out"), "add --format pth or safetensors"),
                ((one, two, "-o", one), "would be replaced by the average"),
                ((one, two, *out), "holds raw, averaged weights; choose with --weights raw or --weights averaged"),
                ((one, one, *out), "is given twice"),
                ((f"{one}:1", two, *out), f"{two} has no weight"),
                ((f"{one}:1", f"{two}:nan", *out), "its weight is nan"),
                ((f"{one}:1", f"{two}:-1", *out, "--normalize"), "cannot be normalized"),
                ((one, two, *out, "--normalize"), "write FILE:WEIGHT"),
                ((f"{one}:1", *out, "--shape", "linear"), "use one of them"),
                ((one, *out, "--type", "ExponentialMovingAvrage"), "did you mean 'ExponentialMovingAverage'?"),
                ((one, *out, "--type", "CosineEMA", "--set", "momentm=1"), "did you mean 'momentum'?"),
                ((one, *out, "--type", "CosineEMA", "--set", "momentum=2"), "--set momentum=2: momentum"),
                ((one, *out, "--type", "PowerFunctionEMA"), "sigma_rel: is required, or gamma"),
                ((one, *out, "--set", "momentum=1"), "add --type"),
                ((one, *out, "--type", "CosineEMA", "--set", "momentum"), "must have the form key=value"),
                ((one, *out, "--key", "a", "--weights", "raw"), "give one of them"),
                ((one, *out, "--metric", "accuracy"), "--metric is only for --greedy and --sweep"),
                ((one, *out, "--greedy"), "--greedy needs --config"),
                ((one, *out, "--greedy", "--type", "CosineEMA"), "--type does not go with --greedy"),
                ((one, *out, "--weights", "raw", "--greedy", "--config", self.config, "--metric", "acuracy"),
                 "did you mean 'accuracy'?"),
                ((f"{one}:1", *out, "--greedy", "--config", self.config, "--metric", "accuracy"),
                 "do not go with --greedy"),
                ((one, *out, "--step", "3"), "--step does not go with files"),
                (("run", *out, "--post-hoc", "sigma=0.1"), "must be sigma_rel=S"),
                (("run", *out, "--post-hoc", "sigma_rel=0.5"), "at most 0.2887"),
                (("run", two, *out, "--post-hoc", "sigma_rel=0.1"), "takes one folder"),
                (("run", *out, "--post-hoc", "sigma_rel=0.1", "--type", "CosineEMA"), "does not go with --post-hoc"),
                (("run", *out, "--sweep", "0.1:0.2"), "needs --config"),
                (("run", *out, "--sweep", "0.2:0.1:3", "--config", self.config, "--metric", "accuracy"),
                 "must be A:B:N"),
        ):
            self.assertIn(says, self.refusal(*arguments, status=2), arguments)
        self.run_polyak("average", one, *out, "--order", "time", status=2)
        other = self.write(BASE.replace("[8, 16]", "[8, 12]"), "other.yaml")
        self.train(other, "--work-dir", "other", "--cfg-options", "train_cfg.max_epochs=1")
        for arguments, says in (
                ((one, "other/epoch_1.pth", *out, "--weights", "raw"), "of another shape: backbone."),
                ((one, "none.pth", *out, "--weights", "raw"), "none.pth: cannot be read"),
                (("run", *out, "--post-hoc", "sigma_rel=0.1"), "run: holds no snapshots"),
                ((one, *out, "--weights", "slow"), "holds no weights 'slow'"),
        ):
            self.assertIn(says, self.refusal(*arguments, status=1), arguments)
        self.assertFalse((self.folder / "out.pth").exists())


class PostHoc(AverageTest):
    """Runs with a PostHocEMAHook, and beside it the averages of other widths that training keeps."""

    CONFIG = BASE.replace("max_epochs: 3", "max_epochs: 50").replace("val_dataloader: {batch_size: 16",
                                                                      "val_dataloader: {batch_size: 64")
    VAL = ("--cfg-options", "train_cfg.val_interval=50", "default_hooks.checkpoint.type=CheckpointHook",
           "default_hooks.checkpoint.interval=25")

    def test_gives_the_average_of_a_width_as_training_keeps_it(self):
        config = self.write(self.CONFIG + POST_HOC)
        self.train(config, "--work-dir", "run", *self.VAL)
        snapshots = sorted(path.name for path in (self.folder / "run/post_hoc").iterdir())
        self.assertEqual((len(snapshots), snapshots[-1]), (100, "00000300_0.1.safetensors"))
        self.run_polyak("convert", "run/epoch_50.pth", "raw.safetensors", "--weights", "raw")
        raw = self.read("raw.safetensors")[0]
        for width in WIDTHS:
            done = self.run_polyak("average", "--post-hoc", f"sigma_rel={width}", "run", "-o", "made.safetensors")
            self.assertRegex(done.stdout, r"100 snapshots in float32, of the steps 6 to 300\nsigma_rel .* residual "
                                          r"\S+, sum of \|coefficients\| \S+, rounding errors of about \S+ of the "
                                          r"weights\n")
            self.run_polyak("convert", "run/epoch_50.pth", "direct.safetensors", "--weights", f"w{width:g}")
            direct = self.read("direct.safetensors")[0]
            made, metadata = self.read("made.safetensors")
            self.assertLess(distance(made, direct), 0.01 * distance(direct, raw), width)
            self.assertEqual(json.loads(metadata["averaged"])["step"], 300)
        self.assertIn("sigma_rel 0.005 at step 300 is not what 100 snapshots can give",
                      self.refusal("--post-hoc", "sigma_rel=0.005", "run", "-o", "none.pth", status=1))

        done = self.run_polyak("average", "run", "--sweep", "0.05:0.20:4", "--config", config, "--metric", "accuracy",
                               "-o", "best.pth")
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in done.stdout.splitlines() if re.match(r"\| +0\.", line)]
        self.assertEqual([row[0] for row in rows], ["0.0500", "0.1000", "0.1500", "0.2000"])
        measured = [float(row[4]) for row in rows]
        best = re.search(r"The best: sigma_rel (\S+) with accuracy (\S+)", done.stdout)
        self.assertEqual(float(best[2]), max(measured))
        accuracy = float(self.run_polyak("test", config, "best.pth").stdout.split(": ")[1])
        self.assertAlmostEqual(accuracy, max(measured), places=3)

        # Stopped and resumed: the same snapshots, bit by bit.
        kept = self.folder / "resumed"
        shutil.copytree(self.folder / "run", kept)
        (kept / "epoch_50.pth").unlink()
        (kept / "last_checkpoint").write_text("epoch_25.pth")
        for path in kept.glob("post_hoc/*"):
            if int(path.name[:8]) > 150:
                path.unlink()
        (kept / "post_hoc/00000156_0.1.safetensors").write_bytes(b"half of a file")
        self.train(config, "--work-dir", "resumed", "--resume", *self.VAL)
        self.assertEqual(sorted(path.name for path in kept.glob("post_hoc/*")), snapshots)
        for name in snapshots:
            self.assertEqual((kept / "post_hoc" / name).read_bytes(),
                             (self.folder / "run/post_hoc" / name).read_bytes(), name)


class Docs(AverageTest):
    def test_commands_of_the_page_run(self):
        page = (pathlib.Path(__file__).resolve().parents[2] / "docs/offline_averages.md").read_text()
        block, = re.findall(r"(?m)^custom_hooks:\n(?:  .*\n)+", page)
        block = block.replace("every: 1%", "every: 1")
        config = self.write(BASE.replace("max_epochs: 3", "max_epochs: 4") + block +
                            "  - {type: EMAHook, momentum: 0.1}\n")
        self.train(config, "--work-dir", "run")
        commands = re.findall(r"(?m)^polyak (average .*)$", page)
        self.assertEqual(len(commands), 7)
        for command in commands:
            # As a shell reads it: names with * are a list.
            words = [word for part in command.split()
                     for word in (sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(part))
                                  if "*" in part else [part])]
            done = self.run_polyak(*words)
            self.assertTrue((self.folder / words[words.index("-o") + 1]).exists(), done.stdout)


if __name__ == "__main__":
    cli_test.POLYAK = sys.argv[1]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
