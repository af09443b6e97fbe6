# SPDX-License-Identifier: Apache-2.0
"""Configs, command lines and files that the `polyak` command refuses, each by one message.

Usage: bad_input_test.py POLYAK [unittest arguments].
"""
import gzip
import shutil
import struct
import sys
import unittest

import cli_test
from cli_test import COSINE, SMALL, CommandTest


class BadInput(CommandTest):
    def refuse(self, text, says, status=2, options=()):
        self.expect_refusal("train", self.write(text), "--work-dir", "run",
                            *(["--cfg-options", *options] if options else []), status=status, says=says)

    def test_values_of_the_average_out_of_range(self):
        for value, says in ((".nan", "nan"), (".inf", "inf"), ("0", "(0, 1)"), ("1", "(0, 1)"), ("3", "(0, 1)"),
                            ("-1", "(0, 1)"), ("high", "number")):
            self.refuse(SMALL + COSINE.replace("0.1", value), ["config.yaml:", "momentum", says])
        for value in ("0", "-1", "1.5"):
            self.refuse(SMALL + COSINE + f"    interval: {value}\n", "interval")
        for value in ("-0.1", "1.5"):
            self.refuse(SMALL + COSINE + f"    end_momentum: {value}\n", "end_momentum")
        self.refuse(SMALL + COSINE + "    max_iters: 0\n", "max_iters")
        self.refuse(SMALL + COSINE + "    begin_iter: 1\n    begin_epoch: 1\n", "begin_epoch")
        self.refuse(SMALL + COSINE + "    device: warp\n", "'warp' is not a device")
        self.refuse(SMALL + COSINE + "    momentm: 0.1\n",
                    ["config.yaml:", "custom_hooks[0].momentm: unknown key; did you mean 'momentum'? EMAHook takes: "])
        self.refuse(SMALL + COSINE.replace("CosineEMA", "CosinEMA"), "did you mean 'CosineEMA'?")
        self.refuse(SMALL + COSINE.replace("EMAHook", "EMAHok"), "did you mean 'EMAHook'?")

    def test_a_run_that_would_never_average(self):
        self.refuse(SMALL + COSINE + "    begin_epoch: 9\n", "begin_epoch")
        self.expect_refusal("check", self.write(SMALL + COSINE + "    begin_epoch: 9\n"), status=2, says="begin_epoch")

    def test_two_averages_of_one_name(self):
        self.refuse(SMALL + COSINE + "  - {type: EMAHook}\n", "'name'")

    def test_a_metric_that_no_validation_gives(self):
        self.refuse(SMALL, ["accurcy", "did you mean 'accuracy'?"],
                    options=["default_hooks.checkpoint.type=CheckpointHook",
                             "default_hooks.checkpoint.save_best=accurcy", "default_hooks.checkpoint.rule=greater"])

    def test_files_that_are_no_config(self):
        missing = str(self.folder / "missing.yaml")
        self.expect_refusal("train", missing, status=2, says=[missing, "no such file"])
        self.expect_refusal("train", self.folder, status=2, says="directory")
        self.expect_refusal("train", self.write(""), status=2, says="empty")
        (self.folder / "binary.yaml").write_bytes(bytes(range(256)) * 8)
        self.expect_refusal("train", self.folder / "binary.yaml", status=2, says="binary.yaml")
        self.expect_refusal("train", self.write("a: [1"), status=2, says="config.yaml:")
        self.write("_base_: b.yaml", "a.yaml")
        self.expect_refusal("train", self.folder / "a.yaml", status=2, says="b.yaml")
        self.write("_base_: a.yaml", "b.yaml")
        self.expect_refusal("train", self.folder / "a.yaml", status=2, says=["a.yaml", "b.yaml"])
        self.refuse(SMALL + "randomness: {seed: 1}\n", ["randomness", "config.yaml:"])
        self.refuse(SMALL + "modle: {}\n", "did you mean 'model'?")
        self.refuse(SMALL.replace("SmallCNN", "SmalCNN"), "did you mean 'SmallCNN'?")

    def test_a_wrong_command_line(self):
        for arguments in ([], ["train"], ["trian", "x"], ["test", "x"], ["describe", "EMAHok"], ["list", "hok"]):
            self.run_polyak(*arguments, status=2)

    def test_a_device_that_is_not_there(self):
        self.refuse(SMALL, "device", options=["device=warp"])
        self.refuse(SMALL, "device", options=["device=cuda:77"])

    def test_a_work_dir_that_cannot_be_written(self):
        blocked = self.write("a file", "blocked")
        self.expect_refusal("train", self.write(SMALL), "--work-dir", blocked + "/run", status=2, says="blocked")

    def data(self, images=20, labels=20, cut=0, magic=2051):
        root = self.folder / "given"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        pixels = struct.pack(">IIII", magic, images, 28, 28) + bytes(images * 784 - cut)
        (root / "train-images-idx3-ubyte").write_bytes(pixels)
        (root / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, labels) + bytes(labels))
        (root / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels)[:-9 if cut else None])
        (root / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, labels) + bytes(labels))
        return SMALL.replace("type: RandomImages, size: 128, num_classes: 4", f"type: MNIST, data_root: {root}").replace(
            ", seed: 1}", "}")

    def test_data_files_that_are_missing_cut_or_something_else(self):
        self.refuse(self.data().replace("given", "nowhere"), "nowhere", status=1)
        self.refuse(self.data(cut=100), ["train-images", "bytes"], status=1)
        self.refuse(self.data(magic=1234), ["train-images", "idx"], status=1)
        self.refuse(self.data(labels=19), ["19", "20"], status=1)

    def test_images_that_are_empty_cut_or_something_else(self):
        config = self.folders()
        image = self.folder / "images" / "train" / "bee" / "2.png"
        whole = image.read_bytes()
        for data, says in ((b"", "is empty"), (whole[:len(whole) * 2 // 5], "contains no complete PNG image"),
                           (b"hello", "is not a JPEG or PNG image")):
            image.write_bytes(data)
            self.refuse(config, ["images/train/bee/2.png", says, "on_bad_image: skip"], status=1)
        self.refuse(config, ["on_bad_image", "error, skip", "ignore"],
                    options=["train_dataloader.dataset.on_bad_image=ignore"])

    def test_class_folders_that_training_does_not_know(self):
        config = self.folders()
        (self.folder / "images" / "val" / "bee").rename(self.folder / "images" / "val" / "wasp")
        self.refuse(config, ["images/val: contains classes that the training data does not have: 'wasp'",
                             "'ant', 'bee', 'cat'"], status=1)

    def test_a_validation_without_labels(self):
        self.refuse(SMALL, ["val_evaluator", "`labelled`"], options=["val_dataloader.dataset.labelled=0"])

    def test_checkpoints_that_do_not_fit_or_are_cut(self):
        config = self.write(SMALL + COSINE)
        self.train(config, "--work-dir", "made")
        given = self.folder / "given"
        given.mkdir()
        whole = (self.folder / "made" / "epoch_3.pth").read_bytes()
        shutil.rmtree(self.folder / "made")
        (given / "whole.pth").write_bytes(whole)
        (given / "cut.pth").write_bytes(whole[:len(whole) // 2])
        (given / "text.pth").write_text("hello")
        (given / "empty.pth").write_bytes(b"")
        for name in ("cut.pth", "text.pth", "empty.pth", "absent.pth"):
            self.expect_refusal("train", config, "--resume", given / name, status=1, says=name)
            self.expect_refusal("test", config, given / name, status=1, says=name)
        other = self.write((SMALL + COSINE).replace("[4, 8]", "[4, 16]"), "other.yaml")
        self.expect_refusal("train", other, "--resume", given / "whole.pth", status=1, says="whole.pth")
        self.expect_refusal("test", other, given / "whole.pth", status=1, says="whole.pth")


if __name__ == "__main__":
    cli_test.POLYAK = sys.argv[1]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
