# SPDX-License-Identifier: Apache-2.0
"""Training runs of the built command in several processes over loopback.

Usage: runs_test.py POLYAK PLUGIN [unittest arguments]. PLUGIN has the network in float64.
"""
import array
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

POLYAK = PLUGIN = None

CONFIG = """
model: {{type: DoubleNet}}
train_dataloader:
  batch_size: {batch}
  sampler: {{type: DefaultSampler, shuffle: true, round_up: false}}
  dataset: {{type: Blobs, size: {size}}}
val_dataloader:
  batch_size: {batch}
  dataset: {{type: Blobs, size: 101}}
val_evaluator: {{type: Accuracy, topk: [1, 2]}}
train_cfg: {{by_epoch: true, max_epochs: {epochs}, val_interval: 2}}
optim_wrapper:
  optimizer: {{type: SGD, lr: 0.2, momentum: 0.9}}
  accumulative_counts: {accumulate}
custom_hooks:
  - {{type: EMAHook, ema_type: ExponentialMovingAverage, momentum: 0.05}}
default_hooks:
  logger: {{type: LoggerHook, interval: 1}}
  checkpoint: {{type: CheckpointHook, interval: 1, max_keep_ckpts: 2, save_best: accuracy/top1}}
randomness: {{seed: 7}}
env_cfg: {{num_threads: 1, dist_cfg: {{timeout: 30}}}}
"""


def free_port():
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


