# SPDX-License-Identifier: Apache-2.0
"""What Lookahead and Switch EMA bring on Fashion-MNIST, and that they are resumed bit for bit: writes the table of
docs/choosing_an_average.md.

Usage: write_back.py POLYAK OUTPUT [--seeds 0 1 2] [--document FILE]

Each run is three epochs on one thread. A second run with the first seed of each config is ended by a signal after its
first epoch and resumed; its last file must hold the same tensors. Runs that OUTPUT holds are not made again.
"""
import argparse
import json
import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = {
    "fashion_mnist_cosine_ema": "CosineEMA, no write-back",
    "fashion_mnist_lookahead": "Lookahead",
    "fashion_mnist_switch_ema": "Switch EMA",
}
WRITES_BACK = list(CONFIGS)[1:]
BEGIN, END = "<!-- write_back.py: begin -->\n", "<!-- write_back.py: end -->\n"


class Runs:
    def __init__(self, polyak, output):
        self.polyak, self.output = polyak, output

    def command(self, config, folder, seed, *more):
        return [self.polyak, "train", ROOT / "configs" / f"{config}.yaml", "--work-dir", folder, *more, "--cfg-options",
                f"randomness.seed={seed}", "env_cfg.num_threads=1"]

    def accuracies(self, config, seed):
        """(of the averaged weights, of the raw ones) after the last epoch."""
        folder = self.output / f"{config}_{seed}"
        if not (folder / "epoch_3.pth").exists():
            subprocess.run(self.command(config, folder, seed), check=True, cwd=self.output, capture_output=True)
        lines = [json.loads(line) for line in max(folder.glob("*/vis_data/scalars.json")).read_text().splitlines()]
        last = [line for line in lines if "accuracy" in line][-1]
        return last["accuracy"], last["accuracy_origin"]

    def is_resumed_exactly(self, config, seed):
        folder = self.output / f"{config}_{seed}_stopped"
        if not (folder / "epoch_3.pth").exists():
            process = subprocess.Popen(self.command(config, folder, seed), cwd=self.output, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            while not (folder / "epoch_1.pth").exists() and process.poll() is None:
                time.sleep(0.1)
            time.sleep(2)  # into the second epoch
            process.send_signal(signal.SIGTERM)
            if process.wait() != 128 + signal.SIGTERM:
                raise RuntimeError(f"{config}: the run ended with {process.returncode} before it was stopped")
            subprocess.run(self.command(config, folder, seed, "--resume"), check=True, cwd=self.output,
                           capture_output=True)
        done = subprocess.run([self.polyak, "inspect", self.output / f"{config}_{seed}" / "epoch_3.pth",
                               folder / "epoch_3.pth"], capture_output=True, text=True)
        print(done.stdout + done.stderr)
        return done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("polyak", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("output", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--document", type=pathlib.Path, help="the file that the table is written into")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    runs = Runs(given.polyak, given.output)

    lines = [["", *(f"seed {seed}" for seed in given.seeds)], ["---"] * (len(given.seeds) + 1)]
    for config, title in CONFIGS.items():
        found = [runs.accuracies(config, seed) for seed in given.seeds]
        lines.append([title, *(f"{averaged:.2f} ({raw:.2f})" for averaged, raw in found)])
        print(*lines[-1], flush=True)
    inexact = [config for config in WRITES_BACK if not runs.is_resumed_exactly(config, given.seeds[0])]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    print(text)
    if given.document:
        before, rest = given.document.read_text().split(BEGIN)
        given.document.write_text(before + BEGIN + text + END + rest.split(END)[1])
    if inexact:
        raise SystemExit(f"resumed with another result: {', '.join(inexact)}")


if __name__ == "__main__":
    main()
