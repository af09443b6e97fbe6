# SPDX-License-Identifier: Apache-2.0
"""`polyak attach` on programs whose optimizers get other tensors.

Usage: replaced_test.py POLYAK PROGRAMS [unittest arguments]: the folder of replaced and show.
"""
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

POLYAK = PROGRAMS = None

CONFIG = """
custom_hooks:
  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.1}
max_iters: 40
output_dir: out
"""
LINE = ("polyak: the program replaced parameters of its SGD; an average continues if values or names are the same, and "
        "starts as a copy otherwise")


def weight(k):
    return 1.0 if k == 0 else 0.1 * (1 + math.cos(math.pi * k / 40)) / 2


def average(values, first=0, start=None):
    """Of the values of one number after each step; from `first` on, when it began as a copy of `start`."""
    result = start
    for k, value in enumerate(values, first):
        result = value if result is None else result + weight(k) * (value - result)
    return result


class Test(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_replaced_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_in(self, *command):
        done = subprocess.run([str(word) for word in command], cwd=self.folder, capture_output=True, text=True,
                              timeout=100)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}\n{done.stderr}")
        return done

    def attach(self, program, *arguments):
        """Its standard output, and what attach said after its first line."""
        (self.folder / "averaging.yaml").write_text(CONFIG)
        done = self.run_in(POLYAK, "attach", "averaging.yaml", "--", program, *arguments)
        return done.stdout, done.stderr.splitlines()[1:]

    def replaced(self, name):
        """What attach said, without the lines for files."""
        return [line for line in self.attach(PROGRAMS / "replaced", name)[1] if ".pth: " not in line]

    def averages(self):
        return sorted(path.name for path in (self.folder / "out").glob("averages*.pth"))

    def show(self, file):
        lines = self.run_in(PROGRAMS / "show", file).stdout.splitlines()
        return {name: [float(number) for number in numbers.split()]
                for name, numbers in (line.split(":") for line in lines)}

    def expect(self, found, expected):
        self.assertEqual(len(found), len(expected))
        for a, b in zip(found, expected):
            self.assertAlmostEqual(a, b, delta=1e-5)


class Replaced(Test):
    def test_each_optimizer_keeps_one_file_when_its_tensors_grow(self):
        self.assertEqual(self.replaced("in_place"), [LINE])
        self.assertEqual(self.averages(), ["averages-2.pth", "averages.pth"])
        for start, file in ((10, "averages.pth"), (20, "averages-2.pth")):
            found = self.show(f"out/{file}")
            self.assertEqual(found.pop("steps"), [10])
            expected = average([start - 9, start - 10], first=8, start=start - 8)
            self.expect(*found.values(), [expected] * 7)
        for i in range(4):
            self.assertEqual(self.show(f"points-{i}.averaged.pt"), self.show(f"points-{i}.pt"))

    def test_an_average_goes_on_where_a_tensor_has_the_values_of_the_one_before(self):
        self.assertEqual(self.replaced("same_values"), [LINE])
        self.expect(self.show("points.averaged.pt")["0"], [average([9, 8, 7, 6, 5])] * 3)

    def test_an_average_begins_as_a_copy_where_rows_stand_in_another_order(self):
        self.replaced("other_values")
        expected = [average([start - 1], first=4, start=start) for start in (-2, -3, -4)]
        self.expect(self.show("points.averaged.pt")["0"], expected)

    def test_a_tensor_that_grows_by_set_data_is_averaged_on(self):
        self.assertEqual(self.replaced("set_data"), [])
        found = self.show("out/averages.pth")
        self.assertEqual(found["steps"], [7])
        self.assertEqual(len(found["0"]), 6)

    def test_models_that_take_turns_in_one_optimizer_keep_an_average_each(self):
        self.assertEqual(self.replaced("turns"), [])
        for name, file in (("a", "averages.pth"), ("b", "averages-2.pth")):
            self.assertEqual(self.show(f"out/{file}")["steps"], [3])
            self.assertNotEqual(self.show(f"{name}.averaged.pt"), self.show(f"{name}.pt"))


# What a program of `layers` in replaced.cpp ends with, by name: four steps from 10 down, a change, and two steps.
GOES_ON = average([9, 8, 7, 6, 5, 4])
NEW = average([28], first=5, start=29)  # from 30 down
LAYERS = {
    "new_head": {"body.weight": [GOES_ON], "head.weight": [NEW] * 2},
    "other_head": {"body.weight": [GOES_ON], "classifier.weight": [NEW]},
    "lora": {"body.weight": [GOES_ON], "body.lora.weight": [NEW], "head.weight": [GOES_ON]},
    "merged": {"body.weight": [average([9, 8, 7, 6, 11, 10])]},
    "pruned": {"body.weight_orig": [GOES_ON], "body.weight_mask": [1], "head.weight": [GOES_ON]},
    "embedding": {"body.weight": [GOES_ON], "head.weight": [NEW] * 6},
    "frozen": {"body.weight": [average([9, 8, 7, 6, 6, 6, 5, 4])],
               "head.weight": [average([9, 8, 7, 6, 5, 4, 3, 2])]},
    "untied": {"output": [NEW], "body.weight": [average([8, 6, 4, 2, 1, 0])], "head.weight": [GOES_ON]},
}


class Layers(Test):
    def test_new_ones_start_as_copies_gone_ones_leave_and_the_others_go_on(self):
        for name, expected in LAYERS.items():
            with self.subTest(name):
                shutil.rmtree(self.folder / "out", ignore_errors=True)
                said = self.replaced(name)
                gone = [line for line in said if "released" in line]
                self.assertEqual(len(gone), name in ("new_head", "other_head", "merged", "embedding"), said)
                for line in gone:
                    self.assertEqual(line, "polyak: the program released head.weight; left the average")
                self.assertEqual(self.averages(), ["averages.pth"])
                found = self.show("out/averages.pth")
                self.assertEqual(found.pop("steps"), [8 if name == "frozen" else 6])
                self.assertEqual(set(found), set(expected))
                for tensor, values in expected.items():
                    self.expect(found[tensor], values)
                self.assertEqual(set(self.show("net.averaged.pt")), set(expected))


if __name__ == "__main__":
    POLYAK, PROGRAMS = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
    unittest.main()
