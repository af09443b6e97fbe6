# SPDX-License-Identifier: Apache-2.0
"""The built `polyak` command as a user meets it: what it prints, writes and refuses.

Usage: cli_test.py POLYAK CONFIGS [unittest arguments]. Trains on a few images of Fashion-MNIST, so the data
set's Debian package must be there.
"""
import fcntl
import json
import math
import os
import pathlib
import pty
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import unittest
import zipfile
import zlib

POLYAK = CONFIGS = None

SMALL = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4, 8]}
  head: {type: LinearClsHead, num_classes: 4, loss: {type: CrossEntropyLoss}}
train_dataloader:
  batch_size: 16
  sampler: {type: DefaultSampler, shuffle: true}
  dataset: {type: RandomImages, size: 128, num_classes: 4}
val_dataloader:
  batch_size: 64
  dataset: {type: RandomImages, size: 128, num_classes: 4, seed: 1}
val_evaluator: {type: Accuracy}
train_cfg: {by_epoch: true, max_epochs: 3, val_interval: 1}
optim_wrapper:
  optimizer: {type: SGD, lr: 0.05, momentum: 0.9}
randomness: {seed: 3}
env_cfg: {num_threads: 2}
"""

COSINE = """
custom_hooks:
  - type: EMAHook
    ema_type: CosineEMA
    momentum: 0.1
    evaluate_on_origin: true
"""

SWA = """
custom_hooks:
  - type: EMAHook
    ema_type: StochasticWeightAverage
    evaluate_on_origin: true
  - {type: PreciseBNHook, num_samples: 64}
"""


def write_png(path, width, height, noise=None, pixel=None):
    """An RGB image of random blocks, or in one colour."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    line = b"".join((pixel or noise.randbytes(3)) * 10 for _ in range(width // 10))
    rows = b"".join(b"\0" + line for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) +
                     chunk(b"IEND", b""))


