# SPDX-License-Identifier: Apache-2.0
"""How close averages made from snapshots come to averages that training keeps: writes the table of
docs/offline_averages.md.

Usage: post_hoc.py POLYAK OUTPUT [--steps 2400] [--document FILE]

It trains the small network of configs/_base_/fashion_mnist.yaml with a PostHocEMAHook (snapshots every 1 %, sigma_rels
0.05 and 0.10) and, beside it, an EMAHook with a PowerFunctionEMA of each width, at a constant learning rate and one that
falls along a cosine. Snapshots in float16 and bfloat16 are made from those in float32 by rounding, as the hook's `dtype`
does. The error of `polyak average --post-hoc` is the distance of its
weights from those that training kept, as a part of the distance of these from the raw weights; statistics of BatchNorm
are left out. Runs that OUTPUT holds are not made again.
"""
import argparse
import array
import json
import math
import pathlib
import re
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
WIDTHS = (0.015, 0.02, 0.03, 0.05, 0.07, 0.10, 0.15, 0.20, 0.25)
DTYPES = ("float32", "float16", "bfloat16")
SCHEDULES = {
    "constant": "",
    "cosine": "param_scheduler: {{type: CosineAnnealingLR, by_epoch: false, begin: 0, end: {steps}, eta_min: 0}}\n",
}
BEGIN, END = "<!-- post_hoc.py: begin -->\n", "<!-- post_hoc.py: end -->\n"


def config(schedule, steps):
    direct = "".join(f"  - {{type: EMAHook, name: w{width:g}, ema_type: PowerFunctionEMA, sigma_rel: {width:g}, "
                     "update_buffers: true, evaluate_on_ema: false, evaluate_on_origin: true}\n" for width in WIDTHS)
    return (f"_base_: {ROOT}/configs/_base_/fashion_mnist.yaml\n"
            f"train_cfg: {{by_epoch: false, max_iters: {steps}, val_interval: {steps}}}\n"
            "optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9, weight_decay: 0.0005}}\n"
            + SCHEDULES[schedule].format(steps=steps) +
            "custom_hooks:\n  - {type: PostHocEMAHook, every: 1%}\n" + direct +
            "env_cfg: {num_threads: 1}\n")


def read(path):
    """The float32 tensors of a .safetensors file that are weights."""
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: array.array("f", data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
            for name, entry in header.items() if entry["dtype"] == "F32" and "running" not in name}


def rounded(values, dtype):
    """The bytes of floats in half precision, to the nearest, ties to even."""
    if dtype == "float16":
        return struct.pack(f"<{len(values)}e", *values)
    bits = array.array("I", array.array("f", values).tobytes())
    return array.array("H", ((b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits)).tobytes()


def round_snapshot(source, target, dtype):
    data = source.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + size]), b""
    header["__metadata__"]["dtype"] = dtype
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        part = data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]]
        if entry["dtype"] == "F32":
            part = rounded(array.array("f", part), dtype)
            entry["dtype"] = {"float16": "F16", "bfloat16": "BF16"}[dtype]
        entry["data_offsets"] = [len(body), len(body) + len(part)]
        body += part
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + body)


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for name, values in a.items() for x, y in zip(values, b[name])))


class Runs:
    def __init__(self, polyak, output, steps):
        self.polyak, self.output, self.steps = polyak, output, steps

    def polyak_says(self, *arguments):
        done = subprocess.run([self.polyak, *map(str, arguments)], cwd=self.output, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def weights(self, checkpoint, which):
        self.polyak_says("convert", checkpoint, "weights.safetensors", "--weights", which)
        return read(self.output / "weights.safetensors")

    def errors(self, schedule):
        """{dtype: {width: (error, residual, sum of |coefficients|, rounding)}}"""
        folder = self.output / schedule
        stored = folder / "result.json"
        if not stored.exists():
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint = folder / f"iter_{self.steps}.pth"
            if not checkpoint.exists():
                (folder / "config.yaml").write_text(config(schedule, self.steps))
                self.polyak_says("train", folder / "config.yaml", "--work-dir", folder)
            raw = self.weights(checkpoint, "raw")
            direct = {width: self.weights(checkpoint, f"w{width:g}") for width in WIDTHS}
            result = {}
            for dtype in DTYPES:
                snapshots = folder / "post_hoc"
                if dtype != "float32":
                    snapshots = folder / dtype
                    snapshots.mkdir(exist_ok=True)
                    for path in (folder / "post_hoc").iterdir():
                        round_snapshot(path, snapshots / path.name, dtype)
                result[dtype] = {}
                for width in WIDTHS:
                    said = self.polyak_says("average", "--post-hoc", f"sigma_rel={width}", snapshots, "-o",
                                            "made.safetensors")
                    numbers = re.search(r"residual (\S+), sum of \|coefficients\| (\S+), rounding errors of about (\S+) ",
                                        said)
                    error = (distance(read(self.output / "made.safetensors"), direct[width])
                             / distance(direct[width], raw))
                    result[dtype][f"{width:g}"] = (error, *map(float, numbers.groups()))
            stored.write_text(json.dumps(result))
        return json.loads(stored.read_text())


def percent(value):
    return f"{100 * value:.2g}" if value < 0.995 else f"{100 * value:.0f}"


def table(runs):
    titles = [f"{schedule}, {dtype}" for schedule in SCHEDULES for dtype in DTYPES]
    lines = ["| sigma_rel | residual | sum of abs. coefficients | " + " | ".join(titles) + " |",
             "|---|---|---|" + "---|" * len(titles)]
    found = {(schedule, dtype): errors for schedule in SCHEDULES for dtype, errors in runs.errors(schedule).items()}
    for width in WIDTHS:
        key = f"{width:g}"
        _, residual, magnitudes, _ = found["constant", "float32"][key]
        lines.append(f"| {key} | {residual:.1e} | {magnitudes:.3g} | "
                     + " | ".join(f"{percent(one[key][0])} %" for one in found.values()) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("polyak", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--document", type=pathlib.Path)
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    text = table(Runs(arguments.polyak.resolve(), output, arguments.steps))
    print(text)
    if arguments.document:
        page = arguments.document.read_text()
        before, rest = page.split(BEGIN)
        arguments.document.write_text(before + BEGIN + text + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
