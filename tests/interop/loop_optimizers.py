# SPDX-License-Identifier: Apache-2.0
"""The optimizer's state of a loop with LoopHooks in Python's optimizers of the same class, and the other way round: a run
that one side begins, the other continues for three steps as the first would have, to 1e-12 in double precision.

Usage: loop_optimizers.py LOOP_TOOL. Needs torch, of any version from 1.13.
"""
import copy
import pathlib
import subprocess
import sys
import tempfile

import torch

TOOL = pathlib.Path(sys.argv[1]).resolve()
VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
BEFORE, AFTER, TOLERANCE = 5, 3, 1e-12
# The tool's variants, with numbers that differ from the tool's own: those of the file must take their place.
VARIANTS = {
    "SGD": {"lr": 0.1, "weight_decay": 0.05},
    "SGD momentum": {"lr": 0.1, "momentum": 0.8, "dampening": 0.3},
    "SGD nesterov": {"lr": 0.1, "momentum": 0.7, "nesterov": True},
    "Adam": {"lr": 0.02, "betas": (0.7, 0.9), "eps": 1e-7},
    "Adam amsgrad": {"lr": 0.02, "amsgrad": True, "weight_decay": 0.01},
    "AdamW": {"lr": 0.02, "weight_decay": 0.2},
    "RMSprop": {"lr": 0.02, "alpha": 0.8, "weight_decay": 0.01},
    "RMSprop centered": {"lr": 0.02, "momentum": 0.3, "centered": True, "eps": 1e-6},
    "Adagrad": {"lr": 0.02, "lr_decay": 0.2, "initial_accumulator_value": 0.1},
}


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def numbers(rows, columns, factor):
    """As in loop_tool.cpp."""
    return ((torch.arange(rows * columns, dtype=torch.float64) * factor) % 11 / 8 - 0.5).view(rows, columns)


def steps(net, optimizer, count):
    inputs, targets = numbers(6, 3, 7), numbers(6, 2, 3)
    for _ in range(count):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(inputs), targets).backward()
        optimizer.step()


def run_tool(variant, folder, iters):
    done = subprocess.run([TOOL, variant, folder, str(iters)], capture_output=True, text=True)
    check(done.returncode == 0, f"loop_tool: {done.stderr}")


def load(path):
    return torch.load(path, weights_only=VERSION >= (2, 0))  # 1.13's weights_only reader knows no floats


def same(ours, theirs, what):
    for name, value in theirs.items():
        difference = (value.double() - ours[name].double()).abs().max().item()
        check(difference <= TOLERANCE, f"{what} {name} differs by {difference:.2g}")


def same_run(checkpoint, net, optimizer):
    """Whether a loop's checkpoint has the weights and the states of Python's run."""
    same(checkpoint["state_dict"], net.state_dict(), "the weights:")
    state, numbers_of = optimizer.state_dict()["state"], checkpoint["optimizer"]["state"]
    # Python's SGD has an entry without momentum too, of None.
    state = {index: {key: torch.as_tensor(value) for key, value in entry.items() if value is not None}
             for index, entry in state.items()}
    state = {index: entry for index, entry in state.items() if entry}
    check(state.keys() == numbers_of.keys(), f"states of {list(numbers_of)}, not of {list(state)}")
    for index, entry in state.items():
        check(entry.keys() == numbers_of[index].keys(), f"a state has {list(numbers_of[index])}, not {list(entry)}")
        same(numbers_of[index], entry, f"the state of parameter {index}:")


def new_net():
    net = torch.nn.Linear(3, 2).double()
    net.load_state_dict({"weight": numbers(2, 3, 4), "bias": numbers(1, 2, 2)[0]})
    return net


def class_of(variant):
    return getattr(torch.optim, variant.split()[0])


def check_groups(variant, groups, own):
    """That the file's groups have what Python's own have, of the same types."""
    check([group["param_names"] for group in groups] == [["weight"], ["bias"]], "param_names")
    for key, value in own[0].items():
        for group in groups:
            check(key in group, f"{variant}: its groups have no '{key}'")
            # Python writes 0 for 0.0, and 1.13 False where None means the same.
            kinds = (float,) if type(value) is int else (type(value), type(None) if value is False else type(value))
            check(isinstance(group[key], kinds), f"{variant}: {key} is {group[key]!r}, in Python {value!r}")


def from_loop(variant, folder, flag):
    """Python continues a loop's run."""
    checkpoint, end = load(folder / f"iter_{BEFORE}.pth"), load(folder / f"iter_{BEFORE + AFTER}.pth")
    net = new_net()
    optimizer = class_of(variant)([{"params": [net.weight]}, {"params": [net.bias]}], lr=1.0)
    check_groups(variant, checkpoint["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"])
    for entry in checkpoint["optimizer"]["state"].values():
        if "step" in entry:
            check(entry["step"].dtype == torch.float32 and entry["step"].shape == (), f"step {entry['step']!r}")
            check(entry["step"].item() == BEFORE, f"step {entry['step']!r}")
    net.load_state_dict(checkpoint["state_dict"])
    optimizer.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))
    for group in optimizer.param_groups:
        if flag:
            group[flag] = True
    steps(net, optimizer, AFTER)
    same_run(end, net, optimizer)


def to_loop(variant, folder):
    """A loop continues Python's run, whose state dict has no names."""
    folder.mkdir()
    net = new_net()
    optimizer = class_of(variant)([{"params": [net.weight]}, {"params": [net.bias]}], **VARIANTS[variant])
    optimizer.param_groups[1]["lr"] /= 2
    steps(net, optimizer, BEFORE)
    torch.save({"meta": {"epoch": 0, "iter": BEFORE}, "state_dict": net.state_dict(),
                "optimizer": optimizer.state_dict()}, folder / f"iter_{BEFORE}.pth")
    run_tool(variant, folder, BEFORE + AFTER)
    steps(net, optimizer, AFTER)
    same_run(load(folder / f"iter_{BEFORE + AFTER}.pth"), net, optimizer)


def main():
    with tempfile.TemporaryDirectory() as name:
        for number, variant in enumerate(VARIANTS):
            folder = pathlib.Path(name) / str(number)
            try:
                run_tool(variant, folder, BEFORE + AFTER)
                # 1.13's foreach computes Adagrad's rate from the step, in float32.
                for flag in ("", "foreach") if VERSION >= (2, 0) else ("",):
                    from_loop(variant, folder, flag)
                to_loop(variant, folder / "python")
            except Exception as error:
                raise AssertionError(f"{variant}: {error}") from error
    print(f"torch {torch.__version__}: {', '.join(VARIANTS)} continue a loop's run, and a loop theirs")


if __name__ == "__main__":
    main()
