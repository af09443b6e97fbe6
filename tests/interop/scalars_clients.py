# SPDX-License-Identifier: Apache-2.0
"""The scripts of docs/examples that send scalars.json to W&B and MLflow, by their own clients and without a server.

Usage: scalars_clients.py EXAMPLES [unittest arguments]. Needs wandb and mlflow-skinny.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

EXAMPLES = None

LINES = [{"step": 4, "iter": 4, "epoch": 1, "loss": 2.4069, "lr": 0.004, "ema_momentum": 0.5},
         {"step": 1, "accuracy": 26.5625, "accuracy_origin": 12.5},  # a validation, by epochs
         {"step": 8, "iter": 8, "epoch": 2, "loss": 1.9463, "lr": 0.006, "ema_momentum": 0.25}]


class Clients(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_clients_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.scalars = self.folder / "scalars.json"
        self.scalars.write_text("".join(json.dumps(line) + "\n" for line in LINES))

    def run_script(self, name, **environment):
        done = subprocess.run([sys.executable, EXAMPLES / name, self.scalars], cwd=self.folder, capture_output=True,
                              text=True, timeout=200, env={**os.environ, **environment})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_mlflow_has_every_number_at_its_step(self):
        store = self.folder / "mlruns"
        self.run_script("scalars_to_mlflow.py", MLFLOW_TRACKING_URI=store.as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
        found = {path.name: [line.split()[1:] for line in path.read_text().splitlines()]
                 for path in store.glob("0/*/metrics/*")}
        self.assertEqual(set(found), {name for line in LINES for name in line})
        self.assertEqual([(float(value), int(step)) for value, step in found["loss"]], [(2.4069, 4), (1.9463, 8)])
        self.assertEqual([(float(value), int(step)) for value, step in found["accuracy"]], [(26.5625, 1)])

    def test_wandb_keeps_every_line(self):
        self.run_script("scalars_to_wandb.py", WANDB_MODE="offline", WANDB_SILENT="true",
                        WANDB_CONFIG_DIR=str(self.folder), WANDB_CACHE_DIR=str(self.folder))
        kept, = self.folder.glob("wandb/offline-run-*/*.wandb")
        data = kept.read_bytes()
        for line in LINES:
            for name, value in line.items():
                self.assertIn(name.encode(), data)
                self.assertIn(json.dumps(value).encode(), data)


if __name__ == "__main__":
    EXAMPLES = pathlib.Path(sys.argv[1]).resolve()
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
