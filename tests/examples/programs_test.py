# SPDX-License-Identifier: Apache-2.0
"""The programs of tests/examples/programs, run bare and with Polyak embedded.

Usage: programs_test.py BUILT PROGRAMS [unittest arguments]: where they were built, and their folder. Each writes the
weights after each of its steps, the embedded ones the averages beside them.
"""
import array
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILT = PROGRAMS = None


def read_steps(path):
    """What weights_dump.h wrote: for each step, name -> numbers."""
    data, at, steps, step = path.read_bytes(), 0, [], {}
    while at < len(data):
        end = data.index(b"\n", at)
        line, at = data[at:end].decode(), end + 1
        if not line:
            steps.append(step)
            step = {}
            continue
        name, _, count = line.rsplit(" ", 2)
        step[name] = list(array.array("f", data[at:at + 4 * int(count)]))
        at += 4 * int(count)
    return steps


def cosine(k, momentum=0.1, length=40):
    return 1.0 if k == 0 else momentum * (1 + math.cos(math.pi * min(k, length) / length)) / 2


class Programs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_programs_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_in(self, folder, program):
        folder.mkdir()
        shutil.copy(PROGRAMS / "averaging.yaml", folder)
        done = subprocess.run([str(BUILT / program)], cwd=folder, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, f"{program}\n{done.stdout}\n{done.stderr}")
        self.assertEqual(done.stderr, "", program)
        return done.stdout, {path.name: path.read_bytes() for path in folder.iterdir()}

    def run_both(self, program, *averages):
        """All that the bare program writes and prints, the embedded one does to the byte, and its averages."""
        stdout, files = self.run_in(self.folder / "bare", program)
        embedded_stdout, embedded = self.run_in(self.folder / "embedded", program + "_embedded")
        self.assertEqual(stdout, embedded_stdout)
        self.assertEqual(sorted(embedded), sorted([*files, *(f"{name}_averages.bin" for name in averages)]))
        for name, data in files.items():
            self.assertEqual(data, embedded[name], name)

    def steps(self, name):
        return read_steps(self.folder / "embedded" / f"{name}.bin")

    def expect_close(self, found, expected, k):
        self.assertEqual(list(found), list(expected))
        for name, values in expected.items():
            self.assertEqual(len(found[name]), len(values), name)
            for a, b in zip(found[name], values):
                self.assertAlmostEqual(a, b, delta=2e-6, msg=f"{name} after update {k}")

    def expect_averages(self, name, weight=cosine, rows=None):
        """They follow the rule; `rows` are those that stay after each tenth step."""
        average = {}
        weights, found = self.steps(name), self.steps(f"{name}_averages")
        self.assertEqual(len(weights), len(found))
        for k, step in enumerate(weights):
            for key, values in step.items():
                before = average.get(key, values)
                average[key] = [a + weight(k) * (v - a) for a, v in zip(before, values)]
            self.expect_close(found[k], average, k)
            if rows and k % 10 == 9:
                kept = [int(row) for row in rows.pop(0)["rows"]]
                for key, values in average.items():
                    width = 1 if key == "weights" else 2
                    average[key] = [v for row in kept for v in values[row * width:(row + 1) * width]]

    def test_gan(self):
        self.run_both("gan", "generator", "discriminator")
        self.expect_averages("generator")
        self.expect_averages("discriminator")

    def test_soft_updates(self):
        self.run_both("soft_updates", "actor", "critic_2")
        # Averages with the rule of the targets that the program updates by hand are those targets.
        for name in ("actor", "critic_2"):
            targets, averages = self.steps(f"{name}_target"), self.steps(f"{name}_averages")
            self.assertEqual(len(targets), 15)
            self.assertNotEqual(targets[-1], self.steps(name)[-1])
            for k, (target, average) in enumerate(zip(targets, averages)):
                self.expect_close(average, target, k)

    def test_stream_sync(self):
        self.run_both("stream_sync", "online")
        self.expect_averages("online")

    def test_growing(self):
        self.run_both("growing", "points")
        rows = self.steps("rows")
        self.assertEqual([len(step["rows"]) for step in rows], [11, 14, 17, 20])
        self.expect_averages("points", rows=rows)

    def test_closures(self):
        self.run_both("closures", "model")
        self.expect_averages("model")

    def test_late_dtype(self):
        self.run_both("late_dtype", "net")
        self.expect_averages("net")


if __name__ == "__main__":
    BUILT, PROGRAMS = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
    unittest.main()
