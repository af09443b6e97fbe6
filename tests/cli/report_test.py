# SPDX-License-Identifier: Apache-2.0
"""`polyak report`: a page about runs, as a parser and, where there is one, a browser reads it.

Usage: report_test.py POLYAK [unittest arguments].
"""
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

import cli_test
from average_test import read_safetensors
from cli_test import SMALL, CommandTest

HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
AVERAGES = """
custom_hooks:
  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.1, evaluate_on_origin: true}
  - {type: EMAHook, name: slow, momentum: 0.02}
default_hooks:
  logger: {type: LoggerHook, interval: 4}
  checkpoint: {type: CheckpointHook, interval: 1, max_keep_ckpts: 1, save_best: accuracy}
"""


def numbers(text):
    return [float(number) for number in re.findall(r"-?[\d.]+", text)]


class Page:
    def __init__(self, path):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>\n")
        assert not re.search(r"<script|<link|@import|url\(|\bsrc=", text), "a page that needs something else"
        self.root = xml.fromstring(text.split("\n", 1)[1])
        self.text = " ".join(part.strip() for part in self.root.itertext() if part.strip())
        self.figures = {}
        for figure in self.root.iter(HTML + "figure"):
            self.figures.setdefault(figure.find(HTML + "h3").text, figure)

    def curves(self, title):
        """{name: (points of its line, marks)} in pixels."""
        curves = {}
        for element in self.figures[title].iter():
            name = element.find(SVG + "title")
            if element.tag == SVG + "path" and name is not None:
                points = numbers(element.get("d"))
                curves.setdefault(name.text, ([], []))[0].extend(zip(points[::2], points[1::2]))
            elif element.tag == SVG + "circle":
                curves.setdefault(name.text.split(": ")[0], ([], []))[1].append(name.text.split(": ", 1)[1])
        return curves

    def tiles(self):
        return {tile.find(HTML + "dt").text: tile.find(HTML + "dd").text for tile in self.root.iter(HTML + "div")
                if tile.find(HTML + "dt") is not None}

    def rows(self, table):
        return [["".join(cell.itertext()) for cell in row] for row in list(self.root.iter(HTML + "table"))[table]]


