# SPDX-License-Identifier: Apache-2.0
"""`polyak attach` on programs that were compiled without Polyak: what they get, and what they must not notice.

Usage: attach_test.py POLYAK LIBRARY PROGRAMS [unittest arguments]. PROGRAMS is the folder of trainer, scenario, replay
and the others of tests/attach; LIBRARY is libpolyak_attach.so. Fashion-MNIST's Debian package must be there.
"""
import gzip
import math
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

POLYAK = LIBRARY = PROGRAMS = None
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")

COSINE = """
custom_hooks:
  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.1}
max_iters: 20
output_dir: out
"""


class AttachTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_attach_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_program(self, *command, status=0, or_status=(), **options):
        done = subprocess.run([str(word) for word in command], cwd=self.folder, capture_output=True, text=True,
                              timeout=280, **options)
        self.assertIn(done.returncode, (status, *or_status), f"{command}\n{done.stdout}\n{done.stderr}")
        return done

    def config(self, text=COSINE):
        (self.folder / "averaging.yaml").write_text(text)
        return "averaging.yaml"

    def attach(self, *command, config=COSINE, **options):
        return self.run_program(POLYAK, "attach", self.config(config), "--", *command, **options)

    def scenario(self, *arguments, **options):
        return self.attach(PROGRAMS / "scenario", *arguments, **options)

    def saver(self, *arguments, **options):
        return self.attach(PROGRAMS / "saver", *arguments, **options)

    def refused(self, *command, says, config=COSINE):
        done = self.run_program(POLYAK, "attach", self.config(config), "--", *command, status=2)
        self.assertEqual(done.stdout, "")
        for line in done.stderr.splitlines():  # messages, and under each the line of the config
            self.assertRegex(line, r"^polyak: |^ +\d* +\|")
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, done.stderr)
        self.assertEqual([], [path.name for path in self.folder.rglob("*.pt*")])

    def files(self, folder="."):
        """Without the index of attach, which is beside every file of averages."""
        return sorted(path.name for path in (self.folder / folder).iterdir()
                      if path.is_file() and path.name != "averages.yaml")

    def index(self):
        """What averages.yaml says: {file: {key: text}}, names a list."""
        entries, entry = {}, None
        for line in (self.folder / "out" / "averages.yaml").read_text().splitlines():
            key, _, value = line.strip().partition(":")
            if not line.startswith(" "):
                entry = entries[key] = {}
            elif line.strip().startswith("- "):
                entry["names"].append(line.strip()[2:])
            else:
                entry[key] = [name.strip() for name in value.strip(" []").split(",")] if value.strip().startswith(
                    "[") else value.strip() or []
        return entries

    def messages(self, done):
        """What attach said, without the lines that it says always: the first, and one for each file of averages."""
        lines = [line for line in done.stderr.splitlines() if line.startswith("polyak: ")]
        self.assertRegex(lines[0], r"^polyak: attached to \w+; averages go to /")
        return [line for line in lines[1:] if not re.match(r"polyak: averages\S*\.pth: \d+ parameters? of ", line)]

    def expect_replay(self, weights="steps", averages="averages", momentum=0.1, max_iters=20, *more):
        return self.run_program(PROGRAMS / "replay", f"{weights}.bin", f"out/{averages}.pth", momentum, max_iters,
                                *more).stdout

    def expect_averages_in(self, file, averages="averages", start=""):
        """The file is loaded by the code that loads the original, and holds the averages of what starts so."""
        self.run_program(PROGRAMS / "scenario", "load", file, start)
        self.run_program(PROGRAMS / "replay", "loaded.bin", f"out/{averages}.pth")


