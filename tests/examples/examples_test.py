# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/examples, run.

Usage: examples_test.py POLYAK EXAMPLES BUILT [unittest arguments]: the command, docs/examples, and where its programs
and plugins were built.
"""
import array
import json
import math
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

POLYAK = EXAMPLES = BUILT = None

SMALL = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4]}
  head: {type: LinearClsHead, num_classes: 4, loss: {type: CrossEntropyLoss}}
train_dataloader: {batch_size: 32, dataset: {type: RandomImages, size: 128, num_classes: 4}}
val_dataloader: {batch_size: 64, dataset: {type: RandomImages, size: 64, num_classes: 4, seed: 1}}
val_evaluator: {type: Accuracy}
train_cfg: {by_epoch: true, max_epochs: 3}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05}}
randomness: {seed: 3}
env_cfg: {num_threads: 2}
"""


class Examples(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_examples_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, text, name="config.yaml"):
        path = self.folder / name
        path.write_text(text)
        return path

    def run_program(self, *arguments, status=0):
        done = subprocess.run([str(argument) for argument in arguments], cwd=self.folder, capture_output=True,
                              text=True, timeout=200)
        self.assertEqual(done.returncode, status, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def raw_sum(self, done):
        return re.search(r"sum of their sizes (\S+)", done.stdout)[1]

    def test_ten_lines_let_the_yaml_decide(self):
        lines = (EXAMPLES / "embed_in_ten_lines.cpp").read_text().splitlines()
        numbered = [line for line in lines if re.search(r"// \d+$", line)]
        self.assertEqual([int(line.rsplit(" ", 1)[1]) for line in numbered], list(range(1, 11)))
        ours = [line for line in lines if re.search(r"hooks|polyak", line) and not line.lstrip().startswith("//")]
        self.assertEqual(ours, numbered, "a line that Polyak needs has no number")

        program = BUILT / "embed_in_ten_lines"
        averaged = self.run_program(program, EXAMPLES / "averaging.yaml")
        self.assertEqual(len(re.findall(r"Epoch\(val\)", averaged.stderr)), 4)
        run = self.folder / "work_dirs" / "example"
        self.assertEqual(sorted(path.name for path in run.glob("*.pth")), ["epoch_3.pth", "epoch_4.pth"])
        # Without hooks, and with averages of another kind, training is the same to the last bit.
        nothing = self.run_program(program, self.write("custom_hooks: []"))
        self.assertEqual(nothing.stderr, "")
        swa = self.write("custom_hooks: [{type: EMAHook, ema_type: StochasticWeightAverage}]")
        swa = self.run_program(program, swa)
        self.assertEqual({self.raw_sum(done) for done in (averaged, nothing, swa)}, {self.raw_sum(nothing)})
        # Once more: it goes on from the last checkpoint, and nothing is left to do.
        again = self.run_program(program, EXAMPLES / "averaging.yaml")
        self.assertEqual(self.raw_sum(again), self.raw_sum(nothing))
        self.assertNotIn("Epoch(train)", again.stderr)

    def test_the_hook_stops_a_run(self):
        config = self.write(f"plugins: {BUILT}/libhook_plugin.so\n"
                            "custom_hooks: [{type: StopWhenGood, at_least: 0}]\n" + SMALL)
        done = self.run_program(POLYAK, "train", config, "--work-dir", "run")
        self.assertIn("StopWhenGood: accuracy is", done.stderr)
        self.assertEqual(len(re.findall(r"Epoch\(val\)", done.stderr)), 1)

    def test_the_average_averages(self):
        text = (EXAMPLES / "average_plugin.cpp").read_text().split("[start:plugin]")[1].split("// --8<--")[0]
        code = [line for line in text.splitlines() if line.strip() and line.strip() != "private:"]
        self.assertLessEqual(len(code), 20)
        config = self.write(f"plugins: {BUILT}/libaverage_plugin.so\n"
                            "custom_hooks: [{type: EMAHook, ema_type: RampEMA, momentum: 0.002}]\n"
                            "default_hooks: {logger: {type: LoggerHook, interval: 4}}\n" + SMALL)
        done = self.run_program(POLYAK, "train", config, "--work-dir", "run")
        weights = [float(weight) for weight in re.findall(r"ema_momentum: (\S+)", done.stderr)]
        self.assertEqual(weights, [float(f"{9 / (10 + k):.4e}") for k in (3, 7, 11)])

    def test_a_runner_class_evaluates_the_average(self):
        done = self.run_program(BUILT / "runner_class")
        self.assertRegex(done.stdout, r"averaged: off by 0\.\d+, raw: off by 0\.\d+")
        self.assertEqual(len(re.findall(r"Epoch\(val\)", done.stderr)), 4)

    def test_a_generator_is_averaged_beside_its_discriminator(self):
        done = self.run_program(BUILT / "dcgan_two_optimizers", EXAMPLES / "averaging.yaml")
        self.assertIn("generator's steps: 120", done.stdout)
        self.assertEqual(len(re.findall(r"Epoch\(val\).*loss_radius", done.stderr)), 3)
        self.assertTrue((self.folder / "work_dirs" / "example" / "epoch_3.pth").exists())

    def test_a_target_network_is_an_average_that_the_program_trains_with(self):
        done = self.run_program(BUILT / "target_network")
        self.assertRegex(done.stdout, r"^loss \d+\.\d+ after 101 updates of the target$")
        self.assertEqual(done.stderr, "")

    def test_target_networks_follow_in_one_call(self):
        done = self.run_program(BUILT / "target_networks")
        found = re.search(r"^loss \d+\.\d+; the critic's target is (\S+) away, DQN's (\S+) right after a copy$", done.stdout)
        self.assertIsNotNone(found, done.stdout)
        self.assertGreater(float(found[1]), 0)
        self.assertEqual(float(found[2]), 0)
        self.assertEqual(done.stderr, "")

    def test_averages_in_code_do_what_the_page_says(self):
        done = self.run_program(BUILT / "averages_in_code")
        self.assertEqual(done.stdout, "updates: 20\nlogits: 2\nrows: 4\nkept: 16\n")
        self.assertEqual(done.stderr, "")
        self.assertTrue((self.folder / "average.pth").exists())

    def test_a_loop_by_iterations_ends_where_it_says_and_is_not_continued_behind_that(self):
        config = self.write("work_dir: run\ncustom_hooks:\n  - {type: EMAHook, momentum: 0.05}\n"
                            "  - {type: CheckpointHook, by_epoch: false, interval: 100}\n"
                            "  - {type: LoggerHook, interval: 50}\n")
        for lines in (4, 0):  # the second time nothing is left to do
            done = self.run_program(BUILT / "averages_in_code", config)
            self.assertEqual(done.stdout, "iterations: 200\n")
            self.assertEqual(len(re.findall(r"Iter\(train\)", done.stderr)), lines)
        self.assertTrue((self.folder / "averaged.pt").exists())

    def write_safetensors(self, name, shapes):
        """A file as other tools write it, of 1, 2, 3, ..."""
        header, data = {}, b""
        for tensor, shape in shapes.items():
            values = array.array("f", range(1, math.prod(shape) + 1)).tobytes()
            header[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
            data += values
        text = json.dumps(header).encode()
        (self.folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)

    def test_weights_go_both_ways(self):
        program = BUILT / "weights_both_ways"
        shapes = {"conv1.weight": [8, 3, 3, 3], "conv1.bias": [8], "fc.weight": [10, 8], "fc.bias": [10]}
        self.write_safetensors("in.safetensors", {f"module.{name}": shape for name, shape in shapes.items()})
        for name in ("out.pth", "out.safetensors"):
            done = self.run_program(program, "in.safetensors", name)
            self.assertIn("4 tensors were loaded", done.stdout)
            self.assertIn("'module.' before every name", done.stderr)
            compared = self.run_program(POLYAK, "inspect", "in.safetensors", name)
            self.assertEqual(compared.stdout, "4 tensors are equal, bit by bit; there are no others.\n")
        self.write_safetensors("other.safetensors", {"encoder.w": [3]})
        refused = self.run_program(program, "other.safetensors", "none.pth", status=1)
        self.assertIn("none of it fits the model", refused.stderr)
        self.assertRegex(refused.stderr, r"encoder\.w \[3\] +conv1\.weight \[8, 3, 3, 3\]")
        self.assertFalse((self.folder / "none.pth").exists())


if __name__ == "__main__":
    POLYAK, EXAMPLES, BUILT = (pathlib.Path(sys.argv.pop(1)) for _ in range(3))
    unittest.main()
