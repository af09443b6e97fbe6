# SPDX-License-Identifier: Apache-2.0
"""What a run of the `polyak` command leaves behind when it is stopped, and how the next one goes on.

Usage: resume_test.py POLYAK [unittest arguments].
"""
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

import cli_test
from cli_test import CommandTest

BASE = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [8, 16]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 16, dataset: {type: RandomImages, size: 96}}
val_dataloader: {batch_size: 16, dataset: {type: RandomImages, size: 64, seed: 1}}
val_evaluator: {type: Accuracy}
train_cfg: {by_epoch: true, max_epochs: 3}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
randomness: {seed: 0}
env_cfg: {num_threads: 1}
"""
EMA = "custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.05, evaluate_on_origin: true}]\n"
FIVE = ("--cfg-options", "train_cfg.max_epochs=5")


class ResumeTest(CommandTest):
    def files(self, folder):
        return sorted(path.name for path in (self.folder / folder).glob("*.pth"))

    def newest_scalars(self, work_dir="run"):
        newest = max((self.folder / work_dir).glob("*/vis_data/scalars.json"), key=lambda path: path.parent.parent.name)
        return [{key: value for key, value in json.loads(line).items() if "time" not in key}
                for line in newest.read_text().splitlines()]

    def measure(self, config, checkpoint, *options):
        """What `polyak test` prints: {metric: value}."""
        done = self.run_polyak("test", config, checkpoint, "--work-dir", "measured", *options)
        return {name: float(value) for name, value in re.findall(r"^(\S+): (\S+)$", done.stdout, re.M)}

    def resume(self, config, *options, status=0):
        return self.train(config, "--work-dir", "run", "--resume", *options, status=status)


class OutDir(ResumeTest):
    CONFIG = BASE + EMA + """
default_hooks: {checkpoint: {type: CheckpointHook, interval: 1, out_dir: ckpts, max_keep_ckpts: 2}}
"""

    def test_is_where_a_resumed_run_goes_on(self):
        config = self.write(self.CONFIG)
        self.train(config, "--work-dir", "run")
        self.assertEqual((self.folder / "run" / "last_checkpoint").read_text().strip(), "../ckpts/epoch_3.pth")
        self.assertFalse((self.folder / "ckpts" / "last_checkpoint").exists())
        done = self.resume(config, *FIVE)
        self.assertIn("going on from ckpts/epoch_3.pth", done.stderr)
        self.assertEqual(self.files("ckpts"), ["epoch_4.pth", "epoch_5.pth"])

    def test_may_hold_the_pointer_that_0_1_left_there(self):
        config = self.write(self.CONFIG)
        self.train(config, "--work-dir", "run")
        (self.folder / "run" / "last_checkpoint").unlink()
        (self.folder / "ckpts" / "last_checkpoint").write_text("epoch_2.pth")
        self.assertIn("going on from ckpts/epoch_2.pth", self.resume(config, *FIVE).stderr)

    def test_and_work_dir_may_be_moved_together(self):
        config = self.write(self.CONFIG)
        self.train(config, "--work-dir", "run")
        (self.folder / "moved").mkdir()
        for name in ("run", "ckpts"):
            shutil.move(self.folder / name, self.folder / "moved" / name)
        done = self.train(config, "--work-dir", "moved/run", "--resume", *FIVE)
        self.assertIn("going on from moved/ckpts/epoch_3.pth", done.stderr)

    def test_without_a_pointer_gives_its_newest_checkpoint(self):
        config = self.write(self.CONFIG)
        self.train(config, "--work-dir", "run")
        (self.folder / "run" / "last_checkpoint").unlink()
        self.assertIn("going on from ckpts/epoch_3.pth", self.resume(config, *FIVE).stderr)

    def test_that_cannot_be_written_is_refused_before_training(self):
        (self.folder / "blocked").write_text("a file")
        config = self.write(self.CONFIG.replace("out_dir: ckpts", "out_dir: blocked/ckpts"))
        for command in (["train", config, "--work-dir", "run"], ["check", config]):
            done = self.run_polyak(*command, status=2)
            self.assertIn("CheckpointHook: blocked/ckpts cannot be written", done.stderr)

    def test_is_locked_as_work_dir_is(self):
        config = self.write(self.CONFIG)
        run = subprocess.Popen([cli_test.POLYAK, "train", config, "--work-dir", "other", *FIVE, "train_cfg.max_epochs=9999"],
                               cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(run.kill)
        for line in run.stderr:
            if "Epoch(train)" in line:
                break
        done = self.train(config, "--work-dir", "run", status=2)
        run.kill()
        run.communicate()
        self.assertIn("another run uses ckpts", done.stderr)

    def test_pointers_name_files_of_their_own_folder(self):
        config = self.write(self.CONFIG)
        self.train(config, "--work-dir", "run")
        shutil.copy(self.folder / "ckpts" / "epoch_3.pth", self.folder)  # another run's, in the current folder
        (self.folder / "run" / "last_checkpoint").write_text("epoch_3.pth")
        done = self.resume(config, *FIVE, status=1)
        self.assertIn("run/last_checkpoint names epoch_3.pth, which does not exist", done.stderr)

    def test_a_pointer_to_a_file_that_is_gone_is_refused_with_the_newest_that_is_there(self):
        config = self.write(BASE)
        self.train(config, "--work-dir", "run")
        (self.folder / "run" / "epoch_3.pth").unlink()
        done = self.resume(config, *FIVE, status=1)
        self.assertIn("the newest checkpoint next to it is run/epoch_2.pth; set it with --resume", done.stderr)

    def test_with_checkpoints_of_another_run_is_not_overwritten_without_a_word(self):
        config = self.write(self.CONFIG)
        self.train(config, "--work-dir", "run")
        (self.folder / "run" / "last_checkpoint").unlink()
        done = self.train(config, "--work-dir", "other")
        self.assertIn("ckpts contains 2 checkpoint(s) of an earlier run, the newest epoch_3.pth", done.stderr)

    def test_files_without_an_optimizer_do_not_become_the_last_checkpoint(self):
        config = self.write(BASE + EMA[:-2] + """, {type: CheckpointHook, interval: 1, save_optimizer: false,
          out_dir: deploy}]""")
        self.train(config, "--work-dir", "run")
        self.assertEqual((self.folder / "run" / "last_checkpoint").read_text().strip(), "epoch_3.pth")
        self.assertEqual(len(self.files("deploy")), 3)
        self.resume(config, *FIVE)


class TwoHooks(ResumeTest):
    def test_that_a_later_hook_would_change_the_files_of_are_refused(self):
        for hook in ("EMAHook", "ParamSchedulerHook", "PreciseBNHook"):
            config = self.write(BASE + f"custom_hooks: [{{type: {hook}, priority: LOWEST}}]\n")
            done = self.train(config, "--work-dir", "run", status=2)
            self.assertIn(f"CheckpointHook: runs before {hook}", done.stderr)

    def test_each_keep_their_own_files(self):
        config = self.write(BASE + """custom_hooks:
  - {type: CheckpointHook, by_epoch: false, interval: 2, max_keep_ckpts: 2, save_last: false}