class Optimizers(AttachTest):
    def check(self, name):
        done = self.scenario("optimizer", name)
        self.assertEqual(self.messages(done), [])
        self.assertIn("12 steps", self.expect_replay())
        self.assertEqual(self.files("out"), ["averages.pth"])
        self.assertNotIn("optimizer.averaged.pt", self.files())
        self.expect_averages_in("model.averaged.pt")

    def test_sgd(self):
        self.check("SGD")

    def test_adam(self):
        self.check("Adam")

    def test_adamw(self):
        self.check("AdamW")

    def test_rmsprop(self):
        self.check("RMSprop")

    def test_adagrad(self):
        self.check("Adagrad")

    def test_lbfgs_evaluates_often_and_counts_once(self):
        self.check("LBFGS")

    def test_one_of_the_programs_own(self):
        self.check("Descent")

    def test_one_of_the_programs_own_that_zeroes_gradients_after_its_step(self):
        self.scenario("step_before_zero_grad")
        self.assertIn("12 steps", self.expect_replay())

    def test_one_of_the_programs_own_each_epoch(self):
        self.scenario("new_descent_each_epoch")
        self.assertIn("12 steps", self.expect_replay())

    def test_one_of_the_programs_own_for_the_warm_up(self):
        self.scenario("descent_warms_up")
        self.assertIn("12 steps", self.expect_replay())

    def test_one_of_the_programs_own_where_another_was(self):
        self.scenario("optimizers_in_one_place")
        self.assertIn("12 steps", self.expect_replay())

    def test_those_of_the_programs_own_where_models_zero_their_gradients(self):
        self.scenario("models_zero_gradients")
        self.assertIn("6 steps", self.expect_replay("a", "averages"))
        self.assertIn("6 steps", self.expect_replay("b", "averages-2"))

    def test_results_are_the_same_bits_without_attach(self):
        for arguments, dump, model in ((("optimizer", "SGD"), "steps.bin", "model.pt"),
                                       (("optimizer", "LBFGS"), "steps.bin", "model.pt"),
                                       (("models_zero_gradients",), "a.bin", "generator.pt")):
            self.scenario(*arguments)
            before = [(self.folder / name).read_bytes() for name in (dump, model)]
            self.run_program(PROGRAMS / "scenario", *arguments)
            self.assertEqual(before, [(self.folder / name).read_bytes() for name in (dump, model)])


