# SPDX-License-Identifier: Apache-2.0
"""Draws the plots of docs/choosing_an_average.md from the weights that the built library gives.

Usage: make_plots.py AVERAGE_WEIGHTS FOLDER            writes FOLDER/*.svg
       make_plots.py AVERAGE_WEIGHTS FOLDER --check    fails where a file there is drawn otherwise
"""
import math
import pathlib
import re
import subprocess
import sys

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 250, 34, 46
COLOURS = ("#0b63a5", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#444444", "#e07a1f")


class Axis:
    """Numbers to a side of the picture; `ticks` are (number, text)."""

    def __init__(self, begin, end, first, last, ticks, log=False):
        self.ends = [math.log10(v) if log else v for v in (begin, end)]
        self.first, self.last, self.ticks, self.log = first, last, ticks, log

    def at(self, value):
        value = math.log10(value) if self.log else value
        share = (value - self.ends[0]) / (self.ends[1] - self.ends[0])
        return self.first + share * (self.last - self.first)


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def plot(title, x_name, y_name, x, y, lines):
    """`lines`: (name, [(x, y)])."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<title>{escape(title)}</title>', '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>']
    for value, text in x.ticks:
        out.append(f'<path d="M{x.at(value):.1f} {TOP}V{bottom}" stroke="#ddd"/>')
        out.append(f'<text x="{x.at(value):.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    for value, text in y.ticks:
        out.append(f'<path d="M{LEFT} {y.at(value):.1f}H{right}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y.at(value) + 4:.1f}" text-anchor="end">{text}</text>')
    out.append(f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#888"/>')
    out.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_name)}</text>')
    out.append(f'<text transform="translate(14 {(TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
               f'{escape(y_name)}</text>')
    out.append(f'<clipPath id="in"><rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/></clipPath>')
    for i, (name, points) in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" clip-path="url(#in)"/>')
        height = TOP + 8 + 20 * i
        out.append(f'<path d="M{right + 12} {height}h18" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{right + 36}" y="{height + 4}">{escape(name)}</text>')
    return "\n".join(out) + "\n</svg>\n"


def spread(first, last, count):
    """Whole numbers, evenly on a logarithmic scale."""
    return sorted({round(first * (last / first) ** (i / (count - 1))) for i in range(count)})


def shares(weights):
    """What each update's weights make of the average at the end."""
    left, found = 1.0, [0.0] * len(weights)
    for k in reversed(range(len(weights))):
        weight = 1.0 if k == 0 else weights[k]
        found[k] = weight * left
        left *= 1 - weight
    return found


def draw(weights_of):
    """{file: its text}. `weights_of(count, blocks)` gives lists of numbers."""
    count = 100000
    rules = {"EMA, decay 0.9999": "{type: ExponentialMovingAverage, decay: 0.9999}",
             "WarmupEMA, decay 0.9999": "{type: WarmupEMA, decay: 0.9999}",
             "MomentumAnnealingEMA, 0.0001": "{type: MomentumAnnealingEMA, momentum: 0.0001}",
             "ExpMomentumEMA, 0.0001": "{type: ExpMomentumEMA, momentum: 0.0001}",
             "GrowingHalfLifeEMA, 0.05": "{type: GrowingHalfLifeEMA}",
             "PowerFunctionEMA, 0.1": "{type: PowerFunctionEMA, sigma_rel: 0.1}",
             "StochasticWeightAverage": "{type: StochasticWeightAverage}"}
    decades = [(10.0 ** e, f"{10 ** e:,}") for e in range(6)]
    steps = spread(1, count - 1, 90)
    lines = [(name, [(k, weight[k]) for k in steps]) for name, weight in zip(rules, weights_of(count, rules.values()))]
    files = {"weights.svg": plot(
        "Weight of the new value", "update", "weight", Axis(1, count, LEFT, WIDTH - RIGHT, decades, True),
        Axis(3e-6, 1, HEIGHT - BOTTOM, TOP, [(10.0 ** -e, f"{10.0 ** -e:.{e}f}") for e in range(6)], True), lines)}

    count, bins = 10000, 100
    rules = {"EMA, horizon a tenth of the run": "{type: ExponentialMovingAverage, momentum: 0.001}",
             "EMA, horizon a third": "{type: ExponentialMovingAverage, momentum: 0.0003}",
             "EMA, horizon the whole run": "{type: ExponentialMovingAverage, momentum: 0.0001}",
             "GrowingHalfLifeEMA, 0.05": "{type: GrowingHalfLifeEMA}",
             "PowerFunctionEMA, 0.1": "{type: PowerFunctionEMA, sigma_rel: 0.1}",
             "CosineEMA, 0.004": "{type: CosineEMA, momentum: 0.004}",
             "StochasticWeightAverage": "{type: StochasticWeightAverage}"}
    lines = []
    for name, weight in zip(rules, weights_of(count, rules.values())):
        share = shares(weight)
        width = count // bins
        lines.append((name, [((b + 0.5) / bins * 100, 100 * sum(share[b * width:(b + 1) * width])) for b in range(bins)]))
    percent = [(v, f"{v} %") for v in range(0, 101, 20)]
    files["shares.svg"] = plot(
        "What the average at the end of 10,000 updates is made of", "part of the run", "share of 1 % of the run",
        Axis(0, 100, LEFT, WIDTH - RIGHT, percent), Axis(0, 20, HEIGHT - BOTTOM, TOP, [(v, f"{v} %") for v in range(0, 21, 5)]),
        lines)

    count = 30000
    rules = {"EMA, decay 0.99": "{type: ExponentialMovingAverage, decay: 0.99}",
             "EMA, decay 0.999": "{type: ExponentialMovingAverage, decay: 0.999}",
             "EMA, decay 0.9999": "{type: ExponentialMovingAverage, decay: 0.9999}",
             "CosineEMA, 0.004": "{type: CosineEMA, momentum: 0.004}",
             "WarmupEMA, decay 0.9999": "{type: WarmupEMA, decay: 0.9999}",
             "StochasticWeightAverage": "{type: StochasticWeightAverage}"}
    steps = spread(1, count - 1, 80)
    lines = []
    for name, weight in zip(rules, weights_of(count, rules.values())):
        left, at = 1.0, {0: 1.0}
        for k in range(1, count):
            left *= 1 - weight[k]
            at[k] = left
        lines.append((name, [(k, 100 * at[k]) for k in steps]))
    files["first_weights.svg"] = plot(
        "What is left of the first weights in the average", "update", "share of the first weights",
        Axis(1, count, LEFT, WIDTH - RIGHT, decades[:5], True), Axis(0, 100, HEIGHT - BOTTOM, TOP, percent), lines)
    return files


def same(old, new):
    """Equal but for the last digit of a number."""
    number = re.compile(r"\d+\.\d")
    a, b = ([float(v) for v in number.findall(text)] for text in (old, new))
    return number.sub("", old) == number.sub("", new) and all(abs(x - y) < 0.11 for x, y in zip(a, b))


def main(program, folder, *rest):
    def weights_of(count, blocks):
        done = subprocess.run([program, str(count), *blocks], check=True, capture_output=True, text=True)
        return [[float(v) for v in line.split()] for line in done.stdout.splitlines()]

    for name, text in draw(weights_of).items():
        path = pathlib.Path(folder) / name
        if rest != ("--check",):
            path.write_text(text)
            print(f"{path}: {len(text)} bytes")
        elif not same(path.read_text(), text):
            sys.exit(f"{path} is drawn otherwise now: run make_plots.py {program} {folder}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
