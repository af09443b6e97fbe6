# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's own reader against scalars.json, for a run and one that resumes it.

Usage: tensorboard_events.py POLYAK. Needs tensorboard.
"""
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

POLYAK = pathlib.Path(sys.argv[1]).resolve()
CONFIG = """
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [4]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 8, dataset: {type: MNIST, data_root: data}}
val_dataloader: {batch_size: 8, dataset: {type: MNIST, data_root: data}}
val_evaluator: {type: Accuracy}
train_cfg: {by_epoch: true, max_epochs: 2}
optim_wrapper: {optimizer: {type: SGD, lr: 0.1}}
custom_hooks: [{type: EMAHook, momentum: 0.1}]
default_hooks: {logger: {type: LoggerHook, interval: 1}}
vis_backends: [{type: LocalVisBackend}, {type: TensorboardVisBackend}]
randomness: {seed: 1}
env_cfg: {num_threads: 1}
"""


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def write_data(folder):
    folder.mkdir()
    for split in ("train", "t10k"):
        pixels = bytes(i * 37 % 256 for i in range(40 * 64))
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 40, 8, 8) + pixels)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, 40) + bytes(i % 10 for i in range(40)))


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def read_events(folder):
    """[(step, {tag: value}), ...] of a folder's only event file; the loader checks each record's checksums."""
    (file,) = folder.glob("events.out.tfevents.*")
    events = list(EventFileLoader(str(file)).Load())
    check(events[0].file_version == "brain.Event:2", f"the file begins with {events[0]}")
    read = []
    for event in events[1:]:
        check(event.wall_time > 1.7e9, f"an event's time is {event.wall_time}")
        read.append((event.step, {value.tag: float(tensor_util.make_ndarray(value.tensor)) for value in
                                  event.summary.value}))
    return read


def compare(folder, lines):
    """As many events as lines of scalars.json, with their numbers."""
    written = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
    check(len(written) == lines, f"scalars.json has {len(written)} lines, not {lines}")
    events = read_events(folder)
    check(len(events) == lines, f"TensorBoard reads {len(events)} events, not {lines}")
    for (step, values), line in zip(events, written):
        check(step == line.pop("step"), "an event has another step")
        check(values.keys() == line.keys(), f"{sorted(values)} are not {sorted(line)}")
        for name, value in line.items():
            check(value is None and math.isnan(values[name]) or values[name] == as_float32(value),
                  f"{name} is {values[name]}, not {value}")


def train(folder, *options, status=0):
    done = subprocess.run([POLYAK, "train", "config.yaml", "--work-dir", "out", *options], cwd=folder, text=True,
                          capture_output=True, timeout=120)
    check(done.returncode == status, done.stderr)
    return max((folder / "out").glob("*/vis_data"))


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_data(folder / "data")
        (folder / "config.yaml").write_text(CONFIG)
        per_epoch = 5 + 1
        compare(train(folder, "--cfg-options", "train_cfg.max_epochs=1"), per_epoch)
        compare(train(folder, "--resume"), 2 * per_epoch)
        # A loss that is not a number.
        subprocess.run(["rm", "-r", folder / "out"], check=True)
        compare(train(folder, "--cfg-options", "optim_wrapper.optimizer.lr=1e30", status=1), 2 * per_epoch)
    print("TensorBoard reads what scalars.json says")


if __name__ == "__main__":
    main()
