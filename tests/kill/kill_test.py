# SPDX-License-Identifier: Apache-2.0
"""Runs of the `polyak` command that are ended at any instant and resumed end as the run that never was.

Usage: kill_test.py POLYAK KILL_AT_LIBRARY [--runs N] [--operations N] [--seed S]

--runs: so many runs, each ended at a random instant, by SIGKILL, SIGTERM, SIGUSR1 and SIGINT in turn, some of them
more than once. --operations: runs ended by SIGKILL right before an operation on files (open to write, rename, remove,
fsync, mkdir, ftruncate); 0: before each one that a run makes, once. The whole test is --runs 60 --operations 0.
Needs Python's torch. Compared with the undisturbed run: names of all checkpoints, every value and tensor in them,
last_checkpoint, and the newest scalars.json, all without times and what names a run.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import torch

BASE = """
model:
  type: ImageClassifier
  backbone: {type: SmallCNN, channels: [8, 16]}
  head: {type: LinearClsHead}
train_dataloader: {batch_size: 16, dataset: {type: RandomImages, size: 96}}
val_dataloader: {batch_size: 8, dataset: {type: RandomImages, size: 64, seed: 1}}
val_evaluator: {type: Accuracy}
randomness: {seed: 0}
env_cfg: {num_threads: 1}
"""

EPOCHS = BASE + """
train_cfg: {by_epoch: true, max_epochs: 5}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9}}
param_scheduler:
  - {type: CosineAnnealingLR, by_epoch: true, T_max: 5}
  - {type: LinearMomentum, by_epoch: false, start_factor: 0.5, end: 20}
custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.05, evaluate_on_origin: true}]
default_hooks:
  logger: {type: LoggerHook, interval: 4}
  checkpoint: {type: CheckpointHook, interval: 1, max_keep_ckpts: 2, save_best: [accuracy, accuracy_origin]}
"""

# Saves between the iterations of an optimizer step, two hooks that save, one of them in the background, statistics that
# are estimated at a save.
ITERATIONS = BASE + """
train_cfg: {by_epoch: true, max_epochs: 5}
optim_wrapper: {optimizer: {type: AdamW, lr: 0.01}, accumulative_counts: 2}
param_scheduler:
  - {type: LinearLR, by_epoch: false, end: 20}
  - {type: CosineAnnealingMomentum, by_epoch: true, T_max: 5, eta_min: 0.5}
custom_hooks:
  - {type: EMAHook, ema_type: StochasticWeightAverage, evaluate_on_origin: true}
  - {type: EMAHook, name: slow, momentum: 0.1}
  - {type: PreciseBNHook, num_samples: 64}
  - {type: CheckpointHook, by_epoch: false, interval: 3, max_keep_ckpts: 2, save_best: accuracy_slow, out_dir: often,
     async_save: true}
default_hooks:
  logger: {type: LoggerHook, interval: 4}
  checkpoint: {type: CheckpointHook, interval: 2, save_best: accuracy}
"""

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


class Failed(Exception):
    pass


def plain(value, path=""):
    """A checkpoint's value without what differs between processes; tensors as lists of bits."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.contiguous().flatten().view(torch.uint8).tolist()
                if value.numel() and value.dim() else value.tolist()]
    if isinstance(value, dict):
        left_out = {"meta": {"time", "cfg", "experiment_name"}, "polyak.logger": {"scalars"}}.get(path, set())
        if path.startswith("message_hub.runtime_info.checkpoint_hooks."):
            left_out = {"stop"}  # another hook's file of a stop is there until that hook's next save, as this file says
        return {str(key): plain(item, f"{path}.{key}" if path else str(key))
                for key, item in value.items() if key not in left_out}
    if isinstance(value, (list, tuple)):
        return [plain(item, path) for item in value]
    return value


def difference(first, second, path=""):
    """Where two plain values differ; "" where they do not."""
    if isinstance(first, dict) and isinstance(second, dict):
        if set(first) != set(second):
            return f"{path}: keys {sorted(set(first) ^ set(second))}"
        return next(filter(None, (difference(first[key], second[key], f"{path}.{key}") for key in first)), "")
    return "" if first == second else f"{path}: {str(first)[:60]} and {str(second)[:60]}"


