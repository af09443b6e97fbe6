# SPDX-License-Identifier: Apache-2.0
"""Completion in bash, zsh and fish, and the manual pages, as the command writes them.

Usage: shell_test.py POLYAK [unittest arguments]
"""
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

POLYAK = None


def polyak(*arguments):
    return subprocess.run([POLYAK, *arguments], capture_output=True, text=True, timeout=120, check=True).stdout


class Shells(unittest.TestCase):
    """What is offered after a line, the same in each shell."""

    EXPECTED = [
        ("polyak av", {"average"}),
        ("polyak --vers", {"--version"}),
        ("polyak average --format ", {"pth", "safetensors"}),
        ("polyak average --type Cos", {"CosineEMA"}),
        ("polyak plot average Cos", {"CosineEMA"}),
        ("polyak describe EMAH", {"EMAHook"}),
        ("polyak list aver", {"average"}),
        ("polyak train --launcher s", {"slurm"}),
        ("polyak train aver", {"averaging.yaml"}),
        ("polyak train averaging.yaml --work-dir ru", {"runs"}),
        ("polyak attach averaging.yaml --dry", {"--dry-run"}),
        ("polyak init --from f", {"fashion-mnist"}),
        ("polyak completion ", {"bash", "zsh", "fish"}),
    ]

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_shell_"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "averaging.yaml").write_text("")
        (self.folder / "runs").mkdir()
        self.scripts = self.folder / "scripts"
        self.scripts.mkdir()

    def script(self, shell, name):
        path = self.scripts / name
        path.write_text(polyak("completion", shell))
        return path

    def run_shell(self, *command):
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, check=True).stdout

    def test_bash(self):
        script = self.script("bash", "polyak")
        for line, expected in [*self.EXPECTED, ("polyak average --format = s", {"safetensors"})]:
            with self.subTest(line):
                words = line.split(" ")
                quoted = " ".join(f"'{word}'" for word in words)
                out = self.run_shell("bash", "-c", f"compopt() {{ :; }}; . {script}; COMP_WORDS=({quoted}); "
                                     f"COMP_CWORD={len(words) - 1}; _polyak; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
                self.assertEqual(set(out.split()), expected)

    def test_fish(self):
        script = self.script("fish", "polyak.fish")
        for line, expected in self.EXPECTED:
            with self.subTest(line):
                out = self.run_shell("fish", "--no-config", "-c", f"source {script}; complete -C '{line}'")
                found = {row.split("\t")[0].rstrip("/") for row in out.splitlines()}
                self.assertEqual(found, expected)

    def test_zsh(self):
        # A shell at a terminal: only there the functions of completion work.
        self.script("zsh", "_polyak")
        shell, terminal = pty.fork()
        if shell == 0:
            os.chdir(self.folder)
            os.environ.update(TERM="dumb", PS1="", COLUMNS="200")
            os.execvp("zsh", ["zsh", "-f", "-i"])
        self.addCleanup(os.close, terminal)

        def answer(line, marker):
            os.write(terminal, line.encode())
            text, end = "", time.monotonic() + 60
            while marker not in text and time.monotonic() < end:
                if select.select([terminal], [], [], 0.2)[0]:
                    text += os.read(terminal, 65536).decode(errors="replace")
            self.assertIn(marker, text, line)
            return text

        answer(f"unsetopt prompt_cr prompt_sp; fpath=({self.scripts} $fpath); autoload -U compinit; compinit -u -D; "
               "zstyle ':completion:*' list-separator '#'; setopt no_auto_menu no_list_beep\n"
               "show() { print -r -- \"<$BUFFER>\"; BUFFER= }; zle -N show; bindkey '^X' show; print rea''dy\n", "ready")
        for line, expected in self.EXPECTED:
            with self.subTest(line):
                if len(expected) == 1:  # it is written at once
                    text = answer(line + "\t\x18", "/>" if expected == {"runs"} else ">")
                    completed = re.findall(r"<(.*)>", text)[-1].rstrip(" /")
                    self.assertEqual(completed, line[:line.rindex(" ") + 1] + next(iter(expected)))
                else:  # they are listed
                    text = answer(line + "\t\x18", ">")
                    for word in expected:
                        self.assertIn(word, text)
        os.write(terminal, b"exit\n")
        os.waitpid(shell, 0)


class Pages(unittest.TestCase):
    def test_every_command_has_a_page_that_groff_reads(self):
        names = re.findall(r"polyak\\-([a-z]+) \(1\)", polyak("man"))
        for name in ("train", "attach", "average", "plot", "completion", "man"):
            self.assertIn(name, names)
        for name in ["", *names]:
            page = polyak("man", *([name] if name else []))
            done = subprocess.run(["groff", "-man", "-Tutf8", "-P-cbou", "-ww"], input=page, capture_output=True,
                                  text=True, timeout=60, check=True)
            self.assertEqual(done.stderr, "", name)
            for section in ("NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS"):
                self.assertRegex(done.stdout, rf"(?m)^{section}$")

    def test_a_page_has_every_option_of_the_help(self):
        for name in ("train", "average", "attach", "plot average"):
            command = name.split()
            page = polyak("man", command[0]).replace("\\-", "-")
            helped = subprocess.run([POLYAK, *command, "--help"], capture_output=True, text=True, timeout=60).stdout
            options = re.findall(r"^  (?:-\w,)?(--[a-z-]+)", helped, re.MULTILINE)
            self.assertGreater(len(options), 2)
            for option in options:
                self.assertIn(option, page, name)

    def test_an_unknown_command_is_refused(self):
        done = subprocess.run([POLYAK, "man", "trian"], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("no command is named 'trian'; did you mean 'train'?", done.stderr)


if __name__ == "__main__":
    POLYAK = os.path.abspath(sys.argv[1])
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
