# SPDX-License-Identifier: Apache-2.0
"""Python's SGD, Adam and AdamW load the optimizer's state of a checkpoint and step from it, with `foreach`, `fused` and
neither, as their formulas say.

Usage: optimizer_states.py POLYAK. Needs torch, of any version from 1.13; without `fused` before 2.4, whose CPU half
came with it.
"""
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import torch

POLYAK = pathlib.Path(sys.argv[1]).resolve()
VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
STEPS, TOLERANCE = 8, 1e-6
CONFIG = {
    "model": {"type": "ImageClassifier", "backbone": {"type": "SmallCNN", "channels": [4, 8]},
              "head": {"type": "LinearClsHead", "num_classes": 4, "loss": {"type": "CrossEntropyLoss"}}},
    "train_dataloader": {"batch_size": 16, "dataset": {"type": "RandomImages", "size": 64, "num_classes": 4}},
    "train_cfg": {"by_epoch": True, "max_epochs": 2},
    "randomness": {"seed": 1},
    "env_cfg": {"num_threads": 1},
    "device": "cpu",
}
OPTIMIZERS = [
    {"type": "SGD", "lr": 0.05, "weight_decay": 0.01},
    {"type": "SGD", "lr": 0.05, "momentum": 0.9, "dampening": 0.1},
    {"type": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"type": "Adam", "lr": 0.01, "betas": [0.8, 0.99], "weight_decay": 0.01},
    {"type": "Adam", "lr": 0.01, "amsgrad": True},
    {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1},
    {"type": "AdamW", "lr": 0.01, "betas": [0.8, 0.99], "weight_decay": 0.1, "amsgrad": True},
]


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def trained(folder, settings):
    """The last checkpoint of a run. Where weights decay, biases do not, and have a group of their own."""
    wrapper = {"optimizer": settings}
    if "weight_decay" in settings:
        wrapper["paramwise_cfg"] = {"custom_keys": {"bias": {"decay_mult": 0}}}
    (folder / "config.yaml").write_text(json.dumps({**CONFIG, "optim_wrapper": wrapper}))
    subprocess.run([POLYAK, "train", "config.yaml", "--work-dir", "run"], cwd=folder, check=True, capture_output=True)
    # 1.13's weights_only reader knows no floats.
    return torch.load(folder / "run" / "epoch_2.pth", weights_only=VERSION >= (2, 0))


def expected(settings, group, state, value, gradient):
    """A parameter after a step, in double precision."""
    value, gradient = value.double(), gradient.double()
    rate, decay = group["lr"], group["weight_decay"]
    if settings["type"] == "SGD":
        gradient = gradient + decay * value
        if group["momentum"] == 0:
            return value - rate * gradient
        momentum = (group["momentum"] * state["momentum_buffer"].double() + (1 - group["dampening"]) * gradient)
        return value - rate * (gradient + group["momentum"] * momentum if group["nesterov"] else momentum)
    if settings["type"] == "AdamW":
        value = value * (1 - rate * decay)
    else:
        gradient = gradient + decay * value
    (first, second), step = group["betas"], float(state["step"]) + 1
    mean = first * state["exp_avg"].double() + (1 - first) * gradient
    square = second * state["exp_avg_sq"].double() + (1 - second) * gradient**2
    if group["amsgrad"]:
        square = torch.maximum(square, state["max_exp_avg_sq"].double())
    root = square.sqrt() / (1 - second**step)**0.5 + group["eps"]
    return value - rate / (1 - first**step) * mean / root


def check_steps(checkpoint, settings, flag):
    """Loads the state into Python's optimizer and takes a step."""
    groups, state = checkpoint["optimizer"]["param_groups"], checkpoint["optimizer"]["state"]
    names = [group["param_names"] for group in groups]
    check(all(len(some) == len(group["params"]) for some, group in zip(names, groups)), "a name for each parameter")
    generator = torch.Generator().manual_seed(3)
    parameters = [[torch.nn.Parameter(checkpoint["state_dict"][name].clone()) for name in some] for some in names]
    optimizer = getattr(torch.optim, settings["type"])([{"params": some} for some in parameters], lr=1.0,
                                                      **({flag: True} if flag else {}))
    optimizer.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))  # it steps in the tensors that it is given
    for group in optimizer.param_groups:
        if flag:
            group[flag] = True  # the file's groups, which say nothing of it, have taken the place of the new ones
    wanted = []
    for group, some in zip(groups, parameters):
        check(type(group["lr"]) is float and group["lr"] == settings["lr"], f"lr {group['lr']!r}")
        for index, parameter in zip(group["params"], some):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            own = state.get(index, {})
            check("step" not in own or float(own["step"]) == STEPS, f"step {own.get('step')}")
            wanted.append(expected(settings, group, own, parameter.detach(), parameter.grad))
    optimizer.step()
    for name, value, parameter in zip(sum(names, []), wanted, sum(parameters, [])):
        difference = (value - parameter.detach().double()).abs().max().item()
        check(difference <= TOLERANCE, f"{name} differs by {difference:.2g}")


def main():
    flags = ["", "foreach"] + (["fused"] if VERSION >= (2, 4) else [])
    with tempfile.TemporaryDirectory() as name:
        for settings in OPTIMIZERS:
            checkpoint = trained(pathlib.Path(name), settings)
            groups = 2 if "weight_decay" in settings else 1
            check(len(checkpoint["optimizer"]["param_groups"]) == groups, f"{settings}: not {groups} groups")
            for flag in flags:
                try:
                    check_steps(checkpoint, settings, flag)
                except Exception as error:
                    raise AssertionError(f"{settings}, {flag or 'plain'}: {error}") from error
    print(f"torch {torch.__version__}: SGD, Adam and AdamW step from Polyak's states ({', '.join(flags[1:])}, plain)")


if __name__ == "__main__":
    main()