class Runs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="polyak_processes_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.running = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()

    def write(self, text, name="config.yaml", **values):
        values = {"batch": 32, "size": 250, "epochs": 4, "accumulate": 1, **values}
        path = self.folder / name
        path.write_text(text.format(**values) + f"plugins: [{PLUGIN}]\n")
        return path

    def start(self, ranks, *arguments, size=None, configs=None, port=None, **environment):
        """Starts processes by hand."""
        port = port or free_port()
        started = []
        for place, rank in enumerate(ranks):
            more = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size or len(ranks), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port, **environment}
            own = [configs[place] if configs and word == "CONFIG" else word for word in arguments]
            started.append(subprocess.Popen(
                [POLYAK, *map(str, own), "--launcher", "pytorch"], cwd=self.folder, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **{k: str(v) for k, v in more.items()}}))
        self.running += started
        return started

    def finish(self, started, status=0, timeout=120):
        ended = [(*process.communicate(timeout=timeout), process.returncode) for process in started]
        for rank, (out, err, code) in enumerate(ended):
            if status is not None:
                self.assertEqual(code, status, f"rank {rank}:\n{out}\n{err}")
        return ended

    def train_alone(self, config, work_dir, *options):
        done = subprocess.run([POLYAK, "train", config, "--work-dir", work_dir, *options], cwd=self.folder, text=True,
                              capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def train(self, count, config, work_dir, *options, **environment):
        return self.finish(self.start(range(count), "train", config, "--work-dir", work_dir, *options, **environment))

    def values(self, checkpoint, weights):
        """The tensors of a checkpoint, as lists of numbers by name."""
        file = self.folder / "values.safetensors"
        subprocess.run([POLYAK, "convert", checkpoint, file, "--weights", weights], cwd=self.folder, check=True,
                       capture_output=True, timeout=60)
        data = file.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        tensors = {}
        for name, entry in json.loads(data[8:8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                self.assertIn(entry["dtype"], ("F64", "I64", "F32"))
                kind = {"F64": "d", "I64": "q", "F32": "f"}[entry["dtype"]]
                tensors[name] = array.array(kind, data[begin:end])
        file.unlink()
        return tensors

    def assert_same(self, one, other, most=0.0):
        """Raw and averaged weights of both files differ by at most `most`."""
        worst = 0.0
        for weights in ("raw", "averaged"):
            a, b = self.values(one, weights), self.values(other, weights)
            self.assertEqual(a.keys(), b.keys())
            self.assertTrue(a)
            for name in a:
                self.assertEqual(len(a[name]), len(b[name]))
                worst = max([worst, *(abs(x - y) for x, y in zip(a[name], b[name]))])
        self.assertLessEqual(worst, most)
        return worst

    def scalars(self, work_dir):
        files = sorted((self.folder / work_dir).glob("*/vis_data/scalars.json"))
        return [json.loads(line) for line in files[-1].read_text().splitlines()]


class Equality(Runs):
    """Several processes with small batches train as one process with a large one."""

    def check(self, count, text=CONFIG, **values):
        batch = 60
        alone = self.write(text, "alone.yaml", batch=batch, **values)
        several = self.write(text, "several.yaml", batch=batch // count, **values)
        for folder in ("alone", "several"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        self.train_alone(alone, "alone")
        self.train(count, several, "several")
        epochs = values.get("epochs", 4)
        self.assert_same(f"alone/epoch_{epochs}.pth", f"several/epoch_{epochs}.pth", 1e-10)
        # The last lines: the metrics of each sample once, and losses over all samples.
        for one, other in zip(self.scalars("alone"), self.scalars("several")):
            for name in one:
                if name.startswith("accuracy"):
                    self.assertEqual(one[name], other[name])
                elif "loss" in name and values.get("accumulate", 1) == 1:
                    self.assertAlmostEqual(one[name], other[name], delta=1e-9)
        self.assertEqual(len(self.scalars("alone")), len(self.scalars("several")))

    def test_two_processes_and_a_last_batch_that_does_not_divide(self):
        self.check(2, size=721, epochs=4)  # 52 steps; 1 sample in the last batch: one process has none

    def test_three_processes_that_accumulate(self):
        self.check(3, size=250, accumulate=2, epochs=20)

    def test_four_processes(self):
        self.check(4, size=240, epochs=13)

    def test_synchronised_batch_norm(self):
        text = CONFIG.replace("type: DoubleNet", "type: DoubleNet, sync_batch_norm: true")
        text = text.replace("momentum: 0.05}}", "momentum: 0.05, verify: 5}}\n  - {{type: PreciseBNHook, num_samples: 100}}")
        # The last batches have 2 samples: one of three processes has none.
        for count, accumulate in (2, 1), (3, 2):
            with self.subTest(count=count):
                self.check(count, text=text + "sync_bn: true\n", size=722, epochs=4, accumulate=accumulate)


class Files(Runs):
    def test_only_the_first_process_writes_and_speaks(self):
        config = self.write(CONFIG)
        ended = self.train(2, config, "out")
        self.assertIn("Epoch(train)", ended[0][1])
        self.assertEqual(ended[1][:2], ("", ""))
        self.assertEqual(len(list((self.folder / "out").glob("20*"))), 1)
        self.assertEqual(len(list((self.folder / "out").glob("20*/*.log"))), 1)
        self.assertEqual(sorted(file.name for file in (self.folder / "out").glob("epoch_*")),
                         ["epoch_3.pth", "epoch_4.pth"])
        self.assertEqual(len(list((self.folder / "out").glob("best_*"))), 1)

    def test_a_resumed_run_has_the_same_bits(self):
        config = self.write(CONFIG)
        self.train(2, config, "whole")
        self.train(2, config, "parts", "--cfg-options", "train_cfg.max_epochs=2")
        self.train(2, config, "parts", "--resume")
        self.assert_same("whole/epoch_4.pth", "parts/epoch_4.pth")

    def test_a_run_goes_on_with_another_number_of_processes(self):
        config = self.write(CONFIG, batch=16)
        self.train(2, config, "out", "--cfg-options", "train_cfg.max_epochs=2")
        ended = self.train(3, config, "out", "--resume")
        self.assertIn("this run has 3 processes (the checkpoint's had 2)", ended[0][1])

    def test_a_run_goes_on_with_another_batch_size(self):
        config = self.write(CONFIG, batch=16, accumulate=3)
        self.train_alone(config, "out", "--cfg-options", "train_cfg.max_epochs=2")
        done = self.train_alone(config, "out", "--resume", "--cfg-options", "train_dataloader.batch_size=48")
        self.assertIn("Epoch(train) [4][6/6]", done.stderr)
        self.assertNotIn("nan", done.stderr)

    def test_a_test_counts_each_sample_once(self):
        config = self.write(CONFIG)
        self.train_alone(config, "out")
        alone = subprocess.run([POLYAK, "test", config, "out/epoch_4.pth"], cwd=self.folder, text=True,
                               capture_output=True, timeout=60, check=True)
        several = self.finish(self.start(range(3), "test", config, "out/epoch_4.pth"))
        self.assertIn("accuracy/top1", alone.stdout)
        self.assertEqual(several[0][0], alone.stdout)
        self.assertEqual(several[1][0], "")

    def test_a_signal_to_one_process_stops_all_with_a_checkpoint(self):
        config = self.write(CONFIG, size=5000, epochs=1000)
        started = self.start(range(2), "train", config, "--work-dir", "out")
        while not list((self.folder / "out").glob("epoch_*.pth")):
            time.sleep(0.1)
            self.assertIsNone(started[0].poll())
        started[1].send_signal(signal.SIGTERM)
        ended = self.finish(started, 128 + signal.SIGTERM)
        self.assertIn("SIGTERM stopped training after iteration", ended[0][1])
        done = max(int(file.stem.split("_")[1]) for file in (self.folder / "out").glob("epoch_*.pth"))
        self.train(2, config, "out", "--resume", "--cfg-options", f"train_cfg.max_epochs={done + 2}")

    def test_a_run_stopped_between_accumulated_gradients_goes_on(self):
        config = self.write(CONFIG.replace("interval: 1, max_keep_ckpts: 2", "interval: 5, by_epoch: false"), size=500,
                            accumulate=3)
        self.train(2, config, "whole")
        self.train(2, config, "parts", "--cfg-options", "train_cfg.max_epochs=2")
        for name in "whole", "parts":
            self.assertTrue((self.folder / name / "last_checkpoint").exists())
        (self.folder / "parts" / "last_checkpoint").write_text("iter_10.pth")
        self.train(2, config, "parts", "--resume")
        self.assert_same("whole/iter_32.pth", "parts/iter_32.pth", 1e-12)

    def test_hooks_that_stop_a_run(self):
        hooks = "custom_hooks:\n  - {{type: EarlyStoppingHook, monitor: accuracy/top1, patience: 1, min_delta: 100}}\n"
        config = self.write(CONFIG.replace("custom_hooks:\n", hooks), epochs=12)
        self.train(2, config, "early")
        self.assertEqual(sorted(file.name for file in (self.folder / "early").glob("epoch_*"))[-1], "epoch_4.pth")
        self.assertFalse(list((self.folder / "early").glob("iter_*")))
        hooks = "custom_hooks:\n  - {{type: CheckInvalidLossHook, interval: 1}}\n"
        config = self.write(CONFIG.replace("custom_hooks:\n", hooks).replace("lr: 0.2", "lr: 1.0e+308"), accumulate=2)
        for _, err, _ in self.finish(self.start(range(2), "train", config, "--work-dir", "bad"), 1):
            self.assertIn("CheckInvalidLossHook: ", err)

    def test_other_keys(self):
        config = self.write(CONFIG.replace("DoubleNet", "DoubleNet, batch_norm: true"))
        self.train(2, config, "out", "--cfg-options", "broadcast_buffers=true", "randomness.diff_rank_seed=true",
                   "auto_scale_lr={enable: true, base_batch_size: 32}", "custom_hooks=[{type: EMAHook, momentum: 0.1}, {type: PreciseBNHook, num_samples: 100}]")
        self.assertEqual(self.scalars("out")[0]["lr"], 0.4)
        self.assertIn("launcher: none", (self.folder / "out" / "config.yaml").read_text())
        self.train_alone(self.folder / "out" / "config.yaml", "out", "--resume")

    def test_a_layer_without_gradient(self):
        config = self.write(CONFIG.replace("{{type: DoubleNet}}", "{{type: DoubleNet, unused: true}}"))
        for out, err, _ in self.finish(self.start(range(2), "train", config, "--work-dir", "out"), 1):
            self.assertIn("set find_unused_parameters: true", err)
        self.train(2, config, "out", "--cfg-options", "find_unused_parameters=true")


class Averages(Runs):
    def test_an_average_in_parts_has_the_bits_of_a_whole_one(self):
        config = self.write(CONFIG)
        part = ("--cfg-options", "custom_hooks.0.shard=true", "custom_hooks.0.verify=3")
        self.train(2, config, "whole")
        self.train(2, config, "parts", *part)
        self.assert_same("whole/epoch_4.pth", "parts/epoch_4.pth")
        # A file looks as from one process, so any number of processes goes on.
        for count in 3, 1:
            for source, more in ("parts", part), ("whole", ()):
                folder = f"{source}_{count}"
                shutil.copytree(self.folder / source, self.folder / folder)
                (self.folder / folder / "last_checkpoint").write_text("epoch_3.pth")
                if count == 1:
                    self.train_alone(config, folder, "--resume", *more)
                else:
                    self.train(count, config, folder, "--resume", *more)
            self.assert_same(f"parts_{count}/epoch_4.pth", f"whole_{count}/epoch_4.pth")

    def test_several_averages(self):
        config = self.write(CONFIG)
        for name, shard in ("parts", "true"), ("whole", "false"):
            lists = ("--cfg-options", "custom_hooks.0={type: EMAHook, evaluate: [fast], averages: [{name: fast, "
                     f"type: ExponentialMovingAverage, momentum: 0.1, shard: {shard}}}, {{name: slow, type: BEMA, "
                     f"shard: {shard}}}]}}")
            self.train(2, config, name, *lists)
        for weights in "fast", "slow":
            a, b = (self.values(f"{name}/epoch_4.pth", weights) for name in ("parts", "whole"))
            self.assertTrue(a)
            self.assertEqual(a, b)


class Hosts(Runs):
    """Two hosts: namespaces of the network, which a cable connects."""

    def test_two_hosts(self):
        names = [f"polyak{os.getpid()}{host}" for host in "ab"]
        commands = [f"netns add {names[0]}", f"netns add {names[1]}",
                    f"link add polyak0 netns {names[0]} type veth peer name polyak1 netns {names[1]}"]
        for host, name in enumerate(names):
            self.addCleanup(subprocess.run, ["ip", "netns", "del", name], capture_output=True)
            commands += [f"-n {name} addr add 10.77.0.{host + 1}/24 dev polyak{host}",
                         f"-n {name} link set polyak{host} up", f"-n {name} link set lo up"]
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
            if done.returncode != 0:
                self.skipTest(f"this machine does not let a test make networks: ip {command}: {done.stderr.strip()}")
        config = self.write(CONFIG)
        started = []
        for host, name in enumerate(names):
            started.append(subprocess.Popen(
                ["ip", "netns", "exec", name, POLYAK, "train", config, "--launcher", "pytorch", "--work-dir", "hosts"],
                cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "RANK": str(host), "WORLD_SIZE": "2", "MASTER_ADDR": "10.77.0.1",
                     "MASTER_PORT": "29500"}))
        self.running += started
        self.finish(started)
        self.train(2, config, "loopback")
        self.assert_same("hosts/epoch_4.pth", "loopback/epoch_4.pth")


class Loops(Runs):
    def test_a_loop_of_ones_own(self):
        program = os.environ["POLYAK_DISTRIBUTED_LOOP"]
        hooks = ("custom_hooks:\n  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.05, verify: 10%s}\n"
                 "default_hooks:\n  checkpoint: {type: CheckpointHook, interval: 50, by_epoch: false}\n"
                 "  logger: {type: LoggerHook, interval: 50}\nwork_dir: %s\n")
        sums = {}
        for name, more in ("parts", ", shard: true"), ("whole", ""):
            (self.folder / f"{name}.yaml").write_text(hooks % (more, name))
            port = free_port()
            started = [subprocess.Popen([program, f"{name}.yaml"], cwd=self.folder, text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE,
                                        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2",
                                             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
                       for rank in range(2)]
            self.running += started
            ended = self.finish(started)
            sums[name] = {out.rsplit(" ", 1)[1] for out, _, _ in ended}
            self.assertIn("Iter(train) [200/200]", ended[0][1])
            self.assertNotIn("Iter(train)", ended[1][1])
            self.assertTrue((self.folder / name / "iter_200.pth").exists())
        self.assertEqual(sums["parts"], sums["whole"])
        self.assertEqual(len(sums["parts"]), 1)


class Refused(Runs):
    """What differs is named, by every process, before work starts."""

    def refused(self, sentence, configs, status=2, **values):
        started = self.start(range(len(configs)), "train", "CONFIG", "--work-dir", "out", configs=configs, **values)
        for out, err, _ in self.finish(started, status):
            self.assertIn(sentence, err)
        self.assertFalse((self.folder / "out").exists())

    def test_another_config(self):
        one = self.write(CONFIG)
        other = self.write(CONFIG.replace("lr: 0.2", "lr: 0.3"), "other.yaml")
        self.refused("the processes differ in the config: rank 1 has 'lr: 0.3', and rank 0 'lr: 0.2'", [one, other])

    def test_another_dataset(self):
        # The same config: the files of a machine differ.
        for rank in range(2):
            folder = self.folder / f"data{rank}"
            folder.mkdir()
        config = self.write(CONFIG.replace("type: Blobs, size: {size}", "type: Blobs, size_from: SIZE"))
        started = [self.start([rank], "train", config, "--work-dir", "out", size=2, port=port, SIZE=100 + rank)[0]
                   for port in [free_port()] for rank in range(2)]
        for out, err, _ in self.finish(started, 2):
            self.assertIn("the processes differ in the training data: rank 1 has '101 samples'", err)

    def test_an_error_of_one_process(self):
        config = self.write(CONFIG.replace("type: Blobs, size: {size}", "type: Blobs, size_from: SIZE"))
        port = free_port()
        started = [self.start([rank], "train", config, "--work-dir", "out", size=2, port=port, SIZE=100 * rank)[0]
                   for rank in range(2)]
        ended = self.finish(started, None)
        self.assertEqual([code for *_, code in ended], [1, 1])
        self.assertIn("rank 0 cannot start: ", ended[1][1])

    def test_batch_norm_that_cannot_be_synchronised(self):
        config = self.write(CONFIG.replace("type: DoubleNet", "type: DoubleNet, batch_norm: true") + "sync_bn: true\n")
        self.refused("sync_bn: the layer norm is LibTorch's own BatchNorm", [config, config])

    def test_a_launcher_without_processes(self):
        config = self.write(CONFIG)
        for launcher, variable in ("pytorch", "WORLD_SIZE"), ("mpi", "OMPI_COMM_WORLD_SIZE"), ("slurm", "SLURM_NTASKS"):
            done = subprocess.run([POLYAK, "train", config, "--launcher", launcher], cwd=self.folder, text=True,
                                  capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"launcher: {launcher} needs the environment variable {variable}", done.stderr)


class Kill(Runs):
    """A process is killed at a random instant: the others say so and end, and the run goes on to the same bits.
    POLYAK_KILLS says how often; 30 by hand."""

    def test_the_others_end_and_the_run_goes_on(self):
        config = self.write(CONFIG, size=600, epochs=40)
        timeout = 20
        options = ("--cfg-options", f"env_cfg.dist_cfg.timeout={timeout}")
        begin = time.monotonic()
        self.train(3, config, "whole", *options)
        whole_time = time.monotonic() - begin
        choose = random.Random(int(os.environ.get("POLYAK_SEED", "1")))
        for number in range(int(os.environ.get("POLYAK_KILLS", "3"))):
            name, rank = f"out{number}", number % 3
            started = self.start(range(3), "train", config, "--work-dir", name, *options)
            time.sleep(choose.uniform(0.2, 0.9) * whole_time)
            started[rank].kill()
            killed = time.monotonic()
            ended = self.finish(started, None)
            self.assertLess(time.monotonic() - killed, timeout)
            survived = started[rank].returncode == 0  # it had ended before
            for other, (_, err, code) in enumerate(ended):
                if other == rank or survived or code == 0:
                    continue
                self.assertEqual(code, 1, err)
                self.assertRegex(err, "rank [0-2]: .+ failed: |did not come to|cannot reach process 0|cannot start")
                self.assertNotIn("frame #", err)
            self.train(3, config, name, "--resume", *options)
            self.assert_same("whole/epoch_40.pth", f"{name}/epoch_40.pth")
            shutil.rmtree(self.folder / name)


class Launchers(Runs):
    def test_mpirun(self):
        mpirun = shutil.which("mpirun")
        self.assertTrue(mpirun, "mpirun is missing: Debian's package openmpi-bin")
        config = self.write(CONFIG)
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                       "MASTER_PORT": str(free_port())}
        done = subprocess.run([mpirun, "-n", "2", "--oversubscribe", POLYAK, "train", config, "--launcher", "mpi",
                               "--work-dir", "mpi"], cwd=self.folder, text=True, capture_output=True, timeout=120,
                              env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.train(2, config, "hand")
        self.assert_same("mpi/epoch_4.pth", "hand/epoch_4.pth")

    def test_slurms_variables(self):
        config = self.write(CONFIG)
        port = free_port()
        started = []
        for rank in range(2):
            environment = {**os.environ, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2",
                           "SLURM_NNODES": "1", "MASTER_PORT": str(port)}
            started.append(subprocess.Popen([POLYAK, "train", config, "--launcher", "slurm", "--work-dir", "out"],
                                            cwd=self.folder, text=True, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, env=environment))
        self.running += started
        self.finish(started)

    def test_a_process_of_mpirun_that_is_killed_leaves_no_other(self):
        config = self.write(CONFIG, size=3000, epochs=1000)
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                       "MASTER_PORT": str(free_port())}
        mpirun = subprocess.Popen([shutil.which("mpirun"), "-n", "2", "--oversubscribe", POLYAK, "train", config,
                                   "--launcher", "mpi", "--work-dir", "out"], cwd=self.folder, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.running.append(mpirun)
        while not list((self.folder / "out").glob("epoch_*.pth")):
            time.sleep(0.1)
            self.assertIsNone(mpirun.poll())
        self.assertEqual(len(self.processes()), 2)
        os.kill(self.processes()[-1], signal.SIGKILL)
        mpirun.communicate(timeout=60)
        self.assertNotEqual(mpirun.returncode, 0)
        deadline = time.monotonic() + 20
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(self.processes(), [])
        self.values("out/" + (self.folder / "out" / "last_checkpoint").read_text().strip(), "averaged")

    def processes(self):
        """Those of the command that work in this test's folder."""
        found = []
        for place in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(place / "exe") == os.path.realpath(POLYAK) and \
                        os.readlink(place / "cwd") == os.path.realpath(self.folder):
                    found.append(int(place.name))
            except OSError:
                pass
        return sorted(found)


class Torchrun(Runs):
    """Only with a torchrun of this LibTorch's version: processes of both cannot talk to each other otherwise."""

    def test_torchrun(self):
        torchrun = os.environ["POLYAK_TORCHRUN"]
        config = self.write(CONFIG)
        done = subprocess.run([torchrun, "--nproc-per-node", "2", "--no-python", "--master-port", str(free_port()),
                               POLYAK, "train", config, "--launcher", "pytorch", "--work-dir", "out"],
                              cwd=self.folder, text=True, capture_output=True, timeout=180)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.train(2, config, "hand")
        self.assert_same("out/epoch_4.pth", "hand/epoch_4.pth")


if __name__ == "__main__":
    POLYAK, PLUGIN = map(os.path.abspath, sys.argv[1:3])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
