# SPDX-License-Identifier: Apache-2.0
"""Runs change sides: MMEngine's own Runner goes on from Polyak's checkpoints and ends as Polyak does, and the other way
round, with each EMAHook rule that both have, and with mmpretrain's BYOL and MoCo v3.

Usage: mmengine_runs.py POLYAK. Needs torch, mmengine 0.10.7 and mmpretrain 1.2.0.
"""
import copy
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest.mock
import warnings

# MMEngine loads its own files by torch.load's default, which since PyTorch 2.6 refuses its HistoryBuffers.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
import torch

warnings.filterwarnings("ignore")  # of the libraries, about what is installed

from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmpretrain.models.selfsup import BYOL
from mmpretrain.models.utils import CosineEMA
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

POLYAK = pathlib.Path(sys.argv[1]).resolve()
SIDE, CLASSES, BATCH, BATCHES, EPOCHS, HALF = 8, 10, 8, 6, 4, 2
TOLERANCE = 1e-6  # of weights, averages and rates
STATE_TOLERANCE = 1e-5  # of sums of gradients, whose rounding errors no learning rate makes smaller


def check(condition, message):
    if not condition:
        raise AssertionError(message)


# ---- the same data and networks on both sides


def write_data(folder):
    """Noise in MNIST's files."""
    count = BATCH * BATCHES
    images = torch.randint(0, 256, (count, SIDE, SIDE), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count,), dtype=torch.uint8)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, SIDE, SIDE) + bytes(images.flatten().tolist()))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(labels.tolist()))
    return images.unsqueeze(1).float() / 255, labels.long()


@DATASETS.register_module()
class SameImages(torch.utils.data.Dataset):
    """What Polyak's loader gives: images in [0, 1]; for two views the image and its mirror image."""

    images = labels = None
    metainfo = {"classes": [str(label) for label in range(CLASSES)]}

    def __init__(self, views):
        self.views = views

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        inputs = [image, image.flip(-1)] if self.views else image
        return {"inputs": inputs, "data_samples": DataSample().set_gt_label(self.labels[index])}


