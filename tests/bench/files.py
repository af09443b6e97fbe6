# SPDX-License-Identifier: Apache-2.0
"""Time and memory of saving and loading a large model, beside the disk's own speed and Python's torch.

Usage: files.py FILE_TOOL [--megabytes 1024] [--rounds 5] [--folder DIR]. Needs Python's torch.

Each figure is the median of the rounds; in a round, the ways follow each other, so that a slow disk meets all of them.
Saving: `plain` is the same bytes by write() and fsync(). Loading: `plain` is the file by read() into one buffer. Files
are in the page cache when they are read, as after a save; every value is summed up, so that a mapped file is read too.
Peak: memory beyond what the process had before.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

LOAD = {
    "plain": """
buffer = bytearray(os.path.getsize(path))
with open(path, "rb", buffering=0) as file:
    done, view = 0, memoryview(buffer)
    while done < len(buffer):
        done += file.readinto(view[done:])
torch.frombuffer(buffer[:len(buffer) // 4 * 4], dtype=torch.float32).nansum()
""",
    "torch": "sum(float(value.sum()) for value in torch.load(path, weights_only=True).values())",
}
MEASURED = """
import json, os, sys, time
import torch
path = sys.argv[1]
def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before, start = memory("VmRSS"), time.monotonic()
{}
print(json.dumps(dict(seconds=time.monotonic() - start, peak=memory("VmHWM") - before)))
"""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tool")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=".")
    arguments = parser.parse_args()
    figures = {}

    def add(action, way, figure):
        figures.setdefault((action, way), []).append(figure)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        pth, safetensors = os.path.join(folder, "a.pth"), os.path.join(folder, "a.safetensors")
        size = str(arguments.megabytes)
        for _ in range(arguments.rounds):
            add("save", "plain", run(arguments.tool, "plain", os.path.join(folder, "plain"), size))
            add("save", ".pth", run(arguments.tool, "pth", pth, size))
            add("save", ".pth, async_save", run(arguments.tool, "async", pth, size))
            add("save", ".safetensors", run(arguments.tool, "safetensors", safetensors, size))
            for way, code in LOAD.items():
                add("load", way, run(sys.executable, "-c", MEASURED.format(code), pth))
            add("load", ".pth", run(arguments.tool, "load", pth))
            add("load", ".safetensors", run(arguments.tool, "load", safetensors))
        file_size = os.path.getsize(pth)
    print(f"{file_size / 2**20:.0f} MiB, {arguments.rounds} rounds\n")
    print(f"{'':24} {'seconds':>8} {'MB/s':>7} {'of plain':>8} {'peak MiB':>9}")
    for action in ("save", "load"):
        plain = statistics.median(figure["seconds"] for figure in figures[action, "plain"])
        for (done, way), taken in figures.items():
            if done != action:
                continue
            seconds = statistics.median(figure["seconds"] for figure in taken)
            peak = max(figure["peak"] for figure in taken)
            print(f"{action + ' ' + way:24} {seconds:8.2f} {file_size / seconds / 1e6:7.0f} {plain / seconds:8.2f} "
                  f"{peak / 2**20:9.0f}")


if __name__ == "__main__":
    main()