class Report(CommandTest):
    def report(self, *arguments):
        self.run_polyak("report", *arguments)
        return Page(self.folder / "report.html")

    def fake_run(self, name, lines):
        """A work_dir with these lines of scalars."""
        folder = self.folder / name / "20250101_000000/vis_data"
        folder.mkdir(parents=True)
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (folder / "scalars.json").write_text(text)

    def test_of_a_run_draws_averaged_and_raw_weights_and_all_else(self):
        config = self.write(SMALL + AVERAGES)
        self.train(config, "--work-dir", "run")
        done = self.run_polyak("report", "run", "-o", "report.html")
        self.assertRegex(done.stdout, r"^report\.html: 1 run, [\d.]+ kB\n$")
        page = Page(self.folder / "report.html")
        self.assertEqual(list(page.figures), ["accuracy", "training loss", "weight of the new value in each average",
                                              "learning rate", "time of an iteration", "time of an update of the averages"])
        logged = [json.loads(line) for line in next(
            self.folder.glob("run/*/vis_data/scalars.json")).read_text().splitlines()]
        validations = [line for line in logged if "iter" not in line]
        curves = page.curves("accuracy")
        for name, key in (("averaged weights", "accuracy"), ("average slow", "accuracy_slow"),
                          ("raw weights", "accuracy_origin")):
            self.assertEqual(curves[name][1], [f"{line[key]:.6g} at epoch {line['step']}" for line in validations])
            heights = [y for _, y in curves[name][0]]
            for i in range(len(validations) - 1):  # a larger value is higher, that is, has a smaller y
                rise = validations[i + 1][key] - validations[i][key]
                self.assertEqual((rise > 0) - (rise < 0), (heights[i] > heights[i + 1]) - (heights[i] < heights[i + 1]))
        band, = [path for path in page.figures["accuracy"].iter(SVG + "path") if "band" in path.get("class")]
        self.assertEqual(len(numbers(band.get("d"))), 2 * 2 * len(validations))
        training = [line for line in logged if "iter" in line]
        self.assertTrue(all(line["ema_time_ms"] > 0 for line in training))
        self.assertEqual(len(page.curves("time of an update of the averages")["all averages"][0]), len(training))
        self.assertEqual(len(page.curves("training loss")["loss"][0]), len(training))
        self.assertEqual(set(page.curves("weight of the new value in each average")), {"the average", "slow"})
        tiles = page.tiles()
        self.assertEqual(tiles["accuracy, averaged"], f"{validations[-1]['accuracy']:.2f}")
        self.assertEqual(tiles["accuracy, raw"], f"{validations[-1]['accuracy_origin']:.2f}")
        self.assertEqual(tiles["iterations"], "24")
        self.assertEqual(tiles["average"], "CosineEMA, ExponentialMovingAverage (slow)")
        gap = validations[-1]["accuracy"] - validations[-1]["accuracy_origin"]
        sign = "+" if gap > 0 else "−" if gap < 0 else "±"
        self.assertIn(f"{sign}{abs(gap):.{2 if abs(gap) >= 10 else 4}f}", page.text)
        self.assertIn("ema_type: CosineEMA", page.text)  # the config
        self.assertIn("CPU instructions", page.text)
        files = {row[0]: row[2] for row in page.rows(0)[1:]}
        self.assertEqual(files["epoch_3.pth"], "the newest, from which --resume continues")
        best, = [name for name in files if name.startswith("best_")]
        self.assertEqual(files[best], f"the best: accuracy {max(line['accuracy'] for line in validations):.2f}")

    def test_shows_how_far_averages_are_from_the_weights(self):
        self.train(self.write(SMALL + AVERAGES.replace("interval: 4", "interval: 4, ema_distance: true")),
                   "--work-dir", "run")
        page = self.report("run")
        self.assertEqual(set(page.curves("distance of each average from the weights")), {"the average", "slow"})
        logged = [json.loads(line) for line in next(
            self.folder.glob("run/*/vis_data/scalars.json")).read_text().splitlines()]
        last = [line for line in logged if "iter" in line][-1]
        self.assertAlmostEqual(last["ema_horizon_slow"], 1 / last["ema_momentum_slow"])
        for weights in ("raw", "slow"):
            self.run_polyak("convert", "run/epoch_3.pth", f"{weights}.safetensors", "--weights", weights)
        raw, slow = (read_safetensors(self.folder / f"{weights}.safetensors")[0] for weights in ("raw", "slow"))
        parameters = [name for name in raw if "running" not in name]
        difference = sum((a - b) ** 2 for name in parameters for a, b in zip(raw[name], slow[name]))
        size = sum(a ** 2 for name in parameters for a in raw[name])
        self.assertAlmostEqual(last["ema_distance_slow"], math.sqrt(difference / size), places=5)

    def test_of_several_runs_compares_them(self):
        config = self.write(SMALL + AVERAGES)
        self.train(config, "--work-dir", "slow")
        self.train(self.write(SMALL, "plain.yaml"), "--work-dir", "plain", "--cfg-options",
                   "optim_wrapper.optimizer.lr=0.1", "default_hooks.checkpoint=null",
                   "default_hooks.logger.type=LoggerHook", "default_hooks.logger.interval=2")
        page = self.report("slow", "plain/")
        rows = page.rows(0)
        self.assertEqual([row[0] for row in rows], ["run", "slow", "plain"])
        self.assertEqual(rows[1][1], "CosineEMA, ExponentialMovingAverage (slow)")
        self.assertEqual(rows[2][1], "none")
        self.assertEqual(rows[2][2], "")  # no averaged weights
        differences = {row[0]: row[1:] for row in page.rows(1)[1:]}
        self.assertEqual(differences["optim_wrapper.optimizer.lr"], ["0.05", "0.1"])
        self.assertNotIn("work_dir", differences)
        self.assertNotIn("model.type", differences)
        self.assertEqual(set(page.curves("training loss")), {"slow", "plain"})
        self.assertEqual(set(page.curves("accuracy")), {"slow, averaged", "slow, slow", "slow, raw", "plain, raw"})
        shutil.copytree(self.folder / "plain", self.folder / "other/plain")
        names = [row[0] for row in self.report("plain", "other/plain").rows(0)[1:]]
        self.assertEqual(names, ["plain", "other/plain"])

    def test_of_a_run_that_diverges_says_where(self):
        self.fake_run("nan", [{"epoch": 1, "iter": 1, "loss": 2.0, "step": 1},
                              '{"epoch": 1, "iter": 2, "loss": NaN, "step": 2}',
                              {"epoch": 1, "iter": 3, "loss": None, "step": 3},
                              '{"epoch": 1, "iter": 4, "loss": -Infinity, "step": 4}',
                              {"epoch": 2, "iter": 5, "loss": 1.0, "step": 5},
                              {"accuracy": None, "accuracy_origin": 10.0, "step": 1},
                              {"accuracy": 9.0, "accuracy_origin": None, "step": 2}])
        page = self.report("nan")
        self.assertIn("3 of 5 values of loss are not finite, the first at iteration 2", page.text)
        self.assertIn("1 of 2 values of averaged weights are not finite, the first at epoch 1", page.text)
        self.assertIn("NaN", page.text)
        self.assertNotIn("nan ", (self.folder / "report.html").read_text().split("<body>")[1].replace("nan,", ""))
        path, = [path for path in page.figures["training loss"].iter(SVG + "path") if "line" in path.get("class")]
        self.assertEqual(path.get("d").count("M"), 2)  # the line has a gap

    def test_of_one_epoch_draws_a_point(self):
        self.fake_run("one", [{"epoch": 1, "iter": 10, "loss": 2.0, "lr": 0.1, "step": 10},
                              {"accuracy": 50.0, "step": 1}])
        page = self.report("one")
        self.assertEqual(page.curves("accuracy")["raw weights"][1], ["50 at epoch 1"])
        self.assertEqual(page.curves("training loss")["loss"][1], ["2 at iteration 10"])

    def test_of_a_long_run_stays_small(self):
        lines = []
        for i in range(1, 100_001):
            lines.append({"epoch": 1 + i // 500, "iter": i, "loss": 2 / math.sqrt(i) + (1 if i == 77_777 else 0),
                          "lr": 0.1, "time": 0.01, "step": i})
            if i % 500 == 0:
                lines.append({"accuracy": 90 - 100 / i, "accuracy_origin": 89 - 100 / i, "step": i // 500})
        self.fake_run("long", lines)
        page = self.report("long")
        self.assertLess((self.folder / "report.html").stat().st_size, 200_000)
        points = page.curves("training loss")["loss"][0]
        self.assertLess(len(points), 1100)
        peak = min(points[len(points) // 2:], key=lambda point: point[1])  # no peak is lost
        self.assertAlmostEqual(peak[0], points[-1][0] * 0.7778, delta=15)
        self.assertEqual(len(page.curves("accuracy")["averaged weights"][0]), 200)
        self.assertEqual(len(page.rows(0)), 201)
        self.assertEqual(page.tiles()["training time"], "16 min 40 s")

    def test_takes_names_for_text(self):
        self.fake_run("a<b>&\"c\"", [{"iter": 1, "loss_<i>": 1.0, "loss": 1.0, "step": 1}])
        (self.folder / 'a<b>&"c"' / "config.yaml").write_bytes(b"model: <b>&amp;</b> \xff\x01\n")
        page = self.report('a<b>&"c"')
        self.assertEqual(page.root.find(f".//{HTML}h1").text, 'a<b>&"c"')
        self.assertIn("loss_<i>", page.curves("training loss"))
        self.assertIn("model: <b>&amp;</b> �", page.text)

    def test_reads_a_run_of_mmengine(self):
        self.fake_run("mm", [{"lr": 0.1, "data_time": 0.01, "loss": 1.5, "time": 0.2, "epoch": 1, "iter": 50,
                              "memory": 1200, "step": 50},
                             {"accuracy/top1": 61.5, "accuracy/top5": 90.1, "data_time": 0.1, "time": 0.2, "step": 1}])
        (self.folder / "mm/20250101_000000/vis_data/config.py").write_text("model = dict(type='ResNet')\n")
        page = self.report("mm")
        self.assertEqual(page.curves("accuracy/top1")["raw weights"][1], ["61.5 at epoch 1"])
        self.assertIn("memory", page.figures)
        self.assertIn("model = dict(type='ResNet')", page.text)

    def test_shows_the_newest_run_that_trained(self):
        self.fake_run("run", [{"iter": 1, "loss": 1.0, "step": 1}])
        for name, line in (("20250102_000000", {"iter": 7, "loss": 1.0, "step": 7}),
                           ("20250103_000000", {"accuracy": 1.0, "step": 0})):  # of `polyak test`
            folder = self.folder / "run" / name / "vis_data"
            folder.mkdir(parents=True)
            (folder / "scalars.json").write_text(json.dumps(line) + "\n{\"iter\": 8, \"lo")
        page = self.report("run")
        self.assertEqual(page.tiles()["iterations"], "7")
        self.assertIn("run 20250102_000000; 1 older run in this folder is not shown; "
                      "1 line of scalars.json could not be read", page.text)
        self.assertEqual(self.report("run/20250101_000000").tiles()["iterations"], "1")

    def test_says_what_is_missing(self):
        (self.folder / "nothing").mkdir()
        self.fake_run("empty", [])
        self.fake_run("broken", ["no json", "[1]", "{}"])
        self.fake_run("good", [{"iter": 1, "loss": 1.0, "step": 1}])
        for folders, says in [
                (["none"], "none: does not exist"),
                (["nothing"], "nothing: holds no run: LoggerHook writes TIMESTAMP/vis_data/scalars.json in the "
                              "work_dir of a run, and there is none"),
                (["empty"], "empty/20250101_000000/vis_data/scalars.json: is empty, so the run logged nothing yet"),
                (["good", "broken"], "broken/20250101_000000/vis_data/scalars.json: none of its 3 lines is a line of "
                                     "scalars"),
                (["good", "-o", "no/folder.html"], "no/folder.html")]:
            with self.subTest(folders):
                done = self.run_polyak("report", *folders, status=1)
                self.assertIn("polyak: " + says, done.stderr)
                self.assertFalse((self.folder / "report.html").exists())


class Browser(CommandTest):
    """Where a headless Chromium is installed; CI has none."""

    def test_shows_curves_without_an_error(self):
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        if not browser:
            self.skipTest("no chromium here: the page is not looked at")
        self.train(self.write(SMALL + AVERAGES), "--work-dir", "run")
        self.run_polyak("report", "run")
        page = self.folder / "report.html"
        dumped = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                                 "--virtual-time-budget=2000", page.as_uri()], capture_output=True, text=True,
                                timeout=120).stdout
        self.assertEqual(dumped.count("<svg"), 6)
        for width in (390, 1200):
            picture = self.folder / f"report_{width}.png"
            subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                            f"--screenshot={picture}", f"--window-size={width},1800", page.as_uri()],
                           capture_output=True, timeout=120, check=True)
            self.assertGreater(picture.stat().st_size, 20_000)  # an empty page has 5 kB


if __name__ == "__main__":
    cli_test.POLYAK = str(pathlib.Path(sys.argv[1]).resolve())
    import unittest
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
