# SPDX-License-Identifier: Apache-2.0
"""How much accuracy bfloat16 autocast costs: the Fashion-MNIST demo in float32 and by AmpOptimWrapper, paired by seeds.

Usage: amp_seeds.py POLYAK CONFIGS [--seeds 0 1 2] [--steps N] [--test-images N] [--within POINTS]
Without --steps, the demo's three epochs. Prints the accuracy of the averaged and the raw weights of every run, and the mean of the paired differences. The data are
those of Debian's package dataset-fashion-mnist.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


def accuracy(polyak, config, folder, options):
    begin = time.perf_counter()
    subprocess.run([polyak, "train", config, "--work-dir", folder, "--cfg-options", *options], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    scalars, = pathlib.Path(folder).glob("*/vis_data/scalars.json")
    last = [line for line in map(json.loads, scalars.read_text().splitlines()) if "accuracy" in line][-1]
    return last["accuracy"], last["accuracy_origin"], seconds


def main(arguments):
    config = pathlib.Path(arguments.configs) / "fashion_mnist_cosine_ema.yaml"
    common = []
    if arguments.steps:
        common += ["train_cfg.by_epoch=false", "train_cfg.max_epochs=null", f"train_cfg.max_iters={arguments.steps}",
                   f"train_cfg.val_interval={arguments.steps}", "default_hooks.checkpoint=null"]
    if arguments.test_images:
        common += [f"val_dataloader.dataset.limit={arguments.test_images}"]
    found = {"averaged": [], "raw": []}
    print("| seed | float32 averaged | bfloat16 averaged | float32 raw | bfloat16 raw | float32 s | bfloat16 s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            options = [*common, f"randomness.seed={seed}"]
            plain = accuracy(arguments.polyak, config, f"{folder}/{seed}_float32", options)
            amp = accuracy(arguments.polyak, config, f"{folder}/{seed}_bfloat16",
                           [*options, "optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.dtype=bfloat16"])
            found["averaged"].append(amp[0] - plain[0])
            found["raw"].append(amp[1] - plain[1])
            print(f"| {seed} | {plain[0]:.2f} | {amp[0]:.2f} | {plain[1]:.2f} | {amp[1]:.2f} | {plain[2]:.0f} | "
                  f"{amp[2]:.0f} |", flush=True)
    for name, differences in found.items():
        print(f"bfloat16 - float32, {name}: {statistics.mean(differences):+.2f} points, mean of {len(differences)} seeds")
    worst = max(abs(statistics.mean(differences)) for differences in found.values())
    return int(arguments.within is not None and worst > arguments.within)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("polyak")
    parser.add_argument("configs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--within", type=float, metavar="POINTS", help="fail if a mean difference is larger than this")
    sys.exit(main(parser.parse_args()))
