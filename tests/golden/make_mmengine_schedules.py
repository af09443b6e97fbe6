# SPDX-License-Identifier: Apache-2.0
"""Writes what MMEngine's parameter schedulers give in short schedules, a list of cases.

Usage: make_mmengine_schedules.py > mmengine_schedules.json; make_mmengine_schedules.py momentum > mmengine_momentum.json. Needs torch and mmengine 0.10.7.

These kinds are MMEngine's own (PolyLR and CosineRestartLR differ from torch's). MMEngine knows no end of the run: where a
case has no end, ConstantLR and ExponentialLR get none, and the others the run's.
"""
import itertools
import json
import sys

import torch
from mmengine.optim import scheduler

EPOCHS, LR, MOMENTUM = 6, 0.1, 0.9
KINDS = [
    ("ConstantLR", {"factor": 0.25}), ("ConstantLR", {}),
    ("ExponentialLR", {"gamma": 0.5}),
    ("PolyLR", {}), ("PolyLR", {"power": 0.9, "eta_min": 0.001}), ("PolyLR", {"power": 2, "eta_min": 0.2}),
    ("OneCycleLR", {"eta_max": 0.5}), ("OneCycleLR", {"eta_max": 0.5, "pct_start": 0.0, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"eta_max": 0.5, "pct_start": 0.4, "three_phase": True, "div_factor": 5.0, "final_div_factor": 10.0}),
    ("OneCycleLR", {"eta_max": 0.5, "total_steps": 6, "pct_start": 0.45}),
    ("CosineRestartLR", {"periods": [2, 3], "restart_weights": [1, 0.5], "eta_min": 0.01}),
    ("CosineRestartLR", {"periods": [1, 2, 4], "restart_weights": [1, 0.5, 0.25], "eta_min_ratio": 0.1}),
    ("CosineRestartLR", {"periods": [3], "eta_min": 0}),
]
MOMENTUM_KINDS = [
    ("ConstantMomentum", {"factor": 0.25}), ("ExponentialMomentum", {"gamma": 0.5}),
    ("StepMomentum", {"step_size": 2}), ("MultiStepMomentum", {"milestones": [1, 3], "gamma": 0.5}),
    ("CosineAnnealingMomentum", {"eta_min": 0.1}), ("LinearMomentum", {"start_factor": 0.5}),
    ("LinearMomentum", {"start_factor": 1.0, "end_factor": 0.1}), ("PolyMomentum", {"power": 0.9, "eta_min": 0.01}),
    ("CosineRestartMomentum", {"periods": [2, 3], "restart_weights": [1, 0.5], "eta_min": 0.01}),
]
OPTIMIZERS = {"SGD": {"lr": LR, "momentum": MOMENTUM}, "Adam": {"lr": LR, "betas": (MOMENTUM, 0.99)}}
LENGTHS, BEGINS = (1, 2, 3, None), (0, 2)
MODES = {"epochs": (True, False, 3), "iterations": (False, False, 1), "converted": (True, True, 2),
         "converted, epochs of one batch": (True, True, 1)}


def value_of(group, kind):
    if not kind.endswith("Momentum"):
        return group["lr"]
    return group["betas"][0] if "betas" in group else group["momentum"]


def values(optimizer, kind, options, begin, end, converted, epoch_length, units):
    cls = getattr(scheduler, kind)
    arguments = {**options, "begin": begin, **({} if end is None else {"end": end})}
    if kind.startswith("CosineRestart"):  # whose constructor asks for both
        arguments.setdefault("restart_weights", [1])
    if converted:
        made = cls.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **arguments)
    else:
        made = cls(optimizer, **arguments)
    found = []
    for _ in range(units):
        found.append(value_of(optimizer.param_groups[0], kind))
        made.step()
    return found


def main(kinds, optimizers):
    cases = []
    for (kind, options), length, begin, mode, name in itertools.product(kinds, LENGTHS, BEGINS, MODES.values(), optimizers):
        by_epoch, converted, epoch_length = mode
        factor = epoch_length if converted else 1
        units = EPOCHS * factor if by_epoch else EPOCHS * epoch_length
        config = {"type": kind, **options, "begin": begin, "by_epoch": by_epoch}
        end = None
        if length is not None:
            config["end"] = end = begin + length
        elif not kind.startswith(("Constant", "Exponential")):
            end = EPOCHS
        if converted:
            config["convert_to_iter_based"] = True
        try:
            optimizer = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(1))], **OPTIMIZERS[name])
            found = values(optimizer, kind, options, begin, end, converted, epoch_length, units)
        except (ZeroDivisionError, ValueError):  # OneCycleLR of a phase without length, or after its last step
            continue
        cases.append({"config": config, "epoch_length": epoch_length, "max_epochs": EPOCHS,
                      **({"lr": LR, "rates": found} if kinds is KINDS else {"optimizer": name, "momenta": found})})
    sys.stdout.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["momentum"]:
        main(MOMENTUM_KINDS, ["SGD", "Adam"])
    else:
        main(KINDS, ["SGD"])
