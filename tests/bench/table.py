# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/performance.md from what polyak_bench, peers.py and cuda_bench measured.

Usage: table.py DOCUMENT RESULT.json...

Each table stands between <!-- NAME --> and <!-- end --> in DOCUMENT; the rest of it is left alone. Tables of what no
RESULT holds are left alone too. Results of several LibTorch versions make one table each.
"""
import json
import pathlib
import re
import sys

WAYS = {"aten:mul_add": "`mul_.add_`", "aten:lerp": "`lerp_`", "aten:foreach_mul_add": "`_foreach_mul_`, `_add_`",
        "aten:foreach_lerp": "`_foreach_lerp_`", "aten:out_of_place": "out of place",
        "limit:plain_loop": "plain loop", "limit:kernel": "our kernel"}
CASE = ["model", "dtype", "threads"]
MODELS = {"resnet50": "ResNet-50", "vit_b_16": "ViT-B/16", "transformer_1b": "transformer of 1.24 B", "10000x100": "10,000 of 100", "200x64": "200 of 64",
          "mlp_25m": "MLP of 25 M", "4096": "4096 values", "sac_256": "two critics of 2 x 256"}


def model_name(name):
    part = re.fullmatch(r"transformer_1b_1of(\d+)", name)
    return f"1/{part[1]} of a transformer of 1.24 B" if part else MODELS[name]


def number(value):
    """Three digits, without an exponent where that reads well."""
    if value == 0 or not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def ms(microseconds):
    return number(microseconds / 1e3)


class Row(dict):
    """One benchmark: its counters, and what its name says."""

    def __init__(self, benchmark, caches):
        super().__init__(benchmark)
        if benchmark.get("error_occurred"):
            sys.exit(f"{benchmark['name']}: {benchmark['error_message']}")
        self.topic, self.model, self.dtype, self.threads = benchmark["name"].split("/")[:4]
        self.cold = caches == "cold"
        self.aten, self.limit = self["label"].split() if self.topic == "update" else (None, None)
        self.speed = number(self["bytes"] / self["ours_us"] / 1e3) if "bytes" in self else ""
        self.case = [model_name(self.model) + (", cold" if self.cold else ""), self.dtype, self.threads]


class Leg:
    """What was measured with one LibTorch."""

    def __init__(self, context):
        self.context, self.rows = context, []

    def of(self, topic, **conditions):
        return [row for row in self.rows if row.topic == topic and
                all(getattr(row, key) in values for key, values in conditions.items())]


def table(header, rows):
    lines = [header, ["---"] * len(header)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine(leg):
    context = leg.context
    caches = ", ".join(f"L{cache['level']} {cache['size'] >> 10} KiB" for cache in context["caches"]
                       if cache["type"] != "Instruction")
    load = ", ".join(f"{value:.2f}" for value in context["load_avg"][:2])
    return table(["", ""], [
        ["CPU", f"{context['cpu']}, {context['num_cpus']} at {context['mhz_per_cpu']} MHz; {caches}"],
        ["our kernel", context["instruction_set"]], ["compiler", context["compiler"]],
        ["date, rounds", f"{context['date'][:10]}, {context['rounds']}"], ["load before", load]])


def promises(leg):
    """What this library promises, against the worst that was measured."""
    old = leg.context["libtorch"].startswith("1.")
    big, half = ("resnet50", "vit_b_16"), ("bfloat16", "float16")
    rows = []

    def add(what, bound, found, smaller=False):
        if not found:
            return
        value, row = (max if smaller else min)(found, key=lambda pair: pair[0])
        kept = value <= bound if smaller else value >= bound
        rows.append([what, ("at most " if smaller else "at least ") + number(bound), number(value),
                     "yes" if kept else "**no**", ", ".join(row.case)])

    def values(key, found):
        return [(row[key], row) for row in found]

    updates = leg.of("update", cold=(False,))
    add("speed of the limit", 0.95, values("limit/ours", [row for row in updates if row.model in big]))
    add("times the best ATen way, float32", 1.35 if old else 0.97,
        values("best_aten/ours", [row for row in updates if row.dtype == "float32"]))
    add("times the best ATen way, bfloat16 and float16", 1.7 if old else 1,
        values("best_aten/ours", [row for row in updates if row.dtype in half]))
    small = [row for row in updates if row.model == "10000x100" and row.dtype == "float32"]
    add("times `lerp_`, 10,000 of 100", 8, values("aten:lerp/ours", small))
    add("times `mul_.add_`, 10,000 of 100", 15, values("aten:mul_add/ours", small))
    add("3 averages in one pass, of the time of three", 0.78,
        [(1 / row["one_by_one/ours"], row) for row in leg.of("several", dtype=("float32",))], smaller=True)
    add("ms to swap 25 M parameters and back", 1,
        [(row["ours_us"] / 1e3, row) for row in leg.of("swap", model=("resnet50",), dtype=("float32",))], smaller=True)
    add("of what the limit adds to a step", 1.1, [(1 / row["limit/hook"], row) for row in leg.of("step")], smaller=True)
    add("of what the limit adds, a target network's update", 1.2, values("target/limit", leg.of("step")), smaller=True)
    add("error with `compensated`", 1e-6, values("compensated_error", leg.of("precision_error")), smaller=True)
    return table(["promise", "bound", "worst measured", "kept", "where"], rows)


def update(leg):
    rows = leg.of("update")
    ways = [way for way in WAYS if way.startswith("aten:") and any(way + "_us" in row for row in rows)]
    ratios = table(CASE + ["of the limit", "of a plain loop", "times the best ATen way"] + [WAYS[way] for way in ways],
                   [row.case + [times(row["limit/ours"]), times(row["limit:plain_loop/ours"]),
                                f"**{times(row['best_aten/ours'])}** {WAYS[row.aten]}"] +
                    [times(row[way + "/ours"]) for way in ways] for row in rows])
    absolute = table(CASE + ["ours, ms", "GB/s", "limit, ms", "which limit", "best ATen way, ms"],
                     [row.case + [ms(row["ours_us"]), row.speed, ms(row[row.limit + "_us"]), WAYS[row.limit],
                                  ms(row[row.aten + "_us"])] for row in rows])
    return rows and ratios + "\n" + absolute


# Block: the topic it shows, and its columns after the case.
COLUMNS = {
    "small": ("update", {
        "update, us": lambda row: number(row["ours_us"]),
        "kernel alone, us": lambda row: number(row["kernel_only_us"]),
        "difference, us": lambda row: number(row["beside_kernel_us"])}),
    "several": ("several", {
        "of the time of three passes": lambda row: times(1 / row["one_by_one/ours"]),
        "one pass, ms": lambda row: ms(row["ours_us"]),
        "three passes, ms": lambda row: ms(row["one_by_one_us"])}),
    "swap": ("swap", {
        "times clone and two copies": lambda row: times(row["clone_and_two_copies/ours"]),
        "by pointers, ms": lambda row: ms(row["ours_us"]),
        "by copy, ms": lambda row: ms(row["ours_by_copy_us"]),
        "clone and two copies, ms": lambda row: ms(row["clone_and_two_copies_us"])}),
    "step": ("step", {
        "hook, of the limit's time": lambda row: times(1 / row["limit/hook"]),
        "hook, ms": lambda row: ms(row["hook_us"]),
        "target network, of the limit's time": lambda row: times(row["target/limit"]),
        "limit, ms": lambda row: ms(row["limit_us"]),
        "the same from whole steps": lambda row: times(row["hook_adds/limit_adds"]),
        "step, ms": lambda row: ms(row["step_us"])}),
    "finite": ("finite", {
        "`skip_nonfinite`, of the time without": lambda row: times(row["skip_nonfinite/ours"]),
        "one look, of an update": lambda row: times(row["find_nonfinite/ours"]),
        "update, us": lambda row: number(row["ours_us"])}),
    "soft_update": ("soft_update", {
        "`SoftUpdate`, us": lambda row: number(row["ours_us"]),
        "`soft_update`, us": lambda row: number(row["function_us"]),
        "loop of `lerp_`": lambda row: times(row["lerp/ours"]),
        "of `mul_.add_`": lambda row: times(row["mul_add/ours"]),
        "of `lerp_`, lists kept": lambda row: times(row["kept_lerp/ours"]),
        "`_foreach_lerp_`, lists kept": lambda row: times(row["foreach_lerp/ours"]) if "foreach_lerp/ours" in row else ""}),
    "rules": ("rules", {
        "half excluded, of the time": lambda row: times(row["half/ours"]),
        "of the bytes": lambda row: times(row["half_bytes"]),
        "three rules in one pass, of three passes": lambda row: times(row["three_rules/three_rules_apart"]),
        "sliding mean, of its bytes at the limit's speed":
            lambda row: times(row["sliding/ours"] / row["limit/ours"] / row["sliding_bytes/limit_bytes"]),
        "plain average, ms": lambda row: ms(row["ours_us"])}),
    "precision_time": ("precision_time", {
        "compensated, of default's time": lambda row: times(row["compensated/default"]),
        "float64, of default's time": lambda row: times(row["float64/default"]),
        "default, ms": lambda row: ms(row["default_us"])}),
}


def plain(block, leg):
    topic, columns = COLUMNS[block]
    rows = [row for row in leg.of(topic) if block != "small" or "kernel_only_us" in row]
    return rows and table(CASE + list(columns), [row.case + [show(row) for show in columns.values()] for row in rows])


def precision_error(leg):
    names = ["default", "compensated", "float64"]
    rows = leg.of("precision_error")
    return rows and table(["updates"] + names, [[f"{row['updates']:,.0f}"] + [f"{row[name + '_error']:.1e}" for name in names]
                                                for row in rows])


def peers(leg):
    text = ""
    for dtype in ("float32", "bfloat16"):
        rows = leg.of("peers", dtype=(dtype,))
        names = [key[:-5] for key in rows[0] if key.endswith("/ours")] if rows else []
        text += table(CASE + names + ["ours, ms", "GB/s"],
                      [row.case + [times(row[name + "/ours"]) for name in names] +
                       [ms(row["ours_us"]), row.speed] for row in rows]) + "\n"
    return text + "Versions: " + ", ".join(f"{name} {version}" for name, version in leg.context["versions"].items()) + "\n"


def gpu(data):
    """What cuda_bench measured: its promises, then all of it."""
    context, rows, promised = data["context"], [], []
    for benchmark in data["benchmarks"]:
        case = [model_name(benchmark["name"]), benchmark["source"]]
        if "left_out" in benchmark:
            rows.append(case + [benchmark["left_out"]] + [""] * 5)
            continue
        ways = {way["name"]: way for way in benchmark["ways"]}
        ours, aten = ways["ours"], [way for name, way in ways.items() if "_" in name]
        best = min(aten, key=lambda way: way["time_over_ours"])
        rows.append(case + [times(ours["speed_over_copy"]), f"**{times(best['time_over_ours'])}** `{best['name']}`",
                            times(ways["ours, 3 in one pass"]["time_over_one_by_one"]),
                            number(ours["us"]), number(ways["ours, the launches alone"]["us"]),
                            number(benchmark["bytes"] / ours["us"] / 1e3)])
        if benchmark["name"] in ("resnet50", "vit_b_16", "transformer_1b"):
            if benchmark["source"] != "Half":
                promised.append(("of a device copy's speed", 0.9, ours["speed_over_copy"], case))
            if benchmark["source"] == "BFloat16":
                promised.append(("times the best ATen way, from bfloat16", 1.5, best["time_over_ours"], case))
    worst = []
    for promise in sorted({(what, bound) for what, bound, _, _ in promised}):
        _, _, value, case = min((found for found in promised if found[:2] == promise), key=lambda found: found[2])
        worst.append([promise[0], f"at least {promise[1]}", number(value), "yes" if value >= promise[1] else "**no**",
                      ", ".join(case)])
    return (f"{context['gpu']}, LibTorch {context['libtorch']}, CUDA {context['cuda'] // 1000}."
            f"{context['cuda'] % 1000 // 10}, {context['rounds']} rounds:\n\n" +
            table(["promise", "bound", "worst measured", "kept", "where"], worst) + "\n" +
            table(["model", "source", "of a device copy's speed", "times the best ATen way",
                   "3 in one pass, of three passes", "ours, us", "its launches alone, us", "GB/s"], rows))


def main(document, *results):
    legs, of_peers, of_gpus = {}, None, []
    for result in results:
        data = json.loads(pathlib.Path(result).read_text())
        context = data["context"]
        if "gpu" in context:
            of_gpus.append(gpu(data))
            continue
        if "versions" in context:
            leg = of_peers = Leg(context)
        else:
            leg = legs.setdefault(context["libtorch"], Leg(context))
        leg.rows += [Row(benchmark, context.get("before_each_run")) for benchmark in data["benchmarks"]]

    def of_each_leg(write):
        found = [(version, write(leg)) for version, leg in sorted(legs.items())]
        return "\n".join(f"LibTorch {version}:\n\n{text}" for version, text in found if text)

    blocks = {write.__name__: of_each_leg(write) for write in (machine, promises, update, precision_error)}
    blocks.update({block: of_each_leg(lambda leg: plain(block, leg)) for block in COLUMNS})
    blocks["peers"] = of_peers and peers(of_peers)
    blocks["gpu"] = "\n".join(of_gpus)
    path = pathlib.Path(document)
    text = path.read_text()
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            sys.exit(f"{document} must have one place for {name}")
        if block:
            text = pattern.sub(lambda place: f"{place[1]}\n{block}\n{place[2]}", text)
    path.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