def run_in_terminal(stream, columns, command, **options):
    """The status of a command, and what it wrote to `stream`, which is a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(command, **{stream: its}, **options)
    os.close(its)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    return process.wait(), written.decode()


class CommandTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_cli_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, text, name="config.yaml"):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def run_polyak(self, *arguments, status=0):
        done = subprocess.run([POLYAK, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=280)
        self.assertEqual(done.returncode, status, f"{arguments}\n{done.stdout}\n{done.stderr}")
        for word in ("frame #", "Exception raised from", "Traceback", "terminate called"):
            self.assertNotIn(word, done.stderr)
        return done

    def train(self, config, *arguments, status=0):
        return self.run_polyak("train", config, *arguments, status=status)

    def table(self, done):
        """The rows of the printed table: {column: value}."""
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in done.stdout.splitlines() if line.startswith("|")]
        return [dict(zip(rows[0], map(float, row))) for row in rows[2:]]

    def scalars(self, work_dir):
        """Everything logged, without times."""
        lines = []
        for path in sorted((self.folder / work_dir).glob("*/vis_data/scalars.json")):
            for line in path.read_text().splitlines():
                values = json.loads(line)
                lines.append({key: value for key, value in values.items() if "time" not in key})
        return lines

    def expect_refusal(self, *arguments, status, says):
        """One message, no half-started run."""
        done = self.run_polyak(*arguments, status=status)
        messages = [line for line in done.stderr.splitlines() if line.startswith("polyak: ")]
        self.assertEqual(len(messages), 1, done.stderr)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, messages[0])
        self.assertNotIn("Epoch(train)", done.stderr)
        self.assertEqual([str(path) for path in self.folder.rglob("*.pth*")
                          if path.parent.name != "given"], [])


    def folders(self):
        """A config of three classes in folders that a run soon tells apart."""
        for split in ("train", "val"):
            for at, name in enumerate(("ant", "bee", "cat")):
                folder = self.folder / "images" / split / name
                folder.mkdir(parents=True)
                for i in range(4):
                    pixel = bytes(255 - 5 * i if channel == at else 10 * i for channel in range(3))
                    write_png(folder / f"{i}.png", 10, 10, pixel=pixel)
        dataset = "dataset: {type: ImageNet, data_root: images, size: 4, split: %s}"
        return SMALL.replace("head: {type: LinearClsHead, num_classes: 4", "head: {type: LinearClsHead").replace(
            "backbone: {type: SmallCNN, channels: [4, 8]}", "backbone: {type: MLP, hidden: [8]}").replace(
            "dataset: {type: RandomImages, size: 128, num_classes: 4}", dataset % "train").replace(
            "dataset: {type: RandomImages, size: 128, num_classes: 4, seed: 1}", dataset % "val").replace(
            "batch_size: 16", "batch_size: 3").replace("max_epochs: 3", "max_epochs: 12").replace("lr: 0.05", "lr: 0.2")


class Train(CommandTest):
    def test_prints_a_table_and_writes_what_mmengine_writes(self):
        done = self.train(self.write(SMALL + COSINE), "--work-dir", "run")
        rows = self.table(done)
        self.assertEqual([row["epoch"] for row in rows], [1, 2, 3])
        self.assertEqual(list(rows[0]), ["epoch", "accuracy, raw weights", "accuracy, averaged by CosineEMA"])
        run = self.folder / "run"
        self.assertEqual((run / "last_checkpoint").read_text().strip(), "epoch_3.pth")
        for name in ("epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "config.yaml"):
            self.assertTrue((run / name).exists(), name)
        logs = list(run.glob("*/*.log"))
        self.assertEqual(len(logs), 1)
        text = logs[0].read_text()
        self.assertRegex(text, r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - polyak - INFO - Epoch\(val\) \[3\]    accuracy: ")
        self.assertNotIn("\x1b", done.stderr)  # no progress bar where there is no terminal

    def test_of_one_config_twice_gives_the_same_numbers(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "a")
        self.train(config, "--work-dir", "b")
        self.assertEqual(self.scalars("a"), self.scalars("b"))
        self.assertGreater(len(self.scalars("a")), 3)

    def test_gives_the_same_raw_weights_with_and_without_the_hook(self):
        with_hook = self.table(self.train(self.write(SMALL + COSINE), "--work-dir", "a"))
        without = self.table(self.train(self.write(SMALL), "--work-dir", "b"))
        self.assertEqual([row["accuracy, raw weights"] for row in with_hook], [row["accuracy"] for row in without])

    def test_that_diverges_names_the_loss_and_the_average_and_fails(self):
        options = ("--cfg-options", "optim_wrapper.optimizer.lr=1e30", "default_hooks.logger.type=LoggerHook",
                   "default_hooks.logger.interval=4")
        done = self.train(self.write(SMALL + COSINE), "--work-dir", "run", *options, status=1)
        first = [line for line in done.stderr.splitlines() if "WARNING" in line]
        self.assertRegex(first[0], r"iteration [23]: loss is (nan|inf|-inf).* \(lr 1e\+30\)")
        self.assertEqual(sum("loss is" in line for line in first), 1)
        named = [line for line in first if "the average holds a NaN or an infinity after iteration 4 (" in line]
        self.assertEqual(len(named), 1, done.stderr)
        self.assertIn("training ended with an average that holds a NaN", first[-1])
        kept = self.train(self.write(SMALL + COSINE + "    skip_nonfinite: true\n", "kept.yaml"), "--work-dir", "kept",
                          *options)
        self.assertNotIn("training ended with", kept.stderr)

    def test_mixed_precision_trains_the_weights_in_float32(self):
        config = self.write(SMALL + COSINE)
        amp = ("--cfg-options", "optim_wrapper.type=AmpOptimWrapper")
        self.train(config, "--work-dir", "plain")
        rows = self.table(self.train(config, "--work-dir", "mixed", *amp))
        self.assertGreater(rows[-1]["accuracy, averaged by CosineEMA"], 40)
        losses = [[line["loss"] for line in self.scalars(name) if "loss" in line] for name in ("plain", "mixed")]
        self.assertNotEqual(*losses)
        for one, other in zip(*losses):
            self.assertAlmostEqual(one, other, delta=0.1)
        for weights in "raw", "averaged":
            self.run_polyak("convert", "mixed/epoch_3.pth", "out.safetensors", "--weights", weights)
            data = (self.folder / "out.safetensors").read_bytes()
            header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
            self.assertEqual({entry["dtype"] for name, entry in header.items() if name.endswith("weight")}, {"F32"})
            (self.folder / "out.safetensors").unlink()

    def test_a_step_that_overflows_is_no_step_and_no_update(self):
        config = SMALL.replace("{type: SmallCNN, channels: [4, 8]}", "{type: MLP, hidden: [8]}") + COSINE
        done = self.train(self.write(config), "--work-dir", "run", "--cfg-options",
                          "optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.loss_scale=1e300")
        self.assertFalse([line for line in self.scalars("run") if "ema_momentum" in line])
        accuracies = {row["accuracy, raw weights"] for row in self.table(done)}
        self.assertEqual(len(accuracies), 1)

    def test_mixed_precision_resumes_its_loss_scale(self):
        config = self.write(SMALL + COSINE)
        amp = ("optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.loss_scale=dynamic")
        self.train(config, "--work-dir", "whole", "--cfg-options", *amp)
        self.train(config, "--work-dir", "parts", "--cfg-options", *amp, "train_cfg.max_epochs=1")
        self.train(config, "--work-dir", "parts", "--resume", "--cfg-options", *amp)
        last = [line for line in self.scalars("whole") if "loss" in line][-1]
        self.assertEqual(last, [line for line in self.scalars("parts") if "loss" in line][-1])

    def test_writes_a_trace_of_the_first_iterations(self):
        hook = "custom_hooks:\n  - {type: ProfilerHook, by_epoch: false, profile_times: 2, json_trace_path: out/trace.json}\n"
        done = self.train(self.write(SMALL + hook), "--work-dir", "run")
        self.assertIn("the trace is in out/trace.json", done.stderr)
        names = [event["name"] for event in json.loads((self.folder / "out/trace.json").read_text())]
        self.assertEqual(names.count("aten::log_softmax"), 2)  # one for each iteration

    def test_writes_numbers_to_the_backends_that_the_config_names(self):
        backends = "vis_backends: [{type: TensorboardVisBackend}]\n"
        twice = SMALL + backends + "default_hooks: {logger: {type: LoggerHook, vis_backends: []}}\n"
        self.expect_refusal("train", self.write(twice, "twice.yaml"), status=2,
                            says="vis_backends: is also set at the top of the config; remove one of them")
        nowhere = SMALL + backends + "default_hooks: {logger: null}\n"
        self.expect_refusal("train", self.write(nowhere, "nowhere.yaml"), status=2,
                            says="vis_backends: there is no LoggerHook to write to them")
        self.train(self.write(SMALL + backends), "--work-dir", "run")
        (folder,) = (self.folder / "run").glob("*/vis_data")
        (file,) = folder.iterdir()
        self.assertIn(".tfevents.", file.name)
        self.assertIn(b"brain.Event:2", file.read_bytes())

    def test_changes_the_average_by_one_block_of_yaml(self):
        for block, name in ((COSINE, "CosineEMA"), (SWA, "StochasticWeightAverage")):
            rows = self.table(self.train(self.write(SMALL + block), "--work-dir", name))
            self.assertIn(f"accuracy, averaged by {name}", rows[-1])
        rows = self.table(self.train(self.write(SMALL), "--work-dir", "none"))
        self.assertEqual(list(rows[-1]), ["epoch", "accuracy"])

    def test_precise_statistics_leave_a_frozen_backbone_alone(self):
        self.train(self.write(SMALL), "--work-dir", "base", "--cfg-options", "train_cfg.max_epochs=8")
        probe = (SMALL.replace("  head:", "  freeze_backbone: true\n  neck: {type: ClsBatchNormNeck}\n  head:") + SWA +
                 "load_from: base/epoch_8.pth\n")
        column = "accuracy, averaged by StochasticWeightAverage"
        with_hook = self.table(self.train(self.write(probe, "probe.yaml"), "--work-dir", "with"))[-1]
        plain = probe.replace("  - {type: PreciseBNHook, num_samples: 64}\n", "")
        without = self.table(self.train(self.write(plain, "plain.yaml"), "--work-dir", "without"))[-1]
        self.assertGreater(without[column], 90)
        self.assertGreater(with_hook[column], without[column] - 3)
        self.assertEqual(with_hook["accuracy, raw weights"], without["accuracy, raw weights"])

    def test_resumes_to_the_same_numbers_as_an_unbroken_run(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "whole")
        self.train(config, "--work-dir", "whole2")
        run = self.folder / "broken"
        run.mkdir()
        shutil.copy(self.folder / "whole" / "epoch_1.pth", run)
        (run / "last_checkpoint").write_text("epoch_1.pth")
        done = self.train(config, "--work-dir", "broken", "--resume")
        self.assertIn("going on from", done.stderr)
        whole = [line for line in self.scalars("whole") if line["step"] not in (1, 8)]
        broken = self.scalars("broken")
        self.assertEqual([line for line in whole if "accuracy" in line],
                         [line for line in broken if "accuracy" in line])
        self.assertTrue(any("accuracy_origin" in line for line in broken))

    def test_resumes_from_a_named_checkpoint(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "a")
        done = self.train(config, "--work-dir", "b", "--resume", "a/epoch_2.pth")
        self.assertEqual([row["epoch"] for row in self.table(done)], [3])

    def test_resumed_with_another_batch_size_starts_its_epoch_over(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "a")
        self.train(config, "--work-dir", "b", "--resume", "a/epoch_1.pth", "--cfg-options",
                   "train_dataloader.batch_size=32", "default_hooks.logger.type=LoggerHook",
                   "default_hooks.logger.interval=1")
        epochs = [line["epoch"] for line in self.scalars("b") if "epoch" in line]
        self.assertEqual([epochs.count(2), epochs.count(3)], [4, 4])

    def test_resumed_keeps_the_best_score_of_the_run_before(self):
        config = self.write(SMALL + COSINE)
        best = ("--cfg-options", "default_hooks.checkpoint.type=CheckpointHook",
                "default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.save_best=accuracy",
                "default_hooks.checkpoint.rule=less")  # so that the first validation may well stay the best
        self.train(config, "--work-dir", "whole", *best)
        self.train(config, "--work-dir", "broken", *best, "train_cfg.max_epochs=1")
        self.train(config, "--work-dir", "broken", "--resume", *best)
        names = [sorted(path.name for path in (self.folder / run).glob("best_*")) for run in ("whole", "broken")]
        self.assertEqual(names[0], names[1])
        self.assertEqual(len(names[0]), 1)

    def test_a_flipped_bit_in_a_checkpoint_names_the_newest_whole_one_to_go_on_from(self):
        config = self.write(SMALL)
        self.train(config, "--work-dir", "run")
        last = self.folder / "run" / "epoch_3.pth"
        data = bytearray(last.read_bytes())
        with zipfile.ZipFile(last) as archive:
            record = max(archive.infolist(), key=lambda entry: entry.file_size)
        middle = data.index(zipfile.ZipFile(last).read(record.filename)) + record.file_size // 2
        data[middle] ^= 1
        last.write_bytes(data)
        for command in (["train", config, "--work-dir", "run", "--resume"], ["test", config, last],
                        ["train", config, "--work-dir", "other", "--load-from", last]):
            done = self.run_polyak(*command, status=1)
            self.assertRegex(done.stderr, rf"epoch_3\.pth: is damaged: the checksum .* of its record "
                                          rf"'{record.filename.split('/', 1)[1]}' is")
            self.assertRegex(done.stderr, r"the newest intact checkpoint next to it is \S*run/epoch_2\.pth")
        self.train(config, "--work-dir", "run", "--resume", "run/epoch_2.pth")

    def test_resume_without_a_path_goes_before_load_from(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "base")
        tune = self.write(SMALL + COSINE + "load_from: base/epoch_3.pth\n", "tune.yaml")
        done = self.train(tune, "--work-dir", "run", "--resume")
        self.assertIn("starting from base/epoch_3.pth", done.stderr)
        (self.folder / "run" / "last_checkpoint").write_text("epoch_2.pth")
        done = self.train(tune, "--work-dir", "run", "--resume")
        self.assertIn("going on from run/epoch_2.pth", done.stderr)

    def test_counts_optimizer_steps_under_accumulation(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "run", "--cfg-options", "optim_wrapper.accumulative_counts=3",
                   "default_hooks.logger.type=LoggerHook", "default_hooks.logger.interval=1")
        momenta = {line["ema_momentum"] for line in self.scalars("run") if "ema_momentum" in line}
        # 24 iterations, a step after each third: a copy, then k = 1 to 7 of K = 8.
        wanted = [1.0] + [0.1 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(1, 8)]
        self.assertEqual(len(momenta), 8)
        for found, value in zip(sorted(momenta), sorted(wanted)):
            self.assertAlmostEqual(found, value, places=12)

    def test_by_iterations_saves_only_the_last_by_default(self):
        text = SMALL.replace("by_epoch: true, max_epochs: 3, val_interval: 1", "by_epoch: false, max_iters: 9")
        self.train(self.write(text), "--work-dir", "run")
        self.assertEqual([path.name for path in (self.folder / "run").glob("*.pth")], ["iter_9.pth"])

    def test_runs_every_shipped_config(self):
        cifar = self.folder / "cifar"
        cifar.mkdir()
        noise = random.Random(0)
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            (cifar / name).write_bytes(b"".join(bytes([noise.randrange(10)]) + noise.randbytes(3072)
                                                for _ in range(20)))
        small = ["train_dataloader.dataset.limit=64", "val_dataloader.dataset.limit=64",
                 "train_dataloader.batch_size=16"]
        files = [path for path in sorted(CONFIGS.glob("*.yaml")) if not self.SELF_SUPERVISED.match(path.name)]
        self.assertGreaterEqual(len(files), 4)
        for path in files:
            with self.subTest(config=path.name):
                options = list(small)
                if "cifar" in path.name:
                    options += [f"train_dataloader.dataset.data_root={cifar}",
                                f"val_dataloader.dataset.data_root={cifar}",
                                "model.backbone.base_channels=4", "train_cfg.max_epochs=2"]
                if "iterations" in path.name:
                    options += ["train_cfg.max_iters=8", "train_cfg.val_interval=4",
                                "param_scheduler.0.end=2", "param_scheduler.1.begin=2", "param_scheduler.1.end=8"]
                self.run_polyak("check", path, "--cfg-options", *options)
                done = self.train(path, "--work-dir", path.stem, "--cfg-options", *options)
                self.assertGreaterEqual(len(self.table(done)), 2)

    SELF_SUPERVISED = re.compile("byol|mocov3")

    def test_self_supervised_configs_train_and_their_backbones_are_probed(self):
        small = ["train_dataloader.dataset.limit=64", "val_dataloader.dataset.limit=64", "train_cfg.max_epochs=2"]
        for name in ("byol_fashion_mnist", "mocov3_fashion_mnist"):
            with self.subTest(config=name):
                options = [*small, "train_dataloader.batch_size=16", "val_evaluator.dataloader.dataset.limit=64"]
                done = self.train(CONFIGS / f"{name}.yaml", "--cfg-options", *options)
                self.assertIn("knn_accuracy", done.stdout)
                probe = CONFIGS / f"{name}_linear.yaml"
                weights = f"load_from=work_dirs/{name}/epoch_2.pth"
                learned = self.train(probe, "--work-dir", "probe", "--cfg-options", *small, weights)
                self.assertGreaterEqual(len(self.table(learned)), 2)
                untrained = self.train(probe, "--work-dir", "random", "--cfg-options", *small, "load_from=null")
                self.assertNotEqual(self.table(learned), self.table(untrained))

    def test_configs_of_the_papers_sizes_train_two_steps(self):
        noise = random.Random(0)
        for i in range(4):
            path = self.folder / "images" / "train" / f"class_{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, 300, 260, noise)
        small = ["train_dataloader.dataset.data_root=images", "train_dataloader.batch_size=2",
                 "optim_wrapper.accumulative_counts=1", "train_cfg.max_epochs=1"]
        files = sorted(CONFIGS.glob("*_imagenet.yaml"))
        self.assertGreaterEqual(len(files), 3)
        for path in files:
            with self.subTest(config=path.name):
                self.run_polyak("check", path, "--cfg-options", *small)
                options = [*small, "default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=-1"]
                if "byol" not in path.name:  # with Debian's matrix products a transformer's step takes a minute at 224
                    options += [f"train_dataloader.dataset.pipeline.0.transforms.{i}.0.scale=64" for i in (0, 1)]
                self.train(path, "--cfg-options", *options)
                steps = [row for row in self.scalars(f"work_dirs/{path.stem}") if "loss" in row]
                self.assertEqual([row["step"] for row in steps], [1, 2])
                self.assertTrue(all(math.isfinite(row["loss"]) for row in steps))


    def test_numbers_the_classes_of_folders_by_their_names(self):
        config = self.write(self.folders())
        done = self.train(config, "--work-dir", "run")
        self.assertIn("images/train: 12 images in 3 classes", done.stderr)
        self.assertIn("images/val: 12 images in 3 classes", done.stderr)
        self.assertEqual(self.table(done)[-1]["accuracy"], 100)
        hidden = self.folder / "images" / "train" / ".ipynb_checkpoints"
        shutil.copytree(self.folder / "images" / "train" / "ant", hidden)
        (self.folder / "images" / "val" / "aaa").mkdir()
        (self.folder / "images" / "val" / "cat" / "9.bmp").write_bytes(b"BM")
        shutil.rmtree(self.folder / "images" / "val" / "bee")
        done = self.train(config, "--work-dir", "again")
        self.assertEqual(self.table(done)[-1]["accuracy"], 100)
        self.assertIn("images/val: classes without images: 'aaa'", done.stderr)
        self.assertIn("images/val: ignored files: 1, such as images/val/cat/9.bmp", done.stderr)
        shutil.rmtree(self.folder / "images" / "train")
        tested = self.run_polyak("test", config, "run/epoch_12.pth")
        self.assertEqual(tested.stdout, "accuracy: 100.0000\n")

    def test_skips_bad_images_if_told_and_counts_them(self):
        config = self.write(self.folders())
        for name in ("train/ant/1.png", "val/bee/2.png"):
            (self.folder / "images" / name).write_bytes(b"")
        done = self.train(config, "--work-dir", "run", "--cfg-options", *(
            f"{part}_dataloader.dataset.on_bad_image=skip" for part in ("train", "val")))
        self.assertEqual(self.table(done)[-1]["accuracy"], 100)
        for name in ("train/ant/1.png", "val/bee/2.png"):
            self.assertEqual(done.stderr.count(f"images/{name}: is empty; skipped (1 of 12 images so far)"), 1)


class Test(CommandTest):
    def test_measures_the_averaged_weights_of_a_checkpoint(self):
        config = self.write(SMALL + COSINE)
        row = self.table(self.train(config, "--work-dir", "run"))[-1]
        done = self.run_polyak("test", config, "run/epoch_3.pth")
        metrics = dict(line.split(": ") for line in done.stdout.splitlines())
        self.assertAlmostEqual(float(metrics["accuracy"]), row["accuracy, averaged by CosineEMA"], places=2)
        self.assertAlmostEqual(float(metrics["accuracy_origin"]), row["accuracy, raw weights"], places=2)

    def test_needs_no_hook_to_get_the_averaged_weights(self):
        row = self.table(self.train(self.write(SMALL + COSINE), "--work-dir", "run"))[-1]
        done = self.run_polyak("test", self.write(SMALL, "plain.yaml"), "run/epoch_3.pth")
        self.assertAlmostEqual(float(done.stdout.split(": ")[1]), row["accuracy, averaged by CosineEMA"], places=2)


class Config(CommandTest):
    def test_check_prints_what_trains_the_same(self):
        config = self.write(SMALL + COSINE)
        done = self.run_polyak("check", config, "--cfg-options", "train_cfg.max_epochs=2")
        self.assertIn("max_epochs: 2", done.stdout)
        self.assertEqual(list(self.folder.glob("work_dirs/**/*")), [])
        self.train(self.write(done.stdout, "resolved.yaml"), "--work-dir", "a")
        self.train(config, "--work-dir", "b", "--cfg-options", "train_cfg.max_epochs=2")
        self.assertEqual(self.scalars("a"), self.scalars("b"))

    def test_check_lists_what_an_average_covers(self):
        config = self.write(SMALL + COSINE)
        scope = "custom_hooks.0.exclude=^head"
        lines = self.run_polyak("check", config, "--cfg-options", scope).stderr.splitlines()
        for text in ("EMAHook: averaged: ", "EMAHook: copied at every update: ",
                     "EMAHook: shared with the model: 2 tensors"):
            self.assertEqual(len([line for line in lines if text in line]), 1, lines)
        self.assertEqual(list(self.folder.glob("work_dirs/**/*")), [])
        done = self.run_polyak("check", config, "--cfg-options", "custom_hooks.0.exclude=^hed", status=2)
        self.assertIn("custom_hooks[0].exclude", done.stderr)
        self.assertIn("did you mean 'head'?", done.stderr)

    def test_check_says_what_the_run_will_do(self):
        config = self.write(SMALL + "custom_hooks:\n  - {type: EMAHook, momentum: 0.2, interval: 2}\n"
                            "  - {type: EMAHook, name: never, momentum: 0.2, interval: 50}\n")
        done = self.run_polyak("check", config, "--cfg-options", "optim_wrapper.accumulative_counts=2")
        self.assertIn("run: 3 epochs of 8 iterations, 12 optimizer steps of 32 samples", done.stderr)
        self.assertRegex(done.stderr, r"model: \d+ parameters, \d+ of them trained")
        memory = re.search(r"memory: weights (\S+ \S+), gradients (\S+ \S+), optimizer (\S+ \S+), averages (\S+ \S+);",
                           done.stderr)
        self.assertEqual(memory[2], memory[3])  # SGD with momentum
        order = [done.stderr.index(name) for name in ("RuntimeInfoHook", "IterTimerHook", "CheckpointHook")]
        self.assertEqual(order, sorted(order))
        self.assertIn("ExponentialMovingAverage: weight of the new value, from 0.2 at update 2 to 0.2 at update 10",
                      done.stderr)
        self.assertIn("\u2500", done.stderr)  # the plot's axis
        self.assertIn("'never': none of its 12 updates averages", done.stderr)

    def test_check_warns_of_an_average_that_is_too_slow_for_the_run(self):
        def warned(hook):  # of a run of 24 steps
            done = self.run_polyak("check", self.write(SMALL + "custom_hooks:\n  - {type: EMAHook, " + hook + "}\n"))
            return [line for line in done.stderr.splitlines() if "too slow" in line]

        line, = warned("momentum: 0.01")
        self.assertIn("EMAHook: the average (ExponentialMovingAverage) is too slow for this run: after its 24 updates", line)
        self.assertIn("the first weights are still 79 % of it", line)
        fits = re.search(r"momentum: (\S+) \(the same as decay: \S+\) would fit", line)[1]
        self.assertEqual(warned(f"momentum: {fits}"), [])
        self.assertRegex(warned("momentum: 0.2, begin_epoch: 3, name: slow")[0], "the average 'slow' .* its 8 updates")
        self.assertEqual(len(warned("momentum: 0.2, interval: 3")), 1)
        self.assertEqual(warned("ema_type: StochasticWeightAverage"), [])

    def test_check_warns_of_schedules_that_end_early_and_of_means_without_statistics(self):
        def warned(hook):  # of a run of 24 steps
            done = self.run_polyak("check", self.write(SMALL + "custom_hooks:\n  - {type: EMAHook, " + hook + "}\n"))
            return [line for line in done.stderr.splitlines() if "WARNING" in line]

        line, = warned("ema_type: CosineEMA, momentum: 0.4, max_iters: 12")
        self.assertIn("EMAHook: the average (CosineEMA) has max_iters: 12, but the run makes 24 updates; its weight is 0 "
                      "from there on", line)
        line, = warned("ema_type: CosineEMA, momentum: 0.2, end_momentum: 0.4, max_iters: 3, name: short")
        self.assertIn("the average 'short' (CosineEMA) has max_iters: 3, less than its horizon at the start, 5 updates",
                      line)
        self.assertEqual(warned("ema_type: CosineEMA, momentum: 0.48"), [])

        line, = warned("ema_type: StochasticWeightAverage")  # SmallCNN has BatchNorm
        self.assertIn("its BatchNorm layers have the statistics of the raw ones; add {type: PreciseBNHook}", line)
        self.assertEqual(warned("ema_type: StochasticWeightAverage, update_buffers: true"), [])
        self.assertEqual(warned("ema_type: StochasticWeightAverage}\n  - {type: PreciseBNHook"), [])
        self.assertEqual(warned("momentum: 0.2"), [])

    def test_cfg_options_go_before_other_options(self):
        self.train(self.write(SMALL), "--work-dir", "a", "--cfg-options", "work_dir=b", "train_cfg.max_epochs=1")
        self.assertTrue((self.folder / "b" / "epoch_1.pth").exists())
        self.assertFalse((self.folder / "a").exists())

    def test_quotes_on_the_command_line_keep_commas_and_blanks(self):
        done = self.run_polyak("check", self.write(SMALL), "--cfg-options", "work_dir='a, b'",
                               "custom_hooks=[]", "load_from=None")
        self.assertIn("work_dir: 'a, b'", done.stdout)
        done = self.run_polyak("check", self.write(SMALL), "--cfg-options", "work_dir=my dir/x y")
        self.assertIn("work_dir: my dir/x y", done.stdout)

    def test_a_test_leaves_the_config_of_the_run_alone(self):
        config = self.write(SMALL)
        self.train(config, "--work-dir", "run")
        before = (self.folder / "run" / "config.yaml").read_text()
        self.run_polyak("test", config, "run/epoch_3.pth", "--work-dir", "run", "--cfg-options",
                        "val_dataloader.batch_size=32")
        self.assertEqual((self.folder / "run" / "config.yaml").read_text(), before)
        written = list((self.folder / "run").glob("*/config.yaml"))
        self.assertEqual(len(written), 1)
        self.assertIn("batch_size: 32", written[0].read_text())

    def test_a_schedule_that_does_nothing_is_warned_about_at_its_key(self):
        config = self.write(SMALL + "param_scheduler:\n  - type: LinearLR\n    end: 1\n  - {type: StepLR, step_size: 3}\n")
        for command in (["check", config], ["train", config, "--work-dir", "run"]):
            done = self.run_polyak(*command)
            self.assertRegex(done.stderr, r"WARNING - \S*config\.yaml:\d+:5: param_scheduler\[0\]\.end: .*"
                                          r"reaches end_factor only with end: 2 or more")
            self.assertRegex(done.stderr, r"param_scheduler\[1\]\.step_size: .* never changes")
        rates = {json.loads(line)["lr"] for file in (self.folder / "run").glob("*/vis_data/scalars.json")
                 for line in file.read_text().splitlines() if "lr" in json.loads(line)}
        self.assertEqual(len(rates), 1)
        self.assertAlmostEqual(rates.pop(), 0.05 / 3)

    def test_shipped_configs_warn_of_no_schedule_and_no_hook(self):
        for path in sorted(CONFIGS.glob("fashion*.yaml")):
            done = self.run_polyak("check", path)
            self.assertNotIn("WARNING", done.stderr, path)

    def test_what_has_no_effect_is_warned_about(self):
        done = self.run_polyak("check", self.write(
            SMALL + "default_hooks:\n  checkpoint: {type: CheckpointHook, max_keep_ckpts: 2}\n"))
        self.assertIn("max_keep_ckpts is 2, but only the last is saved, since interval is -1; set interval: 1",
                      done.stderr)
        schedule = SMALL + "param_scheduler: {type: StepLR, step_size: 1}\n"
        done = self.run_polyak("check", self.write(schedule + "default_hooks: {param_scheduler: null}\n"))
        self.assertRegex(done.stderr, r"config\.yaml:\d+:1: param_scheduler: there is no ParamSchedulerHook")
        for others in ("default_hooks: {param_scheduler: null}\ncustom_hooks: [{type: ParamSchedulerHook}]\n", ""):
            done = self.run_polyak("check", self.write(schedule + others))
            self.assertNotIn("WARNING", done.stderr)

    def test_every_integer_has_bounds(self):
        rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]]
                for line in (CONFIGS.parent / "docs" / "reference.md").read_text().splitlines() if line.startswith("| `")]
        integers = [row for row in rows if "integer" in row[1] and row[0] != "seed"]
        self.assertGreater(len(integers), 40)
        for key, _, _, bounds, _ in integers:
            self.assertRegex(bounds, r"^in [\[(].*, \d+[\])]$", key)


class Streams(CommandTest):
    """What becomes of a run whose output nobody takes, or whose files may not grow."""

    def shell(self, redirection, *arguments, limit=None):
        """The status of a command in a shell, by itself, with its output as the redirection says."""
        words = " ".join(f"'{word}'" for word in (POLYAK, *arguments))
        limit = f"ulimit -f {limit}; " if limit else ""
        return subprocess.run(["bash", "-c", f"{limit}{words} {redirection}; exit ${{PIPESTATUS[0]}}"], cwd=self.folder,
                              capture_output=True, text=True, timeout=280)

    def log(self, work_dir):
        return "".join(path.read_text() for path in (self.folder / work_dir).glob("*/*.log"))

    def test_a_run_with_closed_streams_writes_whole_files(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "open")
        for closed in (">&- 2>&-", "<&- >&- 2>&-", "2>&-", "<&-"):
            with self.subTest(closed=closed):
                done = self.shell(closed, "train", config, "--work-dir", "closed")
                self.assertEqual(done.returncode, 0)
                self.assertEqual(self.scalars("closed"), self.scalars("open"))
                self.assertEqual((self.folder / "closed/last_checkpoint").read_text().strip(), "epoch_3.pth")
                self.run_polyak("test", config, "closed/epoch_3.pth")
                shutil.rmtree(self.folder / "closed")

    def test_a_terminal_of_any_width_shows_a_bar_and_whole_lines(self):
        config = self.write(SMALL)
        for columns in (100, 40):
            status, text = run_in_terminal(
                "stderr", columns, [POLYAK, "train", config, "--work-dir", "run", "--cfg-options",
                                    "train_dataloader.dataset.size=8192"], cwd=self.folder, stdout=subprocess.DEVNULL)
            self.assertEqual(status, 0)
            pieces = re.split(r"[\r\n]+", text)
            bars = [re.sub("\x1b\\[K", "", piece) for piece in pieces if piece.startswith("epoch ")]
            self.assertTrue(bars, pieces)
            for bar in bars:
                self.assertRegex(bar, r"^epoch \d/3 \[#*\.*\] \d+/512")
                self.assertLess(len(bar), columns)
            if columns == 100:  # of the last epoch, behind two validations
                self.assertRegex(bars[-1], r"  eta \d:\d\d:\d\d  \d+ samples/s  loss \S+  accuracy \S+$")
            for piece in pieces:  # a bar is gone before a line begins
                if "polyak - INFO" in piece:
                    self.assertRegex(piece, r"^\x1b\[K\d\d/\d\d ")
            shutil.rmtree(self.folder / "run")

    def test_a_reader_that_goes_away_ends_the_log_and_not_the_training(self):
        config = self.write(SMALL)
        for redirection in ("2>&1 | head -1", "2>&1 | true", "| true", "2> >(true)"):
            with self.subTest(redirection=redirection):
                done = self.shell(redirection, "train", config, "--work-dir", "run")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue((self.folder / "run" / "epoch_3.pth").exists())
                self.assertIn("Epoch(val) [3]", self.log("run"))
                shutil.rmtree(self.folder / "run")

    def test_a_reader_that_goes_away_leaves_an_error_its_status(self):
        self.assertEqual(self.shell("2>&1 | true", "train", "nothing.yaml").returncode, 2)
        self.assertEqual(self.shell("2>&1 | true", "trian").returncode, 2)

    def test_a_reader_that_has_seen_enough_is_no_failure(self):
        for arguments in (["list"], ["describe", "EMAHook"], ["--help"]):
            done = self.shell("| head -1", *arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
        # check also says on standard error what the run will do.
        done = self.shell("| head -1", "check", self.write(SMALL))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("cannot be written", done.stderr)

    def test_output_that_is_lost_is_a_failure(self):
        for arguments in (["list"], ["describe", "EMAHook"]):
            done = self.shell("> /dev/full", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr, "polyak: standard output cannot be written: No space left on device\n")

    def test_a_limit_on_file_sizes_is_an_error_that_names_the_file(self):
        wide = ("--cfg-options", "model.backbone.channels=[64, 128]")
        done = self.shell("", "train", self.write(SMALL), "--work-dir", "run", *wide, limit=64)
        self.assertEqual(done.returncode, 1, done.stderr)
        message = done.stderr.splitlines()[-1]
        for part in ("polyak: run/epoch_1.pth: cannot be written: File too large", "ulimit -f"):
            self.assertIn(part, message)
        self.assertEqual(sorted(path.name for path in (self.folder / "run").iterdir() if path.is_file()),
                         [".lock", "config.yaml"])

    def test_logs_that_may_not_grow_are_given_up_with_a_word_and_training_goes_on(self):
        options = ("--cfg-options", "default_hooks.checkpoint=null", "train_cfg.max_epochs=8",
                   "default_hooks.logger.type=LoggerHook", "default_hooks.logger.interval=1")
        done = self.shell("", "train", self.write(SMALL), "--work-dir", "run", *options, limit=4)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.table(done)), 8)
        self.assertEqual(done.stderr.count("continuing without the log file"), 1)
        self.assertEqual(done.stderr.count("scalars.json cannot be written: File too large; continuing without it"), 1)
        self.assertGreater(len(self.scalars("run")), 10)  # each a whole line


if __name__ == "__main__":
    POLYAK, CONFIGS = sys.argv[1], pathlib.Path(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
