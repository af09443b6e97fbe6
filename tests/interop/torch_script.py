# SPDX-License-Identifier: Apache-2.0
"""A model that Python exports by torch.jit.script: `polyak train` trains it as Python would, averages it, resumes it
bit for bit, and Python loads what it saved.

Usage: torch_script.py POLYAK. Needs torch, of any version from 1.13.
"""
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zipfile

import torch

POLYAK = pathlib.Path(sys.argv[1]).resolve()
CLASSES, SIDE, BATCH, EPOCHS, MOMENTUM = 10, 12, 16, 3, 0.25


class Net(torch.nn.Module):
    """All that a module can hold: buffers, one of them assigned by forward, tied and frozen parameters, modes."""

    def __init__(self, dropout: float):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(dropout)
        self.layers = torch.nn.Sequential(torch.nn.Linear(144, 144), torch.nn.ReLU(), torch.nn.Linear(144, 144))
        self.layers[2].weight = self.layers[0].weight
        self.scale = torch.nn.Parameter(torch.full((144,), 0.5), requires_grad=False)
        self.register_buffer("level", torch.ones(()))
        self.head = torch.nn.Linear(144, CLASSES)

    def forward(self, images):
        x = torch.relu(self.norm(self.conv(images))).flatten(1)
        if self.training:
            self.level = 0.9 * self.level + 0.1 * x.detach().mean()
        return self.head(self.layers(self.drop(x)) * self.scale / self.level)


CONFIG = """
model: {type: TorchScript, path: net.pt, loss: {type: CrossEntropyLoss}}
train_dataloader:
  batch_size: 16
  sampler: {type: DefaultSampler, shuffle: false}
  dataset: {type: MNIST, data_root: DATA, split: train}
val_dataloader:
  batch_size: 50
  dataset: {type: MNIST, data_root: DATA, split: test}
val_evaluator: {type: Accuracy, topk: [1, 2, 3]}
train_cfg: {by_epoch: true, max_epochs: 3}
optim_wrapper: {optimizer: {type: SGD, lr: 0.05, momentum: 0.9, weight_decay: 0.01}}
custom_hooks:
  - {type: EMAHook, ema_type: ExponentialMovingAverage, momentum: 0.25, evaluate_on_origin: true}
randomness: {seed: 1}
device: cpu
"""


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def write_data(folder):
    """Noisy patterns in MNIST's files; gives the images as the trainer's networks meet them."""
    patterns = torch.randint(0, 100, (CLASSES, SIDE, SIDE))
    data = {}
    for part, count in (("train", 6 * BATCH), ("t10k", 200)):
        labels = torch.randint(0, CLASSES, (count,))
        images = (patterns[labels] + torch.randint(0, 155, (count, SIDE, SIDE))).to(torch.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, SIDE, SIDE) + bytes(images.flatten().tolist()))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + bytes(labels.tolist()))
        data[part] = images.unsqueeze(1).float() / 255, labels
    return data


