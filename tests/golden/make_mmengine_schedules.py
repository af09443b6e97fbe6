# SPDX-License-Identifier: Apache-2.0
"""Writes mmengine_schedules.json: what MMEngine's parameter schedulers give in short schedules, a list of cases.

Usage: make_mmengine_schedules.py > mmengine_schedules.json. Needs torch and mmengine 0.10.7.

These kinds are MMEngine's own (PolyLR and CosineRestartLR differ from torch's). MMEngine knows no end of the run: where a
case has no end, ConstantLR and ExponentialLR get none, and the others the run's.
"""
import itertools
import json
import sys

import torch
from mmengine.optim import scheduler

EPOCHS, LR = 6, 0.1
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
LENGTHS, BEGINS = (1, 2, 3, None), (0, 2)
MODES = {"epochs": (True, False, 3), "iterations": (False, False, 1), "converted": (True, True, 2),
         "converted, epochs of one batch": (True, True, 1)}


def rates(kind, options, begin, end, converted, epoch_length, units):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    cls = getattr(scheduler, kind)
    arguments = {**options, "begin": begin, **({} if end is None else {"end": end})}
    if kind == "CosineRestartLR":  # whose constructor asks for both
        arguments.setdefault("restart_weights", [1])
    if converted:
        made = cls.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **arguments)
    else:
        made = cls(optimizer, **arguments)
    found = []
    for _ in range(units):
        found.append(optimizer.param_groups[0]["lr"])
        made.step()
    return found


def main():
    cases = []
    for (kind, options), length, begin, mode in itertools.product(KINDS, LENGTHS, BEGINS, MODES.values()):
        by_epoch, converted, epoch_length = mode
        factor = epoch_length if converted else 1
        units = EPOCHS * factor if by_epoch else EPOCHS * epoch_length
        config = {"type": kind, **options, "begin": begin, "by_epoch": by_epoch}
        end = None
        if length is not None:
            config["end"] = end = begin + length
        elif kind not in ("ConstantLR", "ExponentialLR"):
            end = EPOCHS
        if converted:
            config["convert_to_iter_based"] = True
        try:
            found = rates(kind, options, begin, end, converted, epoch_length, units)
        except (ZeroDivisionError, ValueError):  # OneCycleLR of a phase without length, or after its last step
            continue
        cases.append({"config": config, "epoch_length": epoch_length, "max_epochs": EPOCHS, "lr": LR, "rates": found})
    sys.stdout.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
