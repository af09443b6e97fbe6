# SPDX-License-Identifier: Apache-2.0
"""What self-supervised training brings, and what its target network has to be: writes the table of docs/self_supervised.md.

Usage: self_supervised.py POLYAK OUTPUT [--seeds 0 1 2] [--others 0] [--jobs N] [--document FILE]

It trains BYOL and MoCo v3 by configs/*_fashion_mnist.yaml, with CosineEMA for each of --seeds and with the other kinds
of target for each of --others, each run on one thread, and judges each backbone by a linear probe and by nearest neighbours; and a random one, whose neighbours are those before BYOL's first
step. Runs that OUTPUT holds are not made again.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALGORITHMS = {"byol": "BYOL", "mocov3": "MoCo v3"}
TARGETS = {
    "cosine": ("CosineEMA, 0.02 to 0", []),
    "constant": ("EMA, 0.02 throughout", ["model.end_momentum=0.02"]),
    "copy": ("the online network itself", ["model.target_update=copy"]),
    "never": ("never updated", ["model.target_update=never"]),
}

ONE_THREAD = "env_cfg.num_threads=1"


class Runs:
    def __init__(self, polyak, output):
        self.polyak, self.output = polyak, output

    def train(self, config, name, options):
        """The values of each metric over the run; from an earlier call where that was complete."""
        folder = self.output / name
        stored = folder / "result.json"
        if not stored.exists():
            command = [self.polyak, "train", ROOT / "configs" / config, "--work-dir", folder, "--cfg-options", *options]
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "output", "w", encoding="utf-8") as output:
                process = subprocess.Popen(command, cwd=self.output, stdout=output, stderr=output)
                # The processor's time: what one thread takes, whatever else runs here.
                _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                raise RuntimeError(f"{' '.join(map(str, command))}\n{(folder / 'output').read_text()}")
            log = max(folder.glob("*/vis_data/scalars.json"))
            result = {"seconds": usage.ru_utime + usage.ru_stime}
            for line in log.read_text().splitlines():
                for key, value in json.loads(line).items():
                    if "accuracy" in key:
                        result.setdefault(key, []).append(value)
            stored.write_text(json.dumps(result))
        return json.loads(stored.read_text())

    def probe(self, config, name, seed, checkpoint):
        return self.train(f"{config}_fashion_mnist_linear.yaml", name,
                          [f"load_from={checkpoint}", f"randomness.seed={seed}", ONE_THREAD])["accuracy"][-1]

    def learned(self, algorithm, target, seed):
        name = f"{algorithm}_{target}_{seed}"
        run = self.train(f"{algorithm}_fashion_mnist.yaml", name,
                         [f"randomness.seed={seed}", ONE_THREAD, *TARGETS[target][1]])
        last = (self.output / name / "last_checkpoint").read_text().strip()
        return {"probe": self.probe(algorithm, f"{name}_linear", seed, self.output / name / last),
                "neighbours": run["knn_accuracy"][-1], "before": run["knn_accuracy"][0], "seconds": run["seconds"]}

    def random(self, seed):
        return self.probe("byol", f"random_{seed}", seed, "null")


def table(results, seeds):
    def cells(rows):
        known = [row for row in rows if row]
        seconds = statistics.median(row["seconds"] for row in known)
        return [*(f"{row['probe']:.2f}" if row else "" for row in rows),
                *(f"{row['neighbours']:.2f}" if row else "" for row in rows), f"{seconds / 60:.1f}" if seconds else ""]

    heads = ["backbone", "target", *(f"probe, seed {seed}" for seed in seeds),
             *(f"k-NN, seed {seed}" for seed in seeds), "minutes"]
    before = [{"probe": results["random", seed], "neighbours": results["byol", "cosine", seed]["before"], "seconds": 0}
              for seed in seeds]
    lines = [heads, ["---"] * len(heads), ["random", "", *cells(before)]]
    for algorithm, title in ALGORITHMS.items():
        for target, (what, _) in TARGETS.items():
            lines.append([title, what, *cells([results.get((algorithm, target, seed)) for seed in seeds])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("polyak", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("output", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--others", type=int, nargs="+", default=[0], help="seeds of the other kinds of target")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--document", type=pathlib.Path, help="the file that the table is written into")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    runs = Runs(given.polyak, given.output)

    results = {}
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        work = {}
        for seed in given.seeds:
            work["random", seed] = pool.submit(runs.random, seed)
        for target in TARGETS:
            for seed in given.seeds if target == "cosine" else given.others:
                for algorithm in ALGORITHMS:
                    work[algorithm, target, seed] = pool.submit(runs.learned, algorithm, target, seed)
        for key, future in work.items():
            results[key] = future.result()
            print(*key, results[key], flush=True)
    text = table(results, given.seeds)
    print(text)
    if given.document:
        document = given.document.read_text()
        begin, end = "<!-- results -->\n\n", "\n<!-- end -->"
        before, rest = document.split(begin)
        given.document.write_text(before + begin + text + end + rest.split(end, 1)[1])


if __name__ == "__main__":
    main()
