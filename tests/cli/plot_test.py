# SPDX-License-Identifier: Apache-2.0
"""`polyak plot average`: the weight of an average over a run, in the terminal and as SVG.

Usage: plot_test.py POLYAK [unittest arguments].
"""
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

import cli_test
from cli_test import CommandTest

SVG = "{http://www.w3.org/2000/svg}"


def dots(text):
    """How many dots each column of a plot has: braille characters have 2 columns of 4."""
    rows = [line.split("│", 1)[-1].split("┤", 1)[-1] for line in text.splitlines() if re.search("[│┤]", line)]
    width = max(len(row) for row in rows)
    columns = [0] * (2 * width)
    for row in rows:
        for i, character in enumerate(row):
            bits = ord(character) - 0x2800
            if 0 < bits < 256:
                columns[2 * i] += bin(bits & 0x47).count("1")
                columns[2 * i + 1] += bin(bits & 0xB8).count("1")
    return columns


class Plot(CommandTest):
    def plot(self, *arguments, status=0):
        return self.run_polyak("plot", "average", *arguments, status=status)

    def test_draws_a_line_without_gaps_under_a_title_with_labelled_axes(self):
        text = self.plot("CosineEMA", "momentum=0.004", "max_iters=10000", "--width", "80").stdout
        lines = text.splitlines()
        self.assertEqual(lines[0], "CosineEMA momentum=0.004 max_iters=10000: weight of the new value")
        self.assertLessEqual(max(map(len, lines[:-2])), 80)
        self.assertTrue(all(dots(text)), text)
        self.assertRegex(text, r"(?m)^ *0\.004 ┤⠉⠉")
        self.assertRegex(text, r"(?m)^ *0 ┤.*[⣀⡀⠤]$")
        self.assertRegex(text, r"(?m)^ +0 +2k +4k +6k +8k +10k$")
        self.assertIn("from 0.004 at update 1 to 9.87e-11 at update 9999\n", text)
        self.assertIn("half of the average at the end comes from its last 2798 of 9999 updates; "
                      "its first weights are less than 0.01 % of it\n", text)

    def test_says_how_far_an_average_reaches(self):
        for arguments, says in [
                (["ExponentialMovingAverage", "momentum=0.01", "--updates", "1000"],
                 "where it follows the last 100 updates (1 / weight)\n"
                 "half of the average at the end comes from its last 69 of 999 updates"),
                (["ExponentialMovingAverage", "momentum=0.0001", "--updates", "1000"],
                 "90.5 % of the average at the end are still its first weights"),
                (["ExponentialMovingAverage", "half_life=2ep", "--epoch", "250"],
                 "half of the average at the end comes from its last 500 of"),
                (["StochasticWeightAverage", "interval=10", "--updates", "1000"],
                 "half of the average at the end comes from its last 500 of 990 updates"),
                (["BEMA", "--updates", "100"], "half of the running average, before its correction,")]:
            with self.subTest(arguments):
                self.assertIn(says, self.plot(*arguments).stdout)

    def test_draws_what_falls_fast_by_powers_of_ten(self):
        for arguments in (["StochasticWeightAverage"], ["PowerFunctionEMA", "sigma_rel=0.1"]):
            with self.subTest(arguments):
                text = self.plot(*arguments).stdout
                self.assertIn("weight of the new value (log scale)\n", text)
                self.assertRegex(text, r"(?m)^ *0\.01 ┤")
                self.assertTrue(all(dots(text)), text)
        self.assertNotIn("log scale", self.plot("SlidingWindowAverage").stdout)

    def test_is_plain_in_pipes_and_without_unicode_if_the_locale_has_none(self):
        text = self.plot("CosineEMA").stdout
        self.assertNotIn("\x1b", text)
        plain = subprocess.run([cli_test.POLYAK, "plot", "average", "CosineEMA"], stdout=subprocess.PIPE, check=True,
                               env={**os.environ, "LC_ALL": "en_US.ISO-8859-1", "COLUMNS": "60"}).stdout
        self.assertTrue(plain.isascii(), plain)
        self.assertIn(b"*", plain)
        self.assertLessEqual(max(len(line) for line in plain.splitlines()[:-2]), 60)
        self.assertEqual(self.plot("CosineEMA", "--ascii", "--width", "60").stdout.encode(), plain)

    def test_in_a_terminal_has_its_width_and_colors_unless_no_color_is_set(self):
        for variables, colored in [({}, True), ({"NO_COLOR": "1"}, False)]:
            with self.subTest(variables):
                environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "LC_ALL")}
                environment.update({"TERM": "xterm", **variables})
                status, text = cli_test.run_in_terminal(
                    "stdout", 57, [cli_test.POLYAK, "plot", "average", "CosineEMA"], env=environment)
                self.assertEqual(status, 0)
                self.assertEqual("\x1b[" in text, colored, text)
                axis, = [line for line in re.sub("\x1b\\[[0-9]*m", "", text).splitlines() if "└" in line]
                self.assertEqual(len(axis.rstrip()), 57)

    def test_writes_an_svg_that_draws_the_weights(self):
        done = self.plot("CosineEMA", "momentum=0.004", "max_iters=1000", "--svg", "weight.svg")
        self.assertEqual(done.stdout, "weight.svg: CosineEMA momentum=0.004 max_iters=1000: weight of the new value\n")
        root = xml.parse(self.folder / "weight.svg").getroot()
        self.assertEqual(root.tag, SVG + "svg")
        line, = [path for path in root.iter(SVG + "path") if "line" in path.get("class")]
        points = [tuple(map(float, point.split())) for point in line.get("d")[1:].split("L")]
        self.assertGreater(len(points), 400)
        self.assertEqual(points, sorted(points, key=lambda point: point[0]))
        self.assertEqual([y for _, y in points], sorted(y for _, y in points))  # the weight falls
        labels = [text.text for text in root.iter(SVG + "text")]
        self.assertIn("0.004", labels)
        self.assertIn("update", labels)
        self.assertIn("prefers-color-scheme:dark", root.find(SVG + "style").text)

    def test_refuses_what_a_config_would_refuse(self):
        for arguments, says in [
                (["CosineEM"], "plot average: type: no average is named 'CosineEM'; did you mean 'CosineEMA'?"),
                (["CosineEMA", "momentm=0.1"],
                 "plot average momentm=0.1: momentm: unknown key; did you mean 'momentum'?"),
                (["CosineEMA", "momentum"], "plot average momentum: must have the form key=value"),
                (["ExponentialMovingAverage", "half_life=2ep"], "needs the length of an epoch, which is unknown here"),
                (["StochasticWeightAverage", "begin=20000"], "none of the first 10000 updates averages"),
                (["CosineEMA", "--scale", "log", "--updates", "2", "max_iters=1"], "which has no logarithm"),
                (["CosineEMA", "--svg", "missing/a.svg"], "missing/a.svg")]:
            with self.subTest(arguments):
                done = self.plot(*arguments, status=1 if "--svg" in arguments else 2)
                self.assertIn(says, done.stderr)


if __name__ == "__main__":
    cli_test.POLYAK = os.path.abspath(sys.argv[1])
    import unittest
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
