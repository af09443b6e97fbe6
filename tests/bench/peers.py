# SPDX-License-Identifier: Apache-2.0
"""Times our average against Python's, in one process: one LibTorch, one pool of threads, one model.

Usage: peers.py LIBRARY --out FILE [--rounds N] [--tiny]

LIBRARY is libpolyak_bench_peer.so, built with the LibTorch of this Python's torch. As in race.h: in each round every
way runs once, in an order that turns, after one untimed run of its own; ratios are taken within a round. Each way is
checked against the formula before it is timed.
"""
import argparse
import copy
import ctypes
import datetime
import importlib.metadata
import json
import math
import statistics
import sys
import time

import torch  # before LIBRARY, which then finds its LibTorch loaded
from ema_pytorch import EMA
from mmengine.logging import MessageHub
from mmengine.model import ExponentialMovingAverage
from timm.utils import ModelEmaV3
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

WEIGHT = 0.001
WARM_UP_ROUNDS = 2


class Parameters(torch.nn.Module):
    def __init__(self, shapes, dtype):
        super().__init__()
        self.values = torch.nn.ParameterList([torch.randn(shape).to(dtype) for shape in shapes])


class CosineEMA(ExponentialMovingAverage):
    """mmpretrain 1.2.0 did not import here for want of a dependency: its operations, on the MMEngine class it has."""

    def __init__(self, model, momentum, end_momentum):
        super().__init__(model, momentum=momentum)
        self.end_momentum = end_momentum

    def avg_func(self, averaged_param, source_param, steps):
        max_iters = MessageHub.get_current_instance().get_info("max_iters")
        cosine_annealing = (math.cos(math.pi * steps / float(max_iters)) + 1) / 2
        momentum = self.end_momentum - (self.end_momentum - self.momentum) * cosine_annealing
        averaged_param.mul_(1 - momentum).add_(source_param, alpha=momentum)


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        for name, result, *arguments in [
                ("instruction_set", ctypes.c_char_p), ("threads", ctypes.c_int),
                ("shapes", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64),
                ("create", ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_bool,
                 ctypes.c_double),
                ("update", None, ctypes.c_void_p),
                ("average", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),
                ("destroy", None, ctypes.c_void_p)]:
            function = getattr(self.c, "polyak_peer_" + name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def shapes_of(self, name, shrink):
        text = self.shapes(name.encode(), shrink).decode()
        return [[int(size) for size in shape.split(",")] for shape in text.split(";")]


class Ours:
    def __init__(self, library, model):
        self.library, tensors = library, list(model.parameters())
        pointers = (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
        sizes = (ctypes.c_int64 * len(tensors))(*[tensor.numel() for tensor in tensors])
        self.peer = library.create(len(tensors), pointers, sizes, tensors[0].dtype == torch.bfloat16, WEIGHT)
        self.averages = [
            torch.frombuffer((ctypes.c_float * tensor.numel()).from_address(library.average(self.peer, i)),
                             dtype=torch.float32).view_as(tensor) for i, tensor in enumerate(tensors)]

    def update(self):
        self.library.update(self.peer)

    def close(self):
        self.library.destroy(self.peer)


def python_ways(model, dtype):
    """(name, update, averages). Of a bfloat16 model a peer keeps a float32 average where it can."""
    half = dtype == torch.bfloat16
    same = ", average in bfloat16" if half else ""

    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - WEIGHT))
    yield "torch AveragedModel" + same, lambda: average.update_parameters(model), average.module
    timm = ModelEmaV3(model, decay=1 - WEIGHT, foreach=True, dtype=torch.float32)
    yield "timm ModelEmaV3", lambda: timm.update(model), timm.module
    mmengine = ExponentialMovingAverage(model, momentum=WEIGHT)
    yield "MMEngine ExponentialMovingAverage" + same, lambda: mmengine.update_parameters(model), mmengine.module
    MessageHub.get_current_instance().update_info("max_iters", 1000000)
    cosine = CosineEMA(model, momentum=WEIGHT, end_momentum=WEIGHT)
    cosine.module.float()
    yield "mmpretrain CosineEMA, rewritten", lambda: cosine.update_parameters(model), cosine.module
    # Without its warm-up, averaging at each call.
    ema = EMA(model, ema_model=copy.deepcopy(model).float(), beta=1 - WEIGHT, min_value=1 - WEIGHT, update_every=1,
              update_after_step=0, use_foreach=True, coerce_dtype=half)
    yield "ema-pytorch EMA", ema.update, ema.ema_model


