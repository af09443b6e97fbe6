# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark on small shapes for a few rounds: each must find that all ways give the same average, leave its
counters, and fit the tables. Times are not looked at. What cuda_bench would leave on a GPU is made up.

Usage: smoke_test.py POLYAK_BENCH DOCUMENT
"""
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # no traces in the source tree
import table  # noqa: E402

EXPECTED = {"update": (5, 3, 2), "several": (2, 2, 2), "swap": (2, 2, 2), "step": (1, 1, 2), "precision_time": (1, 2, 2),
            "precision_error": (1, 1, 1), "finite": (3, 2, 2), "soft_update": (3, 1, 2),
            "rules": (2, 1, 2)}  # shapes, dtypes, thread counts


def of_a_gpu():
    def way(name, ratio, key="time_over_ours"):
        return {"name": name, "us": 10.0 * ratio, "speed_over_copy": 0.93, key: ratio}

    ways = [way("ours", 1.0), way("copy", 0.93), way("ours, the launches alone", 0.99), way("mul_.add_", 4.0),
            way("_foreach_lerp_", 1.25), way("ours, 3 in one pass", 0.67, "time_over_one_by_one")]
    return {"context": {"gpu": "A GPU", "libtorch": "2.11.0", "cuda": 13010, "rounds": 3}, "benchmarks": [
        {"name": "resnet50", "source": "BFloat16", "bytes": 260000, "ways": ways},
        {"name": "transformer_1b", "source": "Float", "left_out": "out of memory"}]}


def main(program, document):
    tiny = [program, "--tiny", "--rounds=3"]
    with tempfile.TemporaryDirectory() as folder:
        result, copy = pathlib.Path(folder, "result.json"), pathlib.Path(folder, "performance.md")
        listed = subprocess.run(tiny + ["--benchmark_list_tests"], check=True, capture_output=True, text=True).stdout
        subprocess.run(tiny + [f"--benchmark_out={result}", "--benchmark_out_format=json"], check=True,
                       stdout=subprocess.DEVNULL)
        benchmarks = json.loads(result.read_text())["benchmarks"]
        copy.write_text(pathlib.Path(document).read_text())
        gpu_result = pathlib.Path(folder, "gpu.json")
        gpu_result.write_text(json.dumps(of_a_gpu()))
        table.main(copy, result, gpu_result)
        written = copy.read_text()

    for line in ["A GPU, LibTorch 2.11.0, CUDA 13.1, 3 rounds:",
                 "| of a device copy's speed | at least 0.9 | 0.93 | yes | ResNet-50, BFloat16 |",
                 "| times the best ATen way, from bfloat16 | at least 1.5 | 1.25 | **no** | ResNet-50, BFloat16 |",
                 "| ResNet-50 | BFloat16 | 0.93 | **1.25** `_foreach_lerp_` | 0.67 | 10 | 9.9 | 26 |"]:
        assert line in written, line
    names = [benchmark["name"].split("/")[:4] for benchmark in benchmarks]
    assert names == [line.split("/")[:4] for line in listed.splitlines()], "not every benchmark left a result"
    for topic, counts in EXPECTED.items():
        found = [name[1:] for name in names if name[0] == topic]
        axes = [sorted(set(axis)) for axis in zip(*found)]
        assert tuple(map(len, axes)) == counts, f"{topic} is measured for {axes}"
        assert sorted(map(tuple, found)) == sorted(itertools.product(*axes)), f"{topic} leaves combinations out"
    assert {name[0] for name in names} == set(EXPECTED)
    for benchmark in benchmarks:
        for key, value in benchmark.items():
            assert not (key.endswith("_us") and "beside" not in key) or value > 0, (key, benchmark)
    for model in {name[1] for name in names}:
        assert table.model_name(model) in written or model == "4096", f"no table shows {model}"
    print(f"{len(benchmarks)} benchmarks ran and fit the tables")


if __name__ == "__main__":
    main(*sys.argv[1:])
