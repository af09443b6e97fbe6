# SPDX-License-Identifier: Apache-2.0
"""Training runs of the built command whose parts come out of a plugin.

Usage: plugin_run_test.py POLYAK PLUGIN [unittest arguments].
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

POLYAK = PLUGIN = None

EVERY_KIND = """
model:
  type: PixelModel
  backbone: {type: PixelSums}
  head: {type: PixelHead, loss: {type: SquaredError}}
train_dataloader:
  batch_size: 16
  sampler: {type: Backwards}
  dataset: {type: TwoPixels, size: 64, pipeline: [{type: Negative}]}
val_dataloader:
  batch_size: 16
  dataset: {type: TwoPixels, size: 32, pipeline: [{type: Negative}]}
val_evaluator: {type: ErrorRate}
train_cfg: {by_epoch: true, max_epochs: 4}
optim_wrapper:
  optimizer: {type: PlainDescent, lr: 1.0}
param_scheduler: {type: HalvingLR}
custom_hooks:
  - {type: EMAHook, ema_type: ThirdOfTheWay}
  - {type: CountingHook}
default_hooks: {logger: {type: LoggerHook, interval: 1}}
randomness: {seed: 3}
env_cfg: {num_threads: 2}
"""


class PluginRun(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_plugin_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run_polyak(self, *arguments, status=0):
        done = subprocess.run([POLYAK, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=200)
        self.assertEqual(done.returncode, status, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def test_a_run_is_made_of_a_plugins_parts_alone(self):
        config = self.write("config.yaml", f"plugins: {PLUGIN}\n{EVERY_KIND}")
        done = self.run_polyak("train", config, "--work-dir", "run")
        self.assertIn("CountingHook saw 16 iterations", done.stderr)
        self.assertIn("ema_momentum: 3.3333e-01", done.stderr)
        # The scheduler halves the optimizer's rate from epoch to epoch.
        rates = [float(rate) for rate in re.findall(r"\[4/4\]  lr: (\S+)", done.stderr)]
        self.assertEqual(rates, [1.0, 0.5, 0.25, 0.125])
        losses = [float(loss) for loss in re.findall(r"loss_plugin: (\S+)", done.stderr)]
        self.assertEqual(len(losses), 16)
        self.assertLess(losses[-1], losses[0] / 4)
        self.assertIn("plugin_error: 0.0000", [line for line in done.stderr.splitlines() if "Epoch(val) [4]" in line][0])
        with zipfile.ZipFile(self.folder / "run" / "epoch_4.pth") as file:
            names = next(file.read(name) for name in file.namelist() if name.endswith("data.pkl"))
        self.assertIn(b"backbone.plugin_scale", names)
        self.assertIn(b"ThirdOfTheWay", names)
        tested = self.run_polyak("test", config, "run/epoch_4.pth")
        self.assertIn("plugin_error: 0.0000", tested.stdout)
        self.run_polyak("train", config, "--work-dir", "run", "--resume", "--cfg-options", "train_cfg.max_epochs=5")
        self.assertTrue((self.folder / "run" / "epoch_5.pth").exists())

    def test_a_path_is_relative_to_the_file_that_wrote_it(self):
        (self.folder / "shared").mkdir()
        shutil.copy(PLUGIN, self.folder / "shared" / "libmine.so")
        self.write("shared/base.yaml", f"plugins: [./libmine.so]\n{EVERY_KIND}")
        derived = self.write("runs/derived.yaml", "_base_: ../shared/base.yaml\ntrain_cfg: {max_epochs: 1}\n")
        self.run_polyak("check", derived)
        # Overrides of a command line speak of the config's folder, and the current one is never searched.
        self.run_polyak("check", derived, "--cfg-options", "plugins=../shared/libmine.so")
        shutil.copy(PLUGIN, self.folder / "libmine.so")
        wrong = self.write("runs/wrong.yaml", f"plugins: [./libmine.so]\n{EVERY_KIND}")
        done = self.run_polyak("check", wrong, status=2)
        self.assertIn("wrong.yaml:1:", done.stderr)
        self.assertIn("plugins[0]: plugin './libmine.so' was not found", done.stderr)
        bare = self.write("runs/bare.yaml", f"plugins: [mine]\n{EVERY_KIND}")
        self.run_polyak("check", bare, status=2)

    def test_a_resolved_config_trains_again_from_any_folder(self):
        (self.folder / "shared").mkdir()
        shutil.copy(PLUGIN, self.folder / "shared" / "libmine.so")
        self.write("shared/base.yaml", f"plugins: ./libmine.so\n{EVERY_KIND}")
        derived = self.write("runs/derived.yaml", "_base_: ../shared/base.yaml\ntrain_cfg: {max_epochs: 1}\n")
        self.run_polyak("train", derived, "--work-dir", "out/first")
        resolved = self.folder / "out" / "first" / "derived.yaml"
        self.assertIn(f"plugins: {self.folder / 'shared' / 'libmine.so'}", resolved.read_text())
        self.run_polyak("train", resolved, "--work-dir", "out/second")
        printed = self.write("elsewhere/printed.yaml", self.run_polyak("check", derived, "--cfg-options",
                                                                       "plugins=[../shared/libmine.so]").stdout)
        self.run_polyak("check", printed)

    def test_a_broken_plugin_ends_the_command_with_one_message(self):
        self.write("broken.so", "no library")
        config = self.write("config.yaml", f"plugins: [./broken.so]\n{EVERY_KIND}")
        done = self.run_polyak("train", config, status=2)
        self.assertRegex(done.stderr, r"^polyak: \S+config\.yaml:1:\d+: plugins\[0\]: \S+broken\.so: is not a shared")
        self.assertEqual(len(done.stderr.splitlines()), 3)  # with the line of the config, and what it is about
        self.assertFalse((self.folder / "work_dirs").exists())


if __name__ == "__main__":
    POLYAK, PLUGIN = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main()