def check(name, update, averages, sources):
    """Sets the averages, updates once, and compares with the formula."""
    with torch.no_grad():
        for average, source in zip(averages, sources, strict=True):
            average.copy_(source).mul_(0.5).add_(0.25)
        update()
        for i, (average, source) in enumerate(zip(averages, sources)):
            exact = average.dtype == torch.float32
            start = torch.empty_like(average).copy_(source).mul_(0.5).add_(0.25).float()
            off = (start * (1 - WEIGHT) + source.float() * WEIGHT - average.float()).abs().max().item()
            if not off <= (4e-6 if exact else 0.02):  # an ulp of bfloat16 at 3; it holds no more
                sys.exit(f"{name} gives another average: tensor {i} is off by {off}")


def race(ways, rounds, calls):
    """{name: seconds of each round}"""
    names, seconds = list(ways), {name: [] for name in ways}
    for turn in range(-WARM_UP_ROUNDS, rounds):
        order = [names[(turn + (i if turn % 2 == 0 else -i)) % len(names)] for i in range(len(names))]
        for name in order:
            update = ways[name]
            update()
            start = time.perf_counter()
            for _ in range(calls):
                update()
            passed = (time.perf_counter() - start) / calls
            if turn >= 0:
                seconds[name].append(passed)
    return seconds


def measure(library, shapes_name, dtype, threads, flags):
    torch.set_num_threads(threads)
    if library.threads() != threads:
        sys.exit("the library has another LibTorch than Python")
    model = Parameters(library.shapes_of(shapes_name, 64 if flags.tiny else 1), dtype)
    sources = [parameter.detach() for parameter in model.parameters()]
    ours = Ours(library, model)
    check("ours", ours.update, ours.averages, sources)
    ways = {"ours": ours.update}
    for name, update, module in python_ways(model, dtype):
        for _ in range(2):  # first calls copy
            update()
        check(name, update, [parameter.detach() for parameter in module.parameters()], sources)
        ways[name] = update
    seconds = race(ways, flags.rounds, 20 if shapes_name == "200x64" else 1)
    ours.close()

    row = {"name": f"peers/{shapes_name}/{str(dtype).split('.')[-1]}/{threads}",
           "bytes": sum(source.numel() for source in sources) * (8 + dtype.itemsize)}
    for name, times in seconds.items():
        row[name + "_us"] = statistics.median(times) * 1e6
        if name != "ours":
            row[name + "/ours"] = statistics.median(a / b for a, b in zip(times, seconds["ours"]))
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--tiny", action="store_true")
    flags = parser.parse_args()
    library = Library(flags.library)
    rows = []
    for name in ["resnet50", "vit_b_16", "10000x100", "200x64"]:
        for dtype in (torch.float32, torch.bfloat16):
            for threads in (1, 2):
                rows.append(measure(library, name, dtype, threads, flags))
                print(rows[-1]["name"], *(f"{key[:-5]} {value:.2f}x" for key, value in rows[-1].items()
                                          if key.endswith("/ours")), sep="  ", flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "mmengine", "ema-pytorch")}
    context = {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
               "instruction_set": library.instruction_set().decode(), "rounds": str(flags.rounds), "versions": versions}
    with open(flags.out, "w") as file:
        json.dump({"context": context, "benchmarks": rows}, file, indent=1)


if __name__ == "__main__":
    main()
