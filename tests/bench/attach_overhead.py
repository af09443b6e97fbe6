# SPDX-License-Identifier: Apache-2.0
"""What `polyak attach` costs: paired runs of a program, bare and attached, in turn, on one thread.

Usage: attach_overhead.py POLYAK PROGRAMS [--only PROGRAM] [--rounds N] [--batches N] [--steps N]

PROGRAMS is the build's tests/attach. Two programs: the MNIST-style trainer on Fashion-MNIST, and, as the worst case,
a linear layer of 5 numbers whose step takes tens of microseconds. Starting costs the same however long a program
trains, so each is also run with one step, and the ratio is that of what is left. Times are the processor's, user and
system, which a busy machine disturbs least; seconds of the clock are printed beside. In each round both run once, in
an order that turns; ratios are taken within a round.
"""
import argparse
import gzip
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
CONFIG = """
custom_hooks:
  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.01}
max_iters: 100000
output_dir: out
"""


def seconds(command, folder):
    """Of the processor, and of the clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([str(word) for word in command], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, end - start


def measure(name, polyak, program, steps, command, folder, rounds):
    attached = [polyak, "attach", "averaging.yaml", "--"]
    ways = {"bare": [program], "attached": attached + [program]}
    ratios, costs = [], []
    for i in range(rounds + 1):
        took = {}
        for way in sorted(ways, reverse=i % 2 == 1):
            took[way] = (seconds(ways[way] + command(steps), folder), seconds(ways[way] + command(1), folder))
        if i == 0:
            continue  # the first round warms the caches
        training = {way: whole[0] - start[0] for way, (whole, start) in took.items()}
        ratios.append(training["attached"] / training["bare"])
        costs.append((training["attached"] - training["bare"]) / steps * 1e6)
        print(f"{name}: training took {training['bare']:.3f} s bare, {training['attached']:.3f} s attached, ratio "
              f"{ratios[-1]:.4f}; with the start on the clock {took['bare'][0][1]:.2f} and {took['attached'][0][1]:.2f} s, "
              f"the start alone {took['bare'][1][1]:.2f} and {took['attached'][1][1]:.2f} s", flush=True)
    print(f"{name}: median ratio {statistics.median(ratios):.4f} (from {min(ratios):.4f} to {max(ratios):.4f}), "
          f"{statistics.median(costs):.1f} microseconds a step, {rounds} rounds of {steps} steps", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("polyak", type=pathlib.Path)
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("--only", choices=("trainer", "tiny"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=600)
    parser.add_argument("--steps", type=int, default=100000)
    arguments = parser.parse_args()
    polyak, programs = arguments.polyak.resolve(), arguments.programs.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "averaging.yaml").write_text(CONFIG)
        if arguments.only != "tiny":
            (folder / "data").mkdir()
            for path in DATA.glob("*.gz"):
                with gzip.open(path) as packed, open(folder / "data" / path.stem, "wb") as plain:
                    shutil.copyfileobj(packed, plain)
            measure("trainer", polyak, programs / "trainer", arguments.batches,
                    lambda steps: ["data", "--batches", steps], folder, arguments.rounds)
        if arguments.only != "trainer":
            measure("tiny", polyak, programs / "scenario", arguments.steps, lambda steps: ["tiny", steps], folder,
                    arguments.rounds)


if __name__ == "__main__":
    main()
