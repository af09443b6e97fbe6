"""Runs every benchmark on small shapes for a few rounds: each must find that all ways give the same average, leave its
counters, and fit the tables. Times are not looked at.

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
            "precision_error": (1, 1, 1)}  # shapes, dtypes, thread counts


def main(program, document):
    tiny = [program, "--tiny", "--rounds=3"]
    with tempfile.TemporaryDirectory() as folder:
        result, copy = pathlib.Path(folder, "result.json"), pathlib.Path(folder, "performance.md")
        listed = subprocess.run(tiny + ["--benchmark_list_tests"], check=True, capture_output=True, text=True).stdout
        subprocess.run(tiny + [f"--benchmark_out={result}", "--benchmark_out_format=json"], check=True,
                       stdout=subprocess.DEVNULL)
        benchmarks = json.loads(result.read_text())["benchmarks"]
        copy.write_text(pathlib.Path(document).read_text())
        table.main(copy, result)
        written = copy.read_text()

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
