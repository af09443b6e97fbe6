# SPDX-License-Identifier: Apache-2.0
"""`polyak attach` on programs that end, fork and run threads in every way: averages are written, ends stay as they are.

Usage: ends_test.py POLYAK LIBRARY PROGRAMS [unittest arguments], as attach_test.py takes them.
"""
import signal
import sys
import unittest
import zipfile

import attach_test


class Ends(attach_test.AttachTest):
    def check(self, how, status, config=attach_test.COSINE):
        return self.scenario("ends", how, config=config, status=status)

    def test_exit(self):
        self.check("exit", 4)
        self.assertIn("10 steps", self.expect_replay())

    def test_quick_exit(self):
        self.check("quick_exit", 8)
        self.assertIn("10 steps", self.expect_replay())

    def test_an_uncaught_exception_keeps_its_message_and_signal(self):
        done = self.check("throw", -signal.SIGABRT)
        self.assertIn("the disk is full", done.stderr)
        self.assertIn("10 steps", self.expect_replay())

    def test_sigterm_kills_as_it_would_and_leaves_the_last_write(self):
        self.check("SIGTERM", -signal.SIGTERM, attach_test.COSINE + "every: 5\n")
        self.assertIn("10 steps", self.expect_replay())

    def test_sigterm_with_a_handler_of_the_program(self):
        self.check("handler", 3)
        self.assertIn("10 steps", self.expect_replay())

    def test_sigint_and_abort_leave_the_last_write(self):
        self.check("SIGINT", -signal.SIGINT, attach_test.COSINE + "every: 5\n")
        self.assertIn("10 steps", self.expect_replay())
        self.check("abort", -signal.SIGABRT, attach_test.COSINE + "every: 5\n")
        self.assertIn("10 steps", self.expect_replay())

    def test_a_terminate_handler_of_the_program_is_its_own(self):
        done = self.check("terminate", 11)
        self.assertEqual(self.messages(done), [])
        self.assertEqual(self.files("out"), [])

    def test_exit_from_another_thread(self):
        self.check("thread", 12)
        self.assertIn("10 steps", self.expect_replay())

    def test_underscore_exit_leaves_the_last_write(self):
        self.check("_exit", 6, attach_test.COSINE + "every: 5\n")
        self.assertIn("10 steps", self.expect_replay())
        self.check("_exit", 6, attach_test.COSINE.replace("output_dir: out", "output_dir: none"))
        self.assertEqual(self.files("none"), [])

    def test_exit_within_a_step(self):
        self.scenario("exits_in_a_step", status=5)
        self.assertIn("10 steps", self.expect_replay())

    def test_an_exception_within_a_step_is_no_step(self):
        self.scenario("throws_in_a_step")
        self.assertIn("12 steps", self.expect_replay())

    def test_exit_while_another_thread_trains(self):
        # LibTorch takes itself apart under the thread: without attach, too, it ends some of these programs by an abort.
        done = self.scenario("exits_while_a_thread_trains", status=9, or_status=(-signal.SIGABRT, -signal.SIGSEGV))
        self.assertIsNone(zipfile.ZipFile(self.folder / "out" / "averages.pth").testzip())
        # An abort may come while newer averages are written beside those.
        whole = [name for name in self.files("out") if done.returncode == 9 or ".tmp-" not in name]
        self.assertEqual(whole, ["averages.pth"])

    def test_what_the_program_saves_at_its_exit_has_a_sibling(self):
        self.scenario("saves_at_exit")
        self.assertIn("10 steps", self.expect_replay())
        self.assertIn("model.averaged.pt", self.files())

    def test_a_forked_child_is_left_alone(self):
        self.scenario("forks", status=7)
        self.assertIn("12 steps", self.expect_replay())
        self.assertIn("child.pt", self.files())
        self.assertNotIn("child.averaged.pt", self.files())

    def test_forks_beside_a_training_thread_do_not_hang(self):
        self.scenario("forks_beside_a_training_thread")

    def test_a_program_that_steps_nothing_is_told_so_once(self):
        done = self.scenario("no_step")
        self.assertEqual(self.messages(done), ["polyak: no optimizer step was seen; nothing was averaged"])
        self.assertEqual(self.files("out"), [])
        self.assertNotIn("model.averaged.pt", self.files())


if __name__ == "__main__":
    attach_test.use(*sys.argv[1:4])
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