@MODELS.register_module()
class SmallCNN(torch.nn.Module):
    """Polyak's backbone of that name."""

    def __init__(self, channels, with_avg_pool):
        super().__init__()
        check(with_avg_pool, "only with pooling")
        self.count = len(channels)
        for i, (before, after) in enumerate(zip([1, *channels], channels), 1):
            self.add_module(f"conv{i}", torch.nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            self.add_module(f"bn{i}", torch.nn.BatchNorm2d(after))

    def forward(self, x):
        for i in range(1, self.count + 1):
            x = torch.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return (x.mean((2, 3)),)


@VISUALIZERS.register_module()
class NoPictures(Visualizer):
    """Spares the test matplotlib."""

    def _initialize_fig(self, fig_cfg):
        return (unittest.mock.MagicMock(),) * 3


BACKBONE = {"type": "SmallCNN", "channels": [4, 8], "with_avg_pool": True}
CLASSIFIER = {
    "type": "ImageClassifier",
    "backbone": BACKBONE,
    "head": {"type": "LinearClsHead", "num_classes": CLASSES, "in_channels": 8, "loss": {"type": "CrossEntropyLoss"}},
}


def learner(algorithm, head, **keys):
    # Without the last normalisation's bias, which the predictor's takes out: its gradients would be rounding errors.
    neck = {"type": "NonLinearNeck", "in_channels": 8, "hid_channels": 16, "out_channels": 6, "with_avg_pool": False,
            "with_last_bn_affine": False}
    predictor = {**neck, "in_channels": 6, "with_last_bn": False}
    return {"type": algorithm, "backbone": BACKBONE, "neck": neck, "base_momentum": 0.1,
            "head": {"type": head, "predictor": predictor, **keys}}


BYOL_MODEL = learner("BYOL", "LatentPredictHead", loss={"type": "CosineSimilarityLoss"})
MOCO_MODEL = learner("MoCoV3", "MoCoV3Head", loss={"type": "CrossEntropyLoss", "loss_weight": 2.0})

SGD = {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
ADAMW = {"type": "AdamW", "lr": 0.005, "betas": [0.8, 0.99], "weight_decay": 0.02}
# Small steps for pairs of views, whose normalised losses make more of rounding errors.
SLOW_SGD, SLOW_ADAMW = {**SGD, "lr": 0.01}, {**ADAMW, "lr": 0.001}
SCHEDULE = [{"type": "LinearLR", "start_factor": 0.2, "by_epoch": False, "begin": 0, "end": 5},
            {"type": "CosineAnnealingLR", "by_epoch": True, "begin": 0, "T_max": EPOCHS}]


# ---- one run


class Case:
    """A training that both sides can run, in a folder of its own."""

    def __init__(self, folder, name, model, optimizer, average=None, accumulate=1, own_keys=None,
                 validate=False, by_epoch=True):
        self.validate, self.by_epoch = validate, by_epoch
        self.folder, self.name, self.model = folder / name, name, model
        self.folder.mkdir()
        self.views = model is not CLASSIFIER
        self.common = {
            "model": model,
            "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": optimizer, "accumulative_counts": accumulate},
            "param_scheduler": SCHEDULE,
            "custom_hooks": [{"type": "EMAHook", **average}] if average else [],
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": HALF}},
            "randomness": {"seed": 1},
        }
        if not by_epoch:
            self.common["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": EPOCHS * BATCHES}
            self.common["default_hooks"]["checkpoint"] = {"type": "CheckpointHook", "interval": HALF * BATCHES,
                                                          "by_epoch": False}
            self.common["param_scheduler"] = [
                {"type": "MultiStepLR", "by_epoch": False, "milestones": [5, 9, 17], "gamma": 0.5}]
        if validate:
            self.common["val_cfg"] = {}
            self.common["default_hooks"]["checkpoint"].update(save_best="auto", rule="greater")
        self.own_keys = own_keys or {}  # keys of EMAHook that MMEngine does not have

    def polyak(self, work_dir, *arguments):
        """Trains; gives the last checkpoint and the log."""
        config = copy.deepcopy(self.common)
        dataset = {"type": "MNIST", "data_root": str(self.folder.parent), "split": "train"}
        if self.views:
            dataset["pipeline"] = [{"type": "MultiView", "num_views": [1, 1], "transforms": [
                [{"type": "RandomFlip", "prob": 0.0}], [{"type": "RandomFlip", "prob": 1.0}]]}]
        config["train_dataloader"] = {"batch_size": BATCH, "dataset": dataset,
                                      "sampler": {"type": "DefaultSampler", "shuffle": False}}
        if self.validate:
            config["val_dataloader"] = {"batch_size": BATCH, "dataset": {**dataset, "split": "test"}}
            config["val_evaluator"] = {"type": "Accuracy"}
        config.update(device="cpu", env_cfg={"num_threads": 1})
        for hook in config["custom_hooks"]:
            hook.update(self.own_keys)
        path = self.folder / "config.yaml"
        path.write_text(json.dumps(config, indent=1))
        done = subprocess.run([POLYAK, "train", path, "--work-dir", work_dir, *arguments], cwd=self.folder,
                              capture_output=True, text=True)
        check(done.returncode == 0, f"{self.name}: polyak {arguments} ended with {done.returncode}:\n{done.stderr}")
        return self.checkpoint(work_dir), done.stdout + done.stderr

    def mmengine(self, work_dir, **keys):
        """Trains by MMEngine's Runner; gives the last checkpoint."""
        config = copy.deepcopy(self.common)
        config["train_dataloader"] = {"batch_size": BATCH, "num_workers": 0, "collate_fn": {"type": "default_collate"},
                                      "dataset": {"type": "SameImages", "views": self.views},
                                      "sampler": {"type": "DefaultSampler", "shuffle": False}}
        if self.validate:
            config["val_dataloader"] = copy.deepcopy(config["train_dataloader"])
            config["val_evaluator"] = {"type": "Accuracy"}
        config["default_hooks"]["logger"] = {"type": "LoggerHook", "interval": 1000}
        config["visualizer"] = {"type": "NoPictures", "name": f"{self.name}-{work_dir}"}
        config.update(default_scope="mmpretrain", log_level="ERROR", work_dir=str(self.folder / work_dir),
                      experiment_name=f"{self.name}-{work_dir}", **keys)
        runner = Runner.from_cfg(Config(config))
        names = [name for name, _ in runner.model.named_parameters()]
        runner.train()
        checkpoint = self.checkpoint(work_dir)
        checkpoint["optimizer"]["param_groups"][0]["param_names"] = names
        return checkpoint

    def file(self, epoch):
        return f"epoch_{epoch}.pth" if self.by_epoch else f"iter_{epoch * BATCHES}.pth"

    def checkpoint(self, work_dir, epoch=EPOCHS):
        # MMEngine's files have HistoryBuffers, numbers of numpy's and Counters.
        return torch.load(self.folder / work_dir / self.file(epoch), weights_only=False)


# ---- comparisons


def tensors_of(checkpoint):
    """All that both sides' files must agree on, by name."""
    found = {}
    for entry in ("state_dict", "ema_state_dict"):
        for name, tensor in checkpoint.get(entry, {}).items():
            found[f"{entry}: {name}"] = tensor
    optimizer = checkpoint["optimizer"]
    for group in optimizer["param_groups"]:
        check(len(group["param_names"]) == len(group["params"]), "a name for each parameter")
        for index, name in zip(group["params"], group["param_names"]):
            found[f"lr: {name}"] = torch.tensor(group["lr"], dtype=torch.float64)
            for key, value in optimizer["state"].get(index, {}).items():
                found[f"{key}: {name}"] = torch.as_tensor(value)
    return found


def check_same(case, wanted, got, what):
    """Numbers agree, integers exactly; gives the largest difference of a weight."""
    first, second = tensors_of(wanted), tensors_of(got)
    trained = [{name for name in side if not name.startswith("lr: ")} for side in (first, second)]
    check(trained[0] == trained[1], f"{case.name}, {what}: only one has {sorted(trained[0] ^ trained[1])}")
    worst = 0.0
    for name in sorted(first.keys() & second.keys()):
        difference = (first[name].double() - second[name].double()).abs().max().item()
        is_state = name.startswith(("momentum_buffer: ", "exp_avg"))
        bound = STATE_TOLERANCE if is_state else TOLERANCE if first[name].is_floating_point() else 0
        check(difference <= bound, f"{case.name}, {what}: {name} differs by {difference:.2g}")
        worst = max(worst, 0 if is_state else difference)
    return worst


def both_ways(case):
    """Two whole runs, and two that change sides in the middle, end as the side does that they come from."""
    start = f"{case.model['type']}.pth"
    theirs = case.mmengine("theirs", load_from=str(case.folder.parent / start))
    ours, _ = case.polyak("ours", "--cfg-options", f"load_from=../{start}")
    # Losses of pairs of views make more of rounding errors than whole runs have bounds for.
    worst = 0 if case.views else check_same(case, theirs, ours, "whole runs")
    there = case.mmengine("there", load_from=str(case.folder / "ours" / case.file(HALF)), resume=True)
    worst = max(worst, check_same(case, ours, there, "MMEngine goes on from Polyak's file"))
    here, _ = case.polyak("here", "--resume", f"theirs/{case.file(HALF)}")
    worst = max(worst, check_same(case, theirs, here, "Polyak goes on from MMEngine's file"))
    print(f"{case.name}: within {worst:.1e}")


# ---- accumulation: MMEngine's averages and mmpretrain's targets count iterations, Polyak's optimizer steps


ACCUMULATE = 2


class StepwiseEMA(CosineEMA):
    """mmpretrain's CosineEMA over the optimizer's steps of the run."""

    def avg_func(self, averaged_param, source_param, steps):
        hub = MessageHub.get_current_instance()
        iters = hub.get_info("max_iters")
        hub.update_info("max_iters", iters // ACCUMULATE)
        super().avg_func(averaged_param, source_param, steps)
        hub.update_info("max_iters", iters)


@MODELS.register_module()
class StepwiseBYOL(BYOL):
    """mmpretrain's BYOL whose target is updated once for each optimizer step."""

    def __init__(self, base_momentum, **keys):
        super().__init__(base_momentum=base_momentum, **keys)
        self.target_net = StepwiseEMA(torch.nn.Sequential(self.backbone, self.neck), momentum=base_momentum)
        self.calls = 0
        update = self.target_net.update_parameters
        self.target_net.update_parameters = lambda model: self.first_of_step() and update(model)

    def first_of_step(self):
        self.calls += 1
        return self.calls % ACCUMULATE == 1


def byol_takes_over_the_clock(folder):
    """Polyak goes on from a file whose target counted iterations, as mmpretrain would if it counted steps."""
    case = Case(folder, "BYOL, accumulating", BYOL_MODEL, SLOW_SGD, accumulate=ACCUMULATE)
    case.mmengine("theirs", load_from=str(folder / "BYOL.pth"))
    done = HALF * BATCHES
    file = case.checkpoint("theirs", HALF)
    check(file["state_dict"]["target_net.steps"] == done, "mmpretrain counts iterations")
    file["state_dict"]["target_net.steps"] //= ACCUMULATE
    torch.save(file, case.folder / "stepwise.pth")
    wanted = case.mmengine("stepwise", model={**BYOL_MODEL, "type": "StepwiseBYOL"}, resume=True,
                           load_from=str(case.folder / "stepwise.pth"))
    here, log = case.polyak("here", "--resume", f"theirs/epoch_{HALF}.pth")
    worst = check_same(case, wanted, here, "Polyak goes on from MMEngine's file")
    line = f"target_net.steps counts {done} iterations; it goes on from {done // ACCUMULATE} optimizer steps"
    check(line in log, f"no line '{line}' in:\n{log}")
    print(f"{case.name}: within {worst:.1e}")


# ---- the best score


def best_score_changes_sides(folder):
    """What no later validation exceeds stays the best, and writes no best file."""
    case = Case(folder, "best score", CLASSIFIER, SGD, validate=True)
    case.mmengine("theirs", load_from=str(folder / "ImageClassifier.pth"))
    case.polyak("ours", "--cfg-options", "load_from=../ImageClassifier.pth")
    for side in ("theirs", "ours"):
        file = case.checkpoint(side, HALF)
        info = file["message_hub"]["runtime_info"]
        check(0 <= info["best_score"] <= 100 and "best_" in info["best_ckpt"], f"{side}: {info}")
        info["best_score"] = 101.0
        torch.save(file, case.folder / f"{side}.pth")
    there = case.mmengine("there", load_from=str(case.folder / "ours.pth"), resume=True)
    here, _ = case.polyak("here", "--resume", "theirs.pth")
    for side, checkpoint in (("there", there), ("here", here)):
        score = checkpoint["message_hub"]["runtime_info"]["best_score"]
        check(score == 101, f"{case.name}, {side}: {score}")
        check(not list((case.folder / side).glob("**/best_*")), f"{case.name}, {side}: a best file")
    print(f"{case.name}: kept")


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        torch.manual_seed(1)
        SameImages.images, SameImages.labels = write_data(folder)
        for model in (CLASSIFIER, BYOL_MODEL, MOCO_MODEL):
            torch.save({"meta": {}, "state_dict": MODELS.build(copy.deepcopy(model)).state_dict()},
                       folder / f"{model['type']}.pth")

        averages = [
            {"ema_type": "ExponentialMovingAverage", "momentum": 0.1, "begin_iter": 4},
            {"ema_type": "MomentumAnnealingEMA", "momentum": 0.1, "gamma": 4, "interval": 2},
            {"ema_type": "StochasticWeightAverage", "begin_epoch": 2},
            {"ema_type": "CosineEMA", "momentum": 0.1, "end_momentum": 0.02},
        ]
        for average in averages:
            for optimizer in (SGD, ADAMW):
                both_ways(Case(folder, f"{average['ema_type']}, {optimizer['type']}", CLASSIFIER, optimizer, average))
        both_ways(Case(folder, "CosineEMA of iterations", CLASSIFIER, SGD, averages[3], ACCUMULATE,
                       {"count": "iterations"}))
        both_ways(Case(folder, "iterations", CLASSIFIER, ADAMW, averages[3], by_epoch=False))
        for model, optimizer in ((BYOL_MODEL, SLOW_SGD), (BYOL_MODEL, SLOW_ADAMW), (MOCO_MODEL, SLOW_ADAMW)):
            both_ways(Case(folder, f"{model['type']}, {optimizer['type']}", model, optimizer))
        byol_takes_over_the_clock(folder)
        best_score_changes_sides(folder)


if __name__ == "__main__":
    main()