class Models(AttachTest):
    def test_groups_that_are_added_later_are_averaged_from_then_on(self):
        self.scenario("groups_added_later")
        self.assertIn("12 steps", self.expect_replay())
        self.expect_averages_in("model.averaged", start="first")
        self.expect_averages_in("model.averaged", start="second")

    def test_optimizers_of_parts_of_one_model_average_their_parts(self):
        self.scenario("parts")
        self.assertIn("8 steps", self.expect_replay("first", "averages"))
        self.assertIn("4 steps", self.expect_replay("second", "averages-2"))
        self.expect_averages_in("model.averaged.pt", "averages", "first")
        self.expect_averages_in("model.averaged.pt", "averages-2", "second.weight")

    def test_a_new_optimizer_over_the_same_parameters_goes_on_with_their_average(self):
        self.scenario("new_optimizer_each_epoch")
        self.assertIn("12 steps", self.expect_replay())
        self.assertEqual(self.files("out"), ["averages.pth"])

    def test_buffers_are_averaged_if_the_config_says_so(self):
        self.scenario("optimizer", "SGD", config=COSINE.replace("0.1", "0.1, update_buffers: true"))
        self.expect_replay("steps", "averages", 0.1, 20, "update_buffers")
        self.expect_averages_in("model.averaged.pt")

    def test_tensors_that_cannot_be_averaged_are_left_out(self):
        self.assertEqual(self.messages(self.scenario("odd_tensors")), [])
        self.expect_replay()
        messages = self.messages(self.scenario("odd_tensors", "stepped"))
        self.assertEqual(messages, ["polyak: far: is sparse, quantized or a meta tensor and is not averaged; it is saved "
                                    "unchanged"])
        self.assertIn("12 steps", self.expect_replay())

    def test_optimizers_that_never_step_count_nothing(self):
        self.scenario("spare_optimizers")
        self.assertIn("12 steps", self.expect_replay())

    def test_several_models_have_files_of_their_own(self):
        self.scenario("models")
        # In the order in which the program made optimizers; the discriminator steps first.
        self.expect_replay("a", "averages")
        self.expect_replay("b", "averages-2")
        self.expect_averages_in("generator.averaged.pt", "averages")
        self.expect_averages_in("discriminator.averaged.pt", "averages-2")

    def test_models_that_are_gone_are_written_and_not_kept(self):
        self.assertEqual(self.scenario("folds").stdout, "0 models kept\n")
        for fold in range(1, 5):
            self.expect_replay(f"fold{fold}", "averages" if fold == 1 else f"averages-{fold}")

    def test_tensors_without_names_have_stable_positions(self):
        self.scenario("bare_tensors")
        text = (self.folder / "out" / "averages.pth").read_bytes()
        for name in (b"parameter_0", b"parameter_1"):
            self.assertIn(name, text)

    def test_torchscript_modules_are_averaged_where_they_are_saved(self):
        done = self.scenario("script", config=COSINE.replace("0.1", "0.1, update_buffers: true"))
        self.assertIn("averaged differs: 1, runs: [32, 4]", done.stderr)
        self.assertIn("3 tensors, 5 steps", self.expect_replay("steps", "averages", 0.1, 20, "update_buffers"))
        self.run_program(PROGRAMS / "replay", "loaded.bin", "out/averages.pth")

    def test_threads_that_train_models_of_their_own(self):
        self.scenario("threads")
        self.assertEqual(self.files("out"), ["averages-2.pth", "averages.pth"])
        # Which thread comes first is not known.
        names = ("averages", "averages-2")
        for weights, file in zip("ab", names if self.replays("a", names[0]) else reversed(names)):
            self.expect_replay(weights, file)
        self.assertLess({"a.averaged.pt", "b.averaged.pt"}, set(self.files()))

    def replays(self, weights, averages):
        return subprocess.run([PROGRAMS / "replay", f"{weights}.bin", f"out/{averages}.pth", "0.1", "20"],
                              cwd=self.folder, capture_output=True).returncode == 0

    def test_several_averages_have_siblings_of_their_own(self):
        self.scenario("optimizer", "SGD", config=COSINE.replace(
            "max_iters", "  - {type: EMAHook, name: mean, ema_type: StochasticWeightAverage}\nmax_iters"))
        self.expect_replay()
        self.expect_averages_in("model.averaged.pt")
        self.run_program(PROGRAMS / "scenario", "load", "model.averaged.mean.pt")
        self.run_program(PROGRAMS / "replay", "steps.bin", "loaded.bin", "mean")