""")
        self.train(config, "--work-dir", "run")
        self.assertEqual(self.files("run"), ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "iter_16.pth", "iter_18.pth"])

    def test_a_file_stays_while_one_of_them_keeps_it(self):
        config = self.write(BASE + """custom_hooks:
  - {type: CheckpointHook, interval: 1, max_keep_ckpts: 1}
""")
        self.train(config, "--work-dir", "run")
        self.assertEqual(self.files("run"), ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"])

    def test_each_rank_the_best_for_themselves(self):
        config = self.write(BASE + """
default_hooks: {checkpoint: {type: CheckpointHook, interval: 1, save_best: accuracy}}
custom_hooks:
  - {type: CheckpointHook, interval: 1, save_best: accuracy, out_dir: second}
  - {type: CheckpointHook, interval: 1, save_best: accuracy, rule: less, out_dir: worst}
""")
        self.train(config, "--work-dir", "run")
        best = [name for name in self.files("run") if name.startswith("best")]
        self.assertEqual(best, ["best_accuracy_epoch_3.pth"])
        self.assertEqual([name for name in self.files("second") if name.startswith("best")], best)
        self.assertEqual([name for name in self.files("worst") if name.startswith("best")], ["best_accuracy_epoch_1.pth"])

    def test_that_write_different_things_under_one_name_are_refused(self):
        config = self.write(BASE + "custom_hooks: [{type: CheckpointHook, save_optimizer: false}]\n")
        done = self.train(config, "--work-dir", "run", status=2)
        self.assertIn("two hooks write epoch_N.pth to run", done.stderr)


class Stop(ResumeTest):
    # 3 epochs of 40 iterations
    LONG = (BASE + EMA).replace("size: 96", "size: 640")

    def start(self, config, *options, **keys):
        return subprocess.Popen([cli_test.POLYAK, "train", config, "--work-dir", "run", *options], cwd=self.folder,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keys)

    def wait_for(self, run, words):
        lines = []
        for line in run.stderr:
            lines.append(line)
            if words in line:
                return
        self.fail(f"no line with {words} in {lines}")

    def test_by_a_signal_saves_and_says_where_to_go_on_from(self):
        config = self.write(self.LONG)
        self.train(config, "--work-dir", "whole")
        whole = self.newest_scalars("whole")
        for kind in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            run = self.start(config)
            self.wait_for(run, "[1][20/40]")
            for _ in range(1 if kind == signal.SIGINT else 3):  # Slurm sends several
                run.send_signal(kind)
            _, errors = run.communicate(timeout=60)
            self.assertEqual(run.returncode, 128 + kind, errors)
            file = re.search(rf"{kind.name} stopped training after iteration (\d+); "
                             r"--resume continues from (run/(?:iter|epoch)_\d+\.pth)", errors)
            self.assertTrue(file, errors)
            self.assertEqual(self.files("run").count(file[2].split("/")[1]), 1)
            done = self.resume(config)
            self.assertIn(f"going on from {file[2]}", done.stderr)
            self.assertEqual(self.newest_scalars(), whole)
            self.assertEqual(self.files("run"), self.files("whole"))

    def test_by_a_second_interrupt_is_at_once(self):
        run = self.start(self.write(BASE), "--cfg-options", "train_dataloader.batch_size=2048",
                         "train_dataloader.dataset.size=4096", "train_dataloader.dataset.image_size=64",
                         "val_dataloader.dataset.image_size=64", "model.backbone.channels=[32,64]")
        self.wait_for(run, "CheckpointHook")  # the list of hooks, right before training
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
        self.assertEqual(run.returncode, -signal.SIGINT)

    def test_by_an_ignored_signal_is_none(self):
        run = self.start(self.write(self.LONG), preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        self.wait_for(run, "[1][20/40]")
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 0, errors)

    def test_without_a_checkpoint_hook_says_that_nothing_was_saved(self):
        run = self.start(self.write(self.LONG + "default_hooks: {checkpoint: null}\n"))
        self.wait_for(run, "[1][20/40]")
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 128 + signal.SIGTERM)
        self.assertIn("no checkpoint to resume from was saved: no CheckpointHook", errors)
        self.assertEqual(self.files("run"), [])


    def test_by_a_signal_saves_all_that_a_run_needs_even_where_the_hook_saves_no_optimizer(self):
        config = self.write(self.LONG + """
