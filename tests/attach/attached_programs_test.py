# SPDX-License-Identifier: Apache-2.0
"""`polyak attach` on the programs of tests/examples, which have the forms that strangers' programs have.

Usage: attached_programs_test.py POLYAK LIBRARY PROGRAMS EXAMPLES [unittest arguments]: the first three as attach_test.py
takes them, and the folder of the built examples.
"""
import array
import pathlib
import shutil
import signal
import sys
import unittest
import zipfile

import attach_test

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))
import programs_test  # noqa: E402

EXAMPLES = None


class Programs(attach_test.AttachTest):
    """Programs in strangers' forms: what they print and write is the same to the byte, beside attach's own files."""

    CONFIG = attach_test.COSINE.replace("max_iters: 20", "max_iters: 40")

    def both(self, name, averages, **options):
        folders = [self.folder / "bare", self.folder / "attached"]
        for folder in folders:
            folder.mkdir()
        self.folder = folders[0]
        bare = self.run_program(EXAMPLES / name)
        self.folder = folders[1]
        done = self.attach(EXAMPLES / name, **{"config": self.CONFIG, **options})
        self.assertEqual(bare.stdout, done.stdout)
        for path in folders[0].iterdir():
            self.assertEqual(path.read_bytes(), (folders[1] / path.name).read_bytes(), path.name)
        self.assertEqual([file for file in self.files("out") if file.startswith("averages")], averages)
        return self.messages(done)

    def replay(self, weights, averages):
        return self.expect_replay(weights, averages, 0.1, 40)

    def test_a_gan(self):
        self.assertEqual(self.both("gan", ["averages-discriminator.pth", "averages-generator.pth"],
                                   config=self.CONFIG + "names: [generator, discriminator]\n"), [])
        for name in ("generator", "discriminator"):
            self.assertIn("20 steps", self.replay(name, f"averages-{name}"))
            self.assertIn(f"{name}.averaged.pt", self.files())

    def test_targets_that_the_program_updates_by_hand_are_left_alone(self):
        messages = self.both("soft_updates", ["averages-2.pth", "averages-3.pth", "averages.pth"])
        self.assertEqual(len(messages), 2, messages)
        self.assertIn("no averaged weights beside critic_2_target.pt", messages[0])
        self.assertIn("not averaged, since no optimizer stepped it: first.bias and 11 more", messages[1])
        self.replay("actor", "averages")

    def test_a_target_that_is_synced_through_a_stream(self):
        messages = self.both("stream_sync", ["averages.pth"])
        self.assertEqual([file for file in self.files("out") if "stream" in file], ["stream-7.pt", "stream-8.pt"])
        self.assertEqual(len(messages), 1, messages)
        self.assertIn("no averaged weights beside target.pt", messages[0])
        self.assertIn("40 steps", self.replay("online", "averages"))

    def test_parameters_that_grow_keep_one_file_for_each_optimizer(self):
        messages = self.both("growing", ["averages-2.pth", "averages-3.pth", "averages.pth"])
        self.assertEqual(len(messages), 1, messages)
        self.assertIn("the program replaced parameters of its Adam", messages[0])
        self.assertIn("points.averaged.pt", self.files())
        weights, rows = (programs_test.read_steps(self.folder / f"{name}.bin") for name in ("points", "rows"))
        for file, name, width in (("averages", "means", 2), ("averages-2", "scales", 2), ("averages-3", "weights", 1)):
            # The rows that stay begin as a copy, before the first step with them.
            average = [weights[29][name][int(row) * width + i] for row in rows[2]["rows"] for i in range(width)]
            for k in range(30, 40):
                average = [a + programs_test.cosine(k) * (v - a) for a, v in zip(average, weights[k][name])]
            data = zipfile.ZipFile(self.folder / "out" / f"{file}.pth").read(f"{self.archive_of(file)}/data/0")
            found = array.array("f", data)
            self.assertEqual(len(found), len(average))
            for a, b in zip(found, average):
                self.assertAlmostEqual(a, b, delta=2e-6)
            self.assertEqual(self.index()[f"{file}.pth"]["names"], ["parameter_0"])
            self.assertEqual(self.index()[f"{file}.pth"]["steps"], "40")

    def archive_of(self, file):
        return zipfile.ZipFile(self.folder / "out" / f"{file}.pth").namelist()[0].split("/")[0]

    def test_a_tensor_in_the_place_of_another_goes_on_where_its_values_say_so(self):
        for mode, goes_on in (("same", True), ("reordered", False), ("behind_more", True)):
            self.saver("replaces", mode, config=self.CONFIG)
            steps = programs_test.read_steps(self.folder / "steps.bin")
            expected = {name: list(values) for name, values in steps[0].items()}
            for k, step in enumerate(steps):
                for name, values in step.items():
                    before = expected[name]
                    if k == 5 and name == "second" and not goes_on:
                        before = list(reversed(steps[4][name]))
                    expected[name] = [a + programs_test.cosine(k) * (v - a) for a, v in zip(before, values)]
            archive = zipfile.ZipFile(self.folder / "out" / "averages.pth")
            for place, name in enumerate(("first", "second")):
                found = array.array("f", archive.read(f"{self.archive_of('averages')}/data/{place}"))
                for a, b in zip(found, expected[name], strict=True):
                    self.assertAlmostEqual(a, b, delta=2e-6, msg=f"{mode}: {name}")
            shutil.rmtree(self.folder / "out")

    def test_a_siblings_buffers_and_frozen_parameters_are_those_of_the_save(self):
        self.saver("target_in_the_module")
        said = self.run_program(attach_test.PROGRAMS / "saver", "compares", "both.pt", "both.averaged.pt").stdout
        self.assertEqual({line.split()[0]: line.split()[1] for line in said.splitlines()},
                         {"online.weight": "other", "norm.weight": "other", "norm.bias": "other",
                          "target.weight": "same", "norm.running_mean": "same",
                          "norm.running_var": "same", "norm.num_batches_tracked": "same"})

    def test_closures(self):
        self.assertEqual(self.both("closures", ["averages.pth"]), [])
        self.assertIn("12 steps", self.replay("model", "averages"))

    def test_a_late_dtype(self):
        self.assertEqual(self.both("late_dtype", ["averages.pth"]), [])
        self.assertIn("net.averaged.pt", self.files())


if __name__ == "__main__":
    attach_test.POLYAK, attach_test.LIBRARY, programs, examples = (str(pathlib.Path(word).resolve())
                                                                   for word in sys.argv[1:5])
    attach_test.PROGRAMS, EXAMPLES = pathlib.Path(programs), pathlib.Path(examples)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main(argv=sys.argv[:1] + sys.argv[5:])