class Files(AttachTest):
    def test_streams_and_writers_get_numbered_files(self):
        self.assertEqual(self.scenario("streams").stdout, "wrote 1\n")
        self.assertEqual(self.files("out"), ["averages.pth", "stream-1.pt", "stream-2.pt"])
        self.expect_averages_in("out/stream-1.pt")

    def test_the_newest_copies_of_streams_stay_as_many_as_the_config_says(self):
        for streams, kept in (("", [6, 7]), ("streams: {keep: 3}", [5, 6, 7]), ("streams: none", []),
                              ("streams: all", [1, 2, 3, 4, 5, 6, 7])):
            self.saver("many_streams", "7", config=COSINE + streams + "\n")
            self.assertEqual([file for file in self.files("out") if "stream" in file],
                             [f"stream-{number}.pt" for number in kept], streams)
            shutil.rmtree(self.folder / "out")
        for streams in ("some", "{keep: 0}", "{keep: 2, more: 1}", "3"):
            self.refused(PROGRAMS / "saver", "many_streams", "1", config=COSINE + f"streams: {streams}\n",
                         says=("averaging.yaml:", "streams: must be {keep: N}"))

    def test_of_several_processes_the_first_writes_or_all_in_folders_of_their_own(self):
        def run(rank, config):
            environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
            return self.attach(PROGRAMS / "scenario", "models", config=config, env=environment)

        self.assertEqual(run(1, COSINE).stderr.count("parameters of Adam"), 0)
        self.assertFalse(list(self.folder.glob("*.averaged.pt")))
        self.assertEqual(self.files("out"), [])
        self.assertIn("parameters of Adam", run(0, COSINE).stderr)
        self.assertEqual(self.files("out"), ["averages-2.pth", "averages.pth"])
        self.assertTrue((self.folder / "generator.averaged.pt").exists())
        run(1, COSINE + "every_rank: true\n")
        self.assertEqual(self.files("out/rank_1"), ["averages-2.pth", "averages.pth"])

    def test_an_index_tells_which_file_is_which(self):
        done = self.scenario("models")
        index = self.index()
        self.assertEqual(list(index), ["averages.pth", "averages-2.pth"])
        for place, (file, saved_as) in enumerate((("averages.pth", "generator.averaged.pt"),
                                                  ("averages-2.pth", "discriminator.averaged.pt"))):
            entry = index[file]
            self.assertEqual(entry["made"], str(place + 1))
            self.assertEqual(pathlib.Path(entry["saved_as"]).name, saved_as)
            self.assertEqual(entry["optimizer"], "Adam")
            self.assertIn("first.weight", entry["names"])
            self.assertIn(f"polyak: {file}: {entry['parameters']} parameters of {entry['optimizer']}, "
                          f"{entry['steps']} steps: first.weight", done.stderr)

    def test_the_config_names_the_files_in_the_order_of_making(self):
        for names, says in (("[a, a]", "'a' is listed twice"), ("[a/b]", "'a/b' is not valid in a file name")):
            self.refused(PROGRAMS / "scenario", "models", config=COSINE + f"names: {names}\n", says=says)
        self.scenario("models", config=COSINE + "names: [generator, discriminator]\n")
        self.assertEqual(self.files("out"), ["averages-discriminator.pth", "averages-generator.pth"])
        self.expect_replay("a", "averages-generator")
        self.expect_replay("b", "averages-discriminator")

    def test_torch_load_reads_the_averages_where_the_format_is_pt(self):
        self.scenario("optimizer", "SGD", config=COSINE + "format: pt\n")
        self.assertEqual(self.files("out"), ["averages.pt", "averages.pth"])
        self.expect_averages_in("out/averages.pt")
        # A module without tensors must be in the archive, too.
        self.saver("saves_as", "model.pt", config=COSINE + "format: pt\n")
        self.run_program(PROGRAMS / "saver", "loads", "out/averages.pt")

    def test_what_has_no_sibling_is_named_at_the_end(self):
        done = self.saver("saves_a_clone")
        self.assertNotIn("best.averaged.pt", self.files())
        messages = self.messages(done)
        self.assertEqual(len(messages), 1, done.stderr)
        self.assertIn("no averaged weights beside best.pt", messages[0])
        self.assertIn("averages*.pth", messages[0])

    def test_parameters_that_no_optimizer_steps_are_named_at_the_end(self):
        messages = self.messages(self.saver("hand_made_target"))
        self.assertEqual(len(messages), 1, messages)
        self.assertIn("not averaged, since no optimizer stepped it: first.bias and ", messages[0])

    def test_an_optimizer_without_parameters_is_not_called_no_step(self):
        messages = self.messages(self.saver("nothing_to_step"))
        self.assertEqual(messages, ["polyak: the optimizers that stepped have no parameters to average; nothing was "
                                    "averaged"])

    def test_a_number_at_the_end_of_a_name_is_no_file_type(self):
        self.saver("saves_as", "epoch.2", "model.pt", "plain", "a.b.ckpt")
        self.assertLessEqual({"epoch.2.averaged", "model.averaged.pt", "plain.averaged", "a.b.averaged.ckpt"},
                             set(self.files()))

    def test_the_newest_file_of_a_folder_is_the_programs_own(self):
        self.saver("saves_as", "a.pt", "b.pt")
        newest = max(self.folder.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        self.assertEqual(newest.name, "b.pt")
        for name in "ab":
            own, sibling = (self.folder / f"{name}{mark}.pt" for mark in ("", ".averaged"))
            self.assertEqual(own.stat().st_mtime_ns - sibling.stat().st_mtime_ns, 10**9)

    def test_siblings_lie_where_the_config_says(self):
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        for folder in ("one", "two"):
            (self.folder / folder).mkdir()
        self.saver("saves_as", "one/a.pt", "two/a.pt", str(elsewhere / "a.pt"), "a.pt",
                      config=COSINE + "siblings: averaged\n")
        found = sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.averaged.pt"))
        self.assertEqual(found, ["averaged/a.averaged.pt", "averaged/elsewhere/a.averaged.pt",
                                 "averaged/one/a.averaged.pt", "averaged/two/a.averaged.pt"])

    def test_siblings_that_are_gone_at_the_end_get_a_line_that_names_the_key(self):
        messages = self.messages(self.saver("keeps_the_newest", "2"))
        self.assertEqual(len(messages), 1, messages)
        self.assertIn("siblings: FOLDER", messages[0])
        for path in self.folder.glob("kept*.pt"):
            path.unlink()
        self.assertEqual(self.messages(self.saver("keeps_the_newest", "2", config=COSINE + "siblings: averaged\n")), [])
        self.assertEqual(sorted(path.name for path in self.folder.glob("kept*.pt")), ["kept_4.pt", "kept_5.pt"])

    def test_before_the_average_begins_there_is_no_sibling(self):
        self.scenario("optimizer", "SGD", config=COSINE.replace("0.1", "0.1, begin_iter: 15"))
        self.assertNotIn("model.averaged.pt", self.files())

    def test_a_sibling_that_cannot_be_written_is_one_line_and_no_more(self):
        (self.folder / "model.averaged.pt").mkdir()
        done = self.scenario("optimizer", "SGD")
        messages = self.messages(done)
        self.assertEqual(len(messages), 1, done.stderr)
        self.assertIn("model.averaged.pt", messages[0])
        self.assertIn("it is a folder", messages[0])

    def test_averages_are_written_every_so_many_steps(self):
        self.scenario("ends", "SIGKILL", config=COSINE + "every: 4\n", status=-signal.SIGKILL)
        self.expect_replay_of_first(8)

    def expect_replay_of_first(self, steps):
        # A step's weights in steps.bin end with an empty line; each has the same size.
        text = (self.folder / "steps.bin").read_bytes()
        self.assertEqual(len(text) % 10, 0)
        (self.folder / "first.bin").write_bytes(text[:len(text) // 10 * steps])
        self.assertIn(f"{steps} steps", self.expect_replay("first"))

    def test_the_default_folder_is_named_after_the_config(self):
        self.scenario("optimizer", "SGD", config=COSINE.replace("output_dir: out", ""))
        self.assertEqual(self.files("work_dirs/averaging"), ["averages.pth"])


class Surroundings(AttachTest):
    def test_the_program_sees_the_environment_that_it_was_given(self):
        self.assertEqual(self.scenario("environment").stdout, "LD_PRELOAD=(unset)\n0\n")
        libraries = subprocess.run(["ldd", PROGRAMS / "replay"], capture_output=True, text=True, check=True).stdout
        preload = re.search(r"libm\.so\.6 => (\S+)", libraries)[1]
        self.assertEqual(self.scenario("environment", env={**os.environ, "LD_PRELOAD": preload}).stdout,
                         f"LD_PRELOAD={preload}\n0\n")

    def test_the_program_sees_the_streams_and_signals_that_it_was_given(self):
        found = {}
        for ignored in (False, True):
            for closed in ("", " >&- 2>&-", " <&- >&- 2>&-"):
                words = {"bare": [PROGRAMS / "scenario", "inheritance"],
                         "attached": [POLYAK, "attach", self.config(), "--", PROGRAMS / "scenario", "inheritance"]}
                for name, command in words.items():
                    # Python ignores SIGPIPE and SIGXFSZ, and so does a child to which it does not restore them.
                    subprocess.run(" ".join(f"'{word}'" for word in command) + closed, shell=True, check=True,
                                   cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, restore_signals=not ignored)
                    found[name] = (self.folder / "inheritance.txt").read_text()
                    (self.folder / "inheritance.txt").unlink()
                self.assertEqual(found["bare"], found["attached"], f"{ignored}, {closed}")
        self.assertIn("closed closed closed", found["attached"])

    def test_a_program_is_found_in_path_and_gets_its_arguments_as_they_are(self):
        path = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        self.attach("scenario", "ends", "exit", "--", "--help", status=4, env=path)

    def test_a_program_with_its_own_polyak_and_yaml_cpp(self):
        bare = self.run_program(PROGRAMS / "embedded")
        attached = self.attach(PROGRAMS / "embedded")
        self.assertEqual(bare.stdout, attached.stdout)
        self.assertEqual(len(bare.stdout.splitlines()), 4)
        self.assertEqual(self.files("out"), ["averages.pth"])

    def test_the_library_needs_libtorch_and_what_that_needs(self):
        text = subprocess.run(["readelf", "-dW", LIBRARY], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"NEEDED.*\[(.*)\]", text)
        self.assertTrue(any(name.startswith("libtorch_cpu.so") for name in needed), needed)
        allowed = re.compile(r"^(libtorch_cpu|libc10|libc10_cuda|libgomp[-\w]*|libiomp5|libomp|libstdc\+\+|libm|libgcc_s|"
                             r"libc|libpthread|libdl|libasan|libubsan|libtsan|ld-linux[-\w]*)\.so")
        self.assertEqual([name for name in needed if not allowed.match(name)], [])

    def test_the_library_shows_what_it_stands_before_and_nothing_else(self):
        text = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
        shown = [line.split()[-1] for line in text.splitlines()]
        self.assertEqual(len([name for name in shown if "4stepE" in name]), 6)
        others = [name for name in shown if not name.startswith(("_ZN5torch", "_ZNK5torch"))]
        self.assertEqual(others, [])


class Refusals(AttachTest):
    def test_a_program_that_is_not_there(self):
        self.refused("./nothing", says="./nothing: no such program")
        self.refused("no_such_program", says=["no_such_program", "PATH"])

    def test_a_file_that_is_not_executable(self):
        (self.folder / "data").write_text("x")
        self.refused("./data", says="chmod +x")

    def write_program(self, text):
        path = self.folder / "program"
        path.write_bytes(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return "./program"

    def test_a_script_says_where_attach_belongs(self):
        self.refused(self.write_program(b"#!/bin/sh\nexec trainer\n"), says=["is a script", "polyak attach CONFIG --"])

    def test_a_file_that_is_no_program(self):
        self.refused(self.write_program(b"hello"), says="not an ELF file")
        self.refused(self.write_program(b""), says="not an ELF file")
        self.refused(self.write_program(b"\x7fELF"), says="not an ELF file")

    def test_a_program_without_libtorch_names_the_version_that_it_takes(self):
        version = re.search(r"LibTorch (\S+)", self.run_program(POLYAK, "--version").stdout)[1]
        self.refused("/bin/true", says=["does not load LibTorch", version])

    def test_a_static_program(self):
        self.refused(PROGRAMS / "static_program", says="statically linked")

    def test_another_libtorch_names_both_versions(self):
        version = re.search(r"LibTorch (\S+)", self.run_program(POLYAK, "--version").stdout)[1]
        self.refused(PROGRAMS / "other_libtorch" / "other_program", says=["LibTorch 0.4.1", f"built with {version}"])

    def test_wrong_configs(self):
        program = PROGRAMS / "scenario"
        for config, says in [
                ("output_dir: out\n", "custom_hooks"),
                ("custom_hooks: []\n", "custom_hooks: is empty"),
                (COSINE.replace("max_iters: 20", ""), ["CosineEMA", "max_iters", "is required"]),
                (COSINE.replace("momentum: 0.1", "momentm: 0.1"), ["averaging.yaml:3", "did you mean 'momentum'"]),
                (COSINE.replace("EMAHook", "CheckpointHook"), ["custom_hooks[0].type", "attach supports EMAHook"]),
                (COSINE.replace("0.1", "0.1, begin_epoch: 2"), ["begin_epoch", "use begin_iter"]),
                (COSINE.replace("0.1", "0.1, exclude: [a]"), ["custom_hooks[0].exclude", "names of a compiled program"]),
                ("custom_hooks: [{type: EMAHook, averages: [{decay: 0.9}, {name: b, include: [a]}]}]\noutput_dir: out\n",
                 ["averages[1].include", "names of a compiled program"]),
                (COSINE.replace("0.1", "0.1, begin_iter: 21"), ["begin_iter: is 21", "20 iteration"]),
                (COSINE.replace("output_dir", "outputdir"), "did you mean 'output_dir'"),
                (COSINE + "every: -1\n", "every"),
                (COSINE.replace("out\n", "/proc/out\n"), ["output_dir", "/proc/out"])]:
            self.refused(program, "no_step", config=config, says=says)

    def test_a_check_says_what_the_program_links_and_proposes_a_config(self):
        trainer = PROGRAMS / "trainer"
        done = self.run_program(POLYAK, "attach", "--check", "--", trainer, "--epochs", "3")
        self.assertRegex(done.stderr, r"trainer: can be attached\n  LibTorch +\d+\.\d+\.\d+\S*, /\S+\n  optimizers  SGD\n")
        self.assertIn(f"polyak attach THIS_FILE -- {trainer} --epochs 3", done.stdout)
        (self.folder / "proposed.yaml").write_text(done.stdout)
        done = self.run_program(POLYAK, "attach", "proposed.yaml", "--check", "--", PROGRAMS / "scenario")
        self.assertEqual(done.stdout, "")
        self.assertIn("optimizers  SGD, Adam, AdamW, RMSprop, Adagrad, LBFGS, one of its own", done.stderr)
        self.assertIn("config      proposed.yaml: fits", done.stderr)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["proposed.yaml"])
        self.refused_check(["--check", "--", "/bin/ls"], "does not load LibTorch")
        self.refused_check(["--", trainer], "no config given")
        (self.folder / "wrong.yaml").write_text("custom_hooks: [{type: EMAHook, momentm: 1}]")
        self.refused_check(["wrong.yaml", "--check", "--", trainer], "did you mean 'momentum'?")

    def refused_check(self, arguments, says):
        done = self.run_program(POLYAK, "attach", *arguments, status=2)
        self.assertEqual(done.stdout, "")
        self.assertIn(says, done.stderr)

    def test_a_dry_run_ends_after_its_steps_and_writes_nothing(self):
        program = PROGRAMS / "scenario"
        done = self.run_program(POLYAK, "attach", self.config(), "--dry-run", "5", "--", program, "models")
        self.assertIn("attached to scenario for 5 optimizer steps; no averages are written", done.stderr)
        self.assertRegex(done.stderr, r"dry run: 5 steps; a run would write to \S+/out:\n"
                         r"polyak:   averages.pth: 6 parameters of Adam, 2 steps: .*\n"
                         r"polyak:   averages-2.pth: 6 parameters of Adam, 3 steps: ")
        self.assertFalse((self.folder / "out").exists())
        done = self.run_program(POLYAK, "attach", self.config(), "--dry-run", "500", "--", program, "optimizer", "SGD")
        self.assertIn("dry run: 12 steps, then the program ended", done.stderr)
        self.assertEqual([], [path.name for path in self.folder.rglob("*averaged*")])
        self.assertFalse((self.folder / "out").exists())
        for steps in ("0", "-1", "some"):
            self.run_program(POLYAK, "attach", self.config(), "--dry-run", steps, "--", program, "models", status=2)

    def test_a_command_line_without_a_program(self):
        done = self.run_program(POLYAK, "attach", self.config(), status=2)
        self.assertIn("-- PROGRAM", done.stderr)
        done = self.run_program(POLYAK, "attach", self.config(), "--", status=2)
        self.assertIn("-- PROGRAM", done.stderr)


class FashionMnist(AttachTest):
    CONFIG = """
custom_hooks:
  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.1}
max_iters: 400
output_dir: out
"""

    HOOKS = """
custom_hooks:
  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.1}
  - {type: CheckpointHook, by_epoch: false, interval: 400}
max_iters: 400
work_dir: hooks
"""

    def setUp(self):
        super().setUp()
        self.data = self.folder / "data"
        self.data.mkdir()
        for path in DATA.glob("*.gz"):
            with gzip.open(path) as packed, open(self.data / path.stem, "wb") as plain:
                shutil.copyfileobj(packed, plain)

    def train(self, *arguments):
        return ("trainer", "data", "--seed", 3, "--batches", 400, "--lr", 0.2, "--save", "model.pt", *arguments)

    def test_the_averaged_file_loads_with_the_trainers_own_code_and_is_better(self):
        name, *arguments = self.train("--dump", "steps.bin")
        bare = self.run_program(PROGRAMS / name, *arguments)
        steps = (self.folder / "steps.bin").read_bytes()
        attached = self.attach(PROGRAMS / name, *arguments, config=self.CONFIG)
        self.assertEqual(attached.stdout, bare.stdout)
        self.assertEqual(self.messages(attached), [])
        self.assertEqual((self.folder / "steps.bin").read_bytes(), steps)
        self.assertIn("400 steps", self.expect_replay(max_iters=400))

        # The same trainer with Polyak's lines in it keeps the same average.
        (self.folder / "hooks.yaml").write_text(self.HOOKS)
        embedded = self.run_program(PROGRAMS / "trainer_with_hooks", *arguments, "--hooks", "hooks.yaml")
        self.assertEqual(embedded.stdout, bare.stdout)
        self.assertEqual((self.folder / "steps.bin").read_bytes(), steps)
        self.run_program(PROGRAMS / "replay", "steps.bin", "hooks/iter_400.pth", 0.1, 400)

        evaluate = (PROGRAMS / "trainer", "data", "--evaluate")
        raw = self.run_program(*evaluate, "model.pt")
        averaged = self.run_program(*evaluate, "model.averaged.pt", "--dump", "loaded.bin")
        self.run_program(PROGRAMS / "replay", "loaded.bin", "out/averages.pth")
        print(f"raw {raw.stdout.strip()}, averaged {averaged.stdout.strip()}", file=sys.stderr)
        self.assertGreater(float(averaged.stdout), float(raw.stdout))


class Overhead(AttachTest):
    def test_the_measurement_works(self):
        done = self.run_program(sys.executable, pathlib.Path(__file__).parents[1] / "bench" / "attach_overhead.py", POLYAK,
                                PROGRAMS, "--only", "tiny", "--rounds", 1, "--steps", 2000)
        ratio = re.search(r"tiny: median ratio (\S+) ", done.stdout)
        self.assertTrue(math.isfinite(float(ratio[1])), done.stdout)


def use(polyak, library, programs):
    """Says which files are tested."""
    global POLYAK, LIBRARY, PROGRAMS
    POLYAK, LIBRARY = (str(pathlib.Path(word).resolve()) for word in (polyak, library))
    PROGRAMS = pathlib.Path(programs).resolve()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it


if __name__ == "__main__":
    use(*sys.argv[1:4])
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
