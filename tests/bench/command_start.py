# SPDX-License-Identifier: Apache-2.0
"""How long `polyak list`, `describe` and `check --static` take, beside an empty program with the same LibTorch.

Usage: command_start.py POLYAK EMPTY_PROGRAM CONFIGS [ROUNDS]. In each round every command runs once, in turn; the table
has medians of wall time and of the differences to the empty program in the same round. For comparison `check`, which
reads data and builds the model, of a config without data of its own.
"""
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

RANDOM = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [4]}
  head: {type: LinearClsHead, num_classes: 4, loss: {type: CrossEntropyLoss}}
train_dataloader: {batch_size: 32, dataset: {type: RandomImages, size: 128, num_classes: 4}}
train_cfg: {by_epoch: true, max_epochs: 3}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05}}
custom_hooks: [{type: EMAHook, ema_type: CosineEMA}]
"""


def seconds(command):
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main(polyak, empty, configs, rounds):
    largest = max(pathlib.Path(configs).glob("*.yaml"), key=lambda path: len(
        subprocess.run([polyak, "check", "--static", path], capture_output=True, check=True).stdout))
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "config.yaml"
        config.write_text(RANDOM)
        commands = {"an empty program": [empty], "list": [polyak, "list"], "describe": [polyak, "describe", "EMAHook"],
                    f"check --static {largest.name}": [polyak, "check", "--static", largest],
                    "check, whole, of a small model": [polyak, "check", config]}
        times = {name: [] for name in commands}
        for _ in range(rounds + 1):
            for name, command in commands.items():
                times[name].append(seconds(command))
    first = next(iter(times))
    print(f"| command | s | more than an empty program, s |\n|---|---|---|")
    for name, found in times.items():  # the first round fills the caches
        more = [a - b for a, b in zip(found[1:], times[first][1:])]
        print(f"| {name} | {statistics.median(found[1:]):.3f} | {statistics.median(more):+.3f} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 15)