def polyak(*arguments, cwd, status=0):
    done = subprocess.run([POLYAK, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    check(done.returncode == status, f"{arguments}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def accuracies(model, data):
    """What Accuracy with topk [1, 2, 3] says, from Python's own outputs."""
    model.eval()
    images, labels = data
    with torch.no_grad():
        hits = model(images).topk(3, dim=1).indices == labels.unsqueeze(1)
    return {f"accuracy/top{k}": 100 * hits[:, :k].any(1).float().mean().item() for k in (1, 2, 3)}


def printed(done):
    return {name: float(value) for name, value in re.findall(r"^(\S+): ([\d.]+)$", done.stdout, re.MULTILINE)}


def train_in_python(model, data):
    """The same run in plain PyTorch: the model and its average."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    average = None
    images, labels = data
    model.train()
    for _ in range(EPOCHS):
        for first in range(0, len(labels), BATCH):
            optimizer.zero_grad(set_to_none=True)
            batch = slice(first, first + BATCH)
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            state = {name: value.detach().clone() for name, value in model.state_dict().items()}
            if average is None:
                average = state
                continue
            buffers = dict(model.named_buffers())
            for name, value in state.items():
                average[name] = value if name in buffers else average[name].lerp(value, MOMENTUM)
    return model.state_dict(), average


def load(file):
    """Files with an optimizer hold floats, which 1.13's weights_only reader does not know."""
    return torch.load(file, weights_only=int(torch.__version__.split(".")[0]) >= 2)


def check_state(found, wanted, what, exact=False):
    check(list(found) == list(wanted), f"{what}: {list(found)}")
    for name, value in wanted.items():
        same = torch.equal(found[name], value) if exact else torch.allclose(found[name], value, rtol=1e-3, atol=1e-4)
        check(found[name].dtype == value.dtype and same, f"{what}: {name}: {found[name]} instead of {value}")


def check_training(folder, data):
    torch.manual_seed(5)
    model = Net(dropout=0.0)
    torch.jit.script(model).save(str(folder / "net.pt"))
    (folder / "run.yaml").write_text(CONFIG.replace("DATA", str(folder)))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    polyak("train", "../run.yaml", "--work-dir", "work", cwd=elsewhere)  # `path` is seen from the config
    file = elsewhere / "work" / "epoch_3.pth"
    checkpoint = load(file)
    averaged = checkpoint["state_dict"]
    raw = {name[7:]: value for name, value in checkpoint["ema_state_dict"].items() if name != "steps"}

    names = list(model.state_dict())
    wanted_raw, wanted_average = train_in_python(model, data["train"])
    check(list(averaged) == names, f"names {list(averaged)}")
    check_state(raw, wanted_raw, "raw weights")
    check_state(averaged, wanted_average, "averaged weights")
    check(torch.equal(averaged["scale"], torch.full((144,), 0.5)), "a frozen parameter stays")
    check(averaged["level"].item() != 1 and averaged["norm.num_batches_tracked"].item() == 18, "buffers")

    done = polyak("test", "../run.yaml", file, cwd=elsewhere)
    again = Net(dropout=0.0)
    again.load_state_dict(averaged)
    wanted = accuracies(again, data["t10k"])
    again.load_state_dict(raw)
    wanted.update({name + "_origin": value for name, value in accuracies(again, data["t10k"]).items()})
    found = printed(done)
    check(found.keys() == wanted.keys(), f"{found} and {wanted}")
    for name, value in wanted.items():
        check(abs(found[name] - value) < 1e-3, f"{name}: {found[name]} instead of {value}")
    check(15 < found["accuracy/top1"] < 90, f"{found}: says nothing of the outputs")

    # The exported module takes them too, and so does the resolved config, from where it stands.
    torch.jit.load(str(folder / "net.pt")).load_state_dict(averaged)
    resolved = elsewhere / "work" / "run.yaml"
    check(printed(polyak("test", resolved, file, cwd=folder)) == found, "the resolved config")


def check_resume(folder):
    """With dropout: random numbers, mode and statistics have to go on as they were."""
    torch.manual_seed(6)
    torch.jit.script(Net(dropout=0.3)).save(str(folder / "net.pt"))
    text = CONFIG.replace("DATA", str(folder)).replace("shuffle: false", "shuffle: true")
    text = text.replace("custom_hooks:", "custom_hooks:\n  - {type: EMAHook, name: cosine, ema_type: CosineEMA}")
    (folder / "resume.yaml").write_text(text)
    polyak("train", "resume.yaml", "--work-dir", "whole", cwd=folder)
    polyak("train", "resume.yaml", "--work-dir", "rest", "--resume", "whole/epoch_1.pth", cwd=folder)
    whole, rest = (load(folder / run / "epoch_3.pth") for run in ("whole", "rest"))
    for key in ("state_dict", "ema_state_dict", "ema_state_dict.cosine"):
        check_state(rest[key], whole[key], f"resumed {key}", exact=True)
    first = load(folder / "whole" / "epoch_1.pth")
    check(not torch.equal(first["state_dict"]["head.weight"], whole["state_dict"]["head.weight"]), "it went on")


def check_precise_statistics(folder, data):
    """SWA with PreciseBNHook: the statistics are those that Python finds for the same weights."""
    text = CONFIG.replace("DATA", str(folder)).replace("path: net.pt", "path: plain.pt")
    hooks = ("  - {type: EMAHook, ema_type: StochasticWeightAverage}\n"
             f"  - {{type: PreciseBNHook, num_samples: {6 * BATCH}}}\n")
    (folder / "swa.yaml").write_text(re.sub(r"  - \{type: EMAHook.*\n", hooks, text))
    torch.manual_seed(7)
    torch.jit.script(Net(dropout=0.0)).save(str(folder / "plain.pt"))
    polyak("train", "swa.yaml", "--work-dir", "swa", cwd=folder)
    state = load(folder / "swa" / "epoch_3.pth")["state_dict"]
    model = Net(dropout=0.0)
    model.load_state_dict(state)
    with torch.no_grad():
        maps = [model.conv(batch) for batch in data["train"][0].split(BATCH)]
    mean = torch.stack([each.mean((0, 2, 3)) for each in maps]).mean(0)
    var = torch.stack([each.var((0, 2, 3)) for each in maps]).mean(0)
    check(torch.allclose(state["norm.running_mean"], mean, atol=1e-5), "running_mean")
    check(torch.allclose(state["norm.running_var"], var, atol=1e-5), "running_var")


def check_refusals(folder):
    def refuse(*words):
        done = polyak("check", "bad.yaml", cwd=folder, status=2)
        check(done.stderr.count("\n") == 3 and all(word in done.stderr for word in ("bad.yaml:2:", *words)),
              f"{words}: {done.stderr!r}")

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(SIDE * SIDE, CLASSES)

        def forward(self, a, b):
            return self.fc(a + b)

    (folder / "bad.yaml").write_text(CONFIG.replace("DATA", str(folder)).replace("net.pt", "bad.pt"))
    bad = str(folder / "bad.pt")
    refuse("model.path", "bad.pt: no such file")
    torch.save(Net(0.0).state_dict(), bad)
    refuse("model.path", "torch.save wrote it", "torch.jit.script(model).save(path)")
    torch.save(Net(0.0).state_dict(), bad, _use_new_zipfile_serialization=False)
    refuse("model.path", "is not a TorchScript archive")
    torch.jit.freeze(torch.jit.script(Net(0.0).eval())).save(bad)
    refuse("model.path", "no parameters", "freeze")
    torch.jit.script(Sum()).save(bad)
    refuse("model.path", "forward takes (a: Tensor, b: Tensor)")
    torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 7))).save(bad)
    refuse("model", "[1, 7]", "float [1, 10]")
    torch.jit.script(torch.nn.Linear(5, CLASSES)).save(bad)
    refuse("model", "does not accept images of 1 x 12 x 12", "mat1 and mat2")
    model = Net(0.0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.jit.script(model).save(bad)
    refuse("model", "none of its parameters requires a gradient")

    # What a newer PyTorch would write: a format, and an operation, that this one does not know.
    torch.jit.script(Net(0.0)).save(str(folder / "good.pt"))

    def rewrite(change):
        with zipfile.ZipFile(folder / "good.pt") as old, zipfile.ZipFile(bad, "w") as new:
            for name in old.namelist():
                new.writestr(name, change(name, old.read(name)))

    rewrite(lambda name, text: b"99\n" if name.endswith("/version") else text)
    refuse("model.path", "version 99", "export it with")
    rewrite(lambda name, text: text.replace(b"torch.relu(", b"torch.relu_of_tomorrow(") if name.endswith(".py") else text)
    refuse("model.path", "relu_of_tomorrow", "export it with")

    torch.jit.script(Net(0.0)).save(bad)
    text = (folder / "bad.yaml").read_text()
    (folder / "bad.yaml").write_text(text.replace(", loss: {type: CrossEntropyLoss}", ""))
    refuse("model.loss: is missing")
    (folder / "bad.yaml").write_text(text.replace("CrossEntropyLoss", "CrossEntropy"))
    refuse("model.loss", "CrossEntropyLoss")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        torch.manual_seed(3)
        data = write_data(folder)
        check_training(folder, data)
        check_resume(folder)
        check_precise_statistics(folder, data)
        check_refusals(folder)
    print(f"polyak trains what torch {torch.__version__} exports")


if __name__ == "__main__":
    main()