def outcome(folder):
    """What a run leaves, comparably."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "vis_data" not in path.parts)
    checkpoints = {str(path.relative_to(folder)): plain(torch.load(path)) for path in files if path.suffix == ".pth"}
    newest = max((folder / "run").glob("*/vis_data/scalars.json"), key=lambda path: path.parent.parent.name)
    scalars = [{key: value for key, value in json.loads(line).items() if "time" not in key}
               for line in newest.read_text().splitlines()]
    left = [str(path.relative_to(folder)) for path in files if ".tmp-" in path.name]
    return {"checkpoints": checkpoints, "scalars": {str(i): line for i, line in enumerate(scalars)},
            "last": (folder / "run" / "last_checkpoint").read_text().strip(), "unfinished files": left}


class Suite:
    def __init__(self, polyak, library, text):
        self.polyak, self.library, self.text = os.path.abspath(polyak), os.path.abspath(library), text
        self.reference = None

    def start(self, folder, **environment):
        return subprocess.Popen([self.polyak, "train", "config.yaml", "--work-dir", "run", "--resume"], cwd=folder,
                                stdout=subprocess.DEVNULL, stderr=open(folder / "stderr.txt", "a"),
                                env={**os.environ, **environment})

    def make_folder(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_kill_"))
        (folder / "config.yaml").write_text(self.text)
        return folder

    def run_reference(self):
        folder = self.make_folder()
        begin = time.monotonic()
        if self.start(folder).wait() != 0:
            raise Failed("the undisturbed run failed: " + (folder / "stderr.txt").read_text())
        self.seconds = time.monotonic() - begin
        self.reference = outcome(folder)
        shutil.rmtree(folder)

    def count_operations(self):
        folder = self.make_folder()
        self.start(folder, LD_PRELOAD=self.library, POLYAK_KILL_COUNT=str(folder / "count")).wait()
        number = int((folder / "count").read_text())
        if number < 50:
            raise SystemExit(f"{self.library} counts {number} operations on files in a run, which cannot be")
        shutil.rmtree(folder)
        return number

    def finish(self, folder, what):
        """Resumes to the end and compares."""
        if self.start(folder).wait() != 0:
            raise Failed(f"{what}: the resumed run failed; files are in {folder}:\n"
                         + (folder / "stderr.txt").read_text()[-2000:])
        found = difference(self.reference, outcome(folder))
        if found:
            raise Failed(f"{what}: differs from the undisturbed run at {found}; files are in {folder}")
        shutil.rmtree(folder)

    def ended_at_random(self, number, noise):
        kind = SIGNALS[number % len(SIGNALS)]
        folder = self.make_folder()
        ended, times = 0, []
        for _ in range(noise.choice([1, 1, 2, 3])):
            run = self.start(folder)
            times.append(noise.uniform(0.2, 1.0) * self.seconds)
            time.sleep(times[-1])
            if run.poll() is None:
                run.send_signal(kind)
            status = run.wait()
            # Machines get faster and slower while this runs: follow them, so that most runs are ended in time.
            self.seconds *= 0.8 if status == 0 else 1.05
            if status not in (0, -kind, 128 + kind):
                raise Failed(f"{kind.name}: ended with status {status}; files are in {folder}")
            ended += status != 0
        self.finish(folder, f"{kind.name} after {', '.join(f'{t:.3f} s' for t in times)}")
        return ended

    def ended_at_operation(self, operation):
        folder = self.make_folder()
        status = self.start(folder, LD_PRELOAD=self.library, POLYAK_KILL_AT=str(operation)).wait()
        if status not in (0, -signal.SIGKILL):
            raise Failed(f"operation {operation}: ended with status {status}; files are in {folder}")
        self.finish(folder, f"operation {operation}")
        return status != 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("polyak")
    parser.add_argument("library")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--operations", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # A shell that starts this in the background ignores SIGINT, and runs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    noise = random.Random(arguments.seed)
    failures = []
    for name, text in (("epochs", EPOCHS), ("iterations", ITERATIONS)):
        suite = Suite(arguments.polyak, arguments.library, text)
        suite.run_reference()
        number = right = 0
        for _ in range(3 * arguments.runs):
            if number == arguments.runs // 2:
                break
            try:
                if not suite.ended_at_random(number, noise):
                    continue  # it was faster than the signal
                right += 1
            except Failed as error:
                failures.append(f"{name}: {error}")
            number += 1
        print(f"{name}: {right} of {number} runs ended at random instants are right", flush=True)
        if number < arguments.runs // 2:
            failures.append(f"{name}: only {number} runs could be ended")
        every = range(1, suite.count_operations() + 1)
        chosen = noise.sample(every, min(len(every), arguments.operations // 2)) if arguments.operations else every
        right = ended = 0
        for operation in sorted(chosen):
            try:
                ended += suite.ended_at_operation(operation)
                right += 1
            except Failed as error:
                failures.append(f"{name}: {error}")
        print(f"{name}: {right} of {len(chosen)} runs ended at an operation on files are right ({len(every)} "
              f"operations in a run; {ended} were ended while running)", flush=True)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
