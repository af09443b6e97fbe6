# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a real run, opened as a Python user would: torch.load(weights_only=True), MMEngine's layout.

Usage: training_checkpoint.py POLYAK. Needs torch, of any version from 1.13.
"""
import pathlib
import subprocess
import sys
import tempfile

import torch

CONFIG = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4, 8]}
  head: {type: LinearClsHead, num_classes: 4, loss: {type: CrossEntropyLoss}}
train_dataloader:
  batch_size: 16
  dataset: {type: RandomImages, size: 64, num_classes: 4}
train_cfg: {by_epoch: true, max_epochs: 2}
optim_wrapper: {optimizer: {type: AdamW, lr: 0.01}}
param_scheduler: {type: CosineAnnealingLR, T_max: 2}
custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.1}]
randomness: {seed: 1}
"""


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def main(polyak):
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        subprocess.run([polyak, "train", config, "--work-dir", "run"], cwd=folder, check=True, capture_output=True)
        # A file with an optimizer holds floats, which 1.13's weights_only reader does not know.
        safe = int(torch.__version__.split(".")[0]) >= 2
        checkpoint = torch.load(pathlib.Path(folder) / "run" / "epoch_2.pth", weights_only=safe)

    check(set(checkpoint) == {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers", "polyak",
                              "ema_state_dict"}, list(checkpoint))
    check(checkpoint["meta"]["epoch"] == 2 and checkpoint["meta"]["iter"] == 8, checkpoint["meta"])
    averaged, raw = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    check(raw["steps"].dtype == torch.int64 and raw["steps"].item() == 8, raw["steps"])
    check(["module." + name for name in averaged] == list(raw)[1:], "the names of both")
    for name, value in averaged.items():
        other = raw["module." + name]
        check(value.shape == other.shape and value.dtype == other.dtype, name)
        check(value.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32), name)
        check(bool(torch.isfinite(value).all()), name)
    weight = next(name for name in averaged if name.endswith("weight"))
    check(not torch.equal(averaged[weight], raw["module." + weight]), "averaged and raw weights differ")
    print(f"torch {torch.__version__} reads a checkpoint of a run")


if __name__ == "__main__":
    main(sys.argv[1])