default_hooks: {checkpoint: {type: CheckpointHook, interval: 1, max_keep_ckpts: 1, save_optimizer: false}}
""")
        run = self.start(config)
        self.wait_for(run, "[1][20/40]")
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
        self.assertIn("--resume continues from run/", errors)
        self.resume(config)
        self.assertEqual(self.files("run"), ["epoch_3.pth"])

    def test_by_a_signal_leaves_one_file_of_several_hooks(self):
        config = self.write(self.LONG.replace("custom_hooks: [", """custom_hooks: [
  {type: CheckpointHook, interval: 1, max_keep_ckpts: 1, save_optimizer: false, out_dir: deploy}, """))
        run = self.start(config)
        self.wait_for(run, "[1][20/40]")
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
        self.resume(config)
        self.assertEqual(self.files("deploy"), ["epoch_3.pth"])
        self.assertEqual(self.files("run"), ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"])


class Averages(ResumeTest):
    """A run that goes on without its average, or with the average renamed, goes on with the raw weights."""
    def raw(self, folder="run"):
        return [{key: line[key] for key in ("loss", "step")} for line in self.newest_scalars(folder) if "loss" in line]

    def setUp(self):
        super().setUp()
        self.config = self.write(BASE + EMA)
        self.train(self.config, "--work-dir", "whole", *FIVE)
        self.train(self.config, "--work-dir", "run")

    def test_whose_options_changed_are_said(self):
        done = self.resume(self.config, *FIVE, "custom_hooks.0.momentum=0.2", "train_cfg.val_interval=2")
        self.assertIn("custom_hooks[0].momentum 0.2 (was 0.05)", done.stderr)
        self.assertIn("train_cfg.val_interval 2 (was missing)", done.stderr)

    def test_that_nobody_keeps_are_dropped_by_name(self):
        done = self.resume(self.config, *FIVE, "custom_hooks=None")
        self.assertIn("no hook keeps the checkpoint's CosineEMA; it is dropped, and the run continues with the raw weights", done.stderr)
        self.assertEqual(self.raw(), self.raw("whole"))

    def test_that_are_renamed_go_on(self):
        done = self.resume(self.config, *FIVE, "custom_hooks.0.name=slow")
        self.assertIn("of the checkpoint's averages, the one without a name continues as 'slow'", done.stderr)
        self.assertEqual(self.raw(), self.raw("whole"))
        self.assertEqual(self.measure(self.config, "run/epoch_5.pth", "--cfg-options", "custom_hooks.0.name=slow")["accuracy"],
                         self.measure(self.config, "whole/epoch_5.pth")["accuracy_origin"])

    def test_of_another_rule_under_another_name_are_refused(self):
        done = self.resume(self.config, *FIVE, "custom_hooks.0.name=slow", "custom_hooks.0.momentum=0.04", status=1)
        self.assertIn("run/epoch_3.pth: EMAHook: the checkpoint holds no average named 'slow'", done.stderr)


class Best(ResumeTest):
    """The state_dict of a best file holds the weights that were measured."""
    def best(self, hook, metric):
        config = self.write(BASE + f"custom_hooks: [{hook}]\n" +
                            f"default_hooks: {{checkpoint: {{type: CheckpointHook, save_best: {metric}}}}}\n")
        done = self.train(config, "--work-dir", "run")
        found = re.findall(rf"best checkpoint with (\S+) {metric} at \d+ epoch is saved to (\S+); "
                           r"its state_dict holds the (\S+) weights", done.stderr)[-1]
        value = self.measure(config, "run/" + found[1], "--cfg-options", "custom_hooks=None")["accuracy"]
        self.assertAlmostEqual(value, float(found[0]), places=3)
        return found[2], config, "run/" + found[1], value

    def test_by_raw_weights(self):
        weights, config, file, value = self.best(
            "{type: EMAHook, ema_type: CosineEMA, momentum: 0.05, evaluate_on_origin: true}", "accuracy_origin")
        self.assertEqual(weights, "raw")
        self.assertEqual(self.measure(config, file)["accuracy_origin"], value)
        self.assertNotEqual(self.measure(config, file)["accuracy"], value)

    def test_by_a_named_average(self):
        weights, config, file, value = self.best("{type: EMAHook, name: slow, momentum: 0.3}, {type: EMAHook, momentum: 0.01}",
                                                 "accuracy_slow")
        self.assertEqual(weights, "'slow'")
        self.assertEqual(self.measure(config, file)["accuracy_slow"], value)

    def test_without_evaluation_of_the_average(self):
        weights, *_ = self.best("{type: EMAHook, momentum: 0.01, evaluate_on_ema: false, evaluate_on_origin: true}", "accuracy")
        self.assertEqual(weights, "raw")

    def test_by_the_average(self):
        weights, *_ = self.best("{type: EMAHook, ema_type: CosineEMA, momentum: 0.05}", "accuracy")
        self.assertEqual(weights, "averaged")


class Folder(ResumeTest):
    def start(self, config):
        run = subprocess.Popen([cli_test.POLYAK, "train", config, "--work-dir", "run", "--cfg-options",
                                "train_cfg.max_epochs=100000", "default_hooks.checkpoint.type=CheckpointHook",
                                "default_hooks.checkpoint.max_keep_ckpts=1"],
                               cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(run.kill)
        for line in run.stderr:
            if "Epoch(train)" in line:
                break
        return run

    def test_is_used_by_one_run_at_a_time(self):
        config = self.write(BASE)
        run = self.start(config)
        self.train(config, "--work-dir", "given")
        self.run_polyak("test", config, "given/epoch_3.pth", "--work-dir", "run")  # takes no part in it
        done = self.train(config, "--work-dir", "run", status=2)
        run.kill()
        run.communicate()
        self.assertRegex(done.stderr, rf"another run uses run \(host .*, process {run.pid}\); wait until it ends")

    def test_is_free_once_the_run_before_ended(self):
        config = self.write(BASE)
        run = self.start(config)
        after = subprocess.Popen([cli_test.POLYAK, "train", config, "--work-dir", "run"], cwd=self.folder,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in after.stderr:
            if "is in use by another run" in line:
                break
        run.kill()  # the kernel gives the lock back
        run.communicate()
        after.communicate(timeout=60)
        self.assertEqual(after.returncode, 0)

    def test_keeps_nothing_that_a_killed_run_left_half_written(self):
        config = self.write(BASE)
        (self.folder / "run").mkdir()
        (self.folder / "run" / ".epoch_1.pth.tmp-1-0").write_text("half")
        self.train(config, "--work-dir", "run")
        self.assertEqual([path.name for path in (self.folder / "run").glob(".*.tmp-*")], [])


class End(ResumeTest):
    def test_of_a_finished_run_is_said(self):
        config = self.write(BASE)
        self.train(config, "--work-dir", "run")
        self.assertIn("this run is finished: 3 of 3 epochs are done; raise train_cfg.max_epochs", self.resume(config).stderr)

    def test_before_the_checkpoint_is_refused(self):
        config = self.write(BASE)
        self.train(config, "--work-dir", "run")
        done = self.resume(config, "--cfg-options", "train_cfg.max_epochs=2", status=1)
        self.assertIn("run/epoch_3.pth: is at epoch 3, but this run ends at 2; raise train_cfg.max_epochs", done.stderr)


if __name__ == "__main__":
    cli_test.POLYAK = sys.argv[1]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
