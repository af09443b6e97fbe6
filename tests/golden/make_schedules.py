# SPDX-License-Identifier: Apache-2.0
"""Writes schedules.json: what torch.optim.lr_scheduler gives in short schedules, a list of cases.

Usage: make_schedules.py > schedules.json. Needs torch.

A schedule acts in the units begin <= unit < end: torch's is made at `begin` and stepped up to the unit before `end`.
LinearLR reaches end_factor in the last of them, as MMEngine's does: total_iters is end - begin - 1.
"""
import itertools
import json
import sys
import warnings

import torch
from torch.optim import lr_scheduler, swa_utils

EPOCHS, LR = 6, 0.1
KINDS = [
    ("StepLR", {"step_size": 1, "gamma": 0.5}), ("StepLR", {"step_size": 2, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [1], "gamma": 0.5}), ("MultiStepLR", {"milestones": [2], "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [1, 1, 2], "gamma": 0.5}),
    ("CosineAnnealingLR", {}), ("CosineAnnealingLR", {"T_max": 1, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 2, "eta_min": 0.01}), ("CosineAnnealingLR", {"T_max": 4}),
    ("LinearLR", {"start_factor": 0.25, "end_factor": 1.0}), ("LinearLR", {"start_factor": 1.0, "end_factor": 0.5}),
    ("LinearLR", {"start_factor": 0.5, "end_factor": 0.0}),
    ("SWALR", {"swa_lr": 0.02, "anneal_epochs": 0}), ("SWALR", {"swa_lr": 0.02, "anneal_epochs": 2}),
    ("SWALR", {"swa_lr": 0.3, "anneal_epochs": 1, "anneal_strategy": "linear"}),
    ("SWALR", {"swa_lr": 0.0, "anneal_epochs": 4, "anneal_strategy": "linear"}),
]
LENGTHS, BEGINS = (1, 2, 3, None), (0, 2)
MODES = {"epochs": (True, False, 3), "iterations": (False, False, 1), "converted": (True, True, 2),
         "converted, epochs of one batch": (True, True, 1)}


def make(kind, options, optimizer, length, factor):
    times = {key: [x * factor for x in value] if isinstance(value, list) else value * factor
             for key, value in options.items() if key in ("step_size", "milestones", "T_max", "anneal_epochs")}
    options = {**options, **times}
    if kind == "LinearLR":
        return lr_scheduler.LinearLR(optimizer, total_iters=length - 1, **options)
    if kind == "CosineAnnealingLR":
        options.setdefault("T_max", length)
    if kind == "SWALR":
        return swa_utils.SWALR(optimizer, **options)
    return getattr(lr_scheduler, kind)(optimizer, **options)


def rates(kind, options, begin, end, factor, units):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, found = None, []
    for unit in range(units):
        if unit == begin:
            scheduler = make(kind, options, optimizer, end - begin, factor)
        elif begin < unit < end:
            scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def main():
    warnings.simplefilter("ignore")  # of steps of the scheduler without one of the optimizer
    cases = []
    for (kind, options), length, begin, mode in itertools.product(KINDS, LENGTHS, BEGINS, MODES.values()):
        by_epoch, converted, epoch_length = mode
        factor = epoch_length if converted else 1
        units = EPOCHS * factor if by_epoch else EPOCHS * epoch_length
        end = EPOCHS if length is None else begin + length
        config = {"type": kind, **options, "begin": begin, "by_epoch": by_epoch}
        if length is not None:
            config["end"] = end
        if converted:
            config["convert_to_iter_based"] = True
        cases.append({"config": config, "epoch_length": epoch_length, "max_epochs": EPOCHS, "lr": LR,
                      "rates": rates(kind, options, begin * factor, end * factor, factor, units)})
    sys.stdout.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
