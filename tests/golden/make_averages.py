# SPDX-License-Identifier: Apache-2.0
"""Writes averages.json: what other libraries' averages of weights are over 200 steps, each with our block that gives it.

Usage: make_averages.py > averages.json           writes it
       make_averages.py --check averages.json     computes it anew and fails where a number differs

Needs torch, timm, mmengine, and the wheels of ema-pytorch, diffusers, torch-ema, k-diffusion, trl and mmagic. Of those
that import a hundred packages, the one class is compiled out of the installed file. What is on no PyPI wheel
(torchtitan's, EDM2's, Leela's, LAWA's) is derived here from its formula, and its origin says so.

The model is Linear(2, 1). Its weights walk: step t adds delta(t), a multiple of 2^-12, so that float32 and float64 hold
the same numbers and a test in C++ walks along with no file of them. Our call k = 0, 1, ... comes after step k + 1.
"""
import ast
import collections
import importlib.metadata
import importlib.util
import json
import logging
import math
import pathlib
import sys
import types
import warnings

import numpy
import torch

STEPS = 200
KEPT = (0, 1, 2, 3, 7, 20, 21, 63, 100, 147, 199)
INTERVALS = (1, 3, 7)


class Deltas:
    """The numbers of a linear congruential generator, in [-1/8, 1/8], as multiples of 2^-12."""

    def __init__(self):
        self.state = 17

    def next(self):
        self.state = (self.state * 1103515245 + 12345) % 2 ** 31
        return ((self.state >> 16) % 1025 - 512) / 4096


class Net(torch.nn.Linear):
    """Two weights and a bias. TRL makes its copy of a model as type(model)(model.config)."""

    def __init__(self, config=None):
        super().__init__(2, 1)
        self.config = config


def values(tensors):
    return [number for tensor in tensors for number in tensor.detach().double().flatten().tolist()]


def compiled(package, file, name, **names):
    """The class `name` of a package's file, without the imports of that file; `names` are what it uses."""
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    tree = ast.parse((pathlib.Path(folder) / file).read_text())
    body = [node for node in tree.body if getattr(node, "name", None) == name]
    assert len(body) == 1, f"{package}/{file} has no {name}"
    body[0].decorator_list = []  # of registries
    future = ast.parse("from __future__ import annotations").body
    scope = {"torch": torch, "nn": torch.nn, "Tensor": torch.Tensor, "warnings": warnings, **names}
    exec(compile(ast.fix_missing_locations(ast.Module(future + body, [])), file, "exec"), scope)
    return scope[name]


def origin(package, name):
    return f"{package} {importlib.metadata.version(package).split('+')[0]}, {name}"


# Each origin below: step(k) after the walk's step k + 1; average() as a list of tensors. `running()` where what is
# averaged is not what is published.

class Caller:
    """An origin whose caller decides at which calls it averages: 0, n, 2n, ... or, from the initial weights, n-1, 2n-1."""
    starts_initial = False

    def __init__(self, net, n):
        self.net, self.n = net, n
        self.make()

    def step(self, k):
        if (k + 1 if self.starts_initial else k) % self.n == 0:
            self.update(k)

    def running(self):
        return self.average()


def torch_average(multi_avg_fn):
    class Origin(Caller):
        def make(self):
            self.ema = torch.optim.swa_utils.AveragedModel(self.net, multi_avg_fn=multi_avg_fn)

        def update(self, k):
            self.ema.update_parameters(self.net)

        def average(self):
            return list(self.ema.module.parameters())
    return Origin


def timm_average(told=True, **options):
    import timm.utils.model_ema

    class Origin(Caller):
        starts_initial = not told

        def make(self):
            self.ema = timm.utils.model_ema.ModelEmaV3(self.net, **options)

        def update(self, k):  # timm's train.py counts from 1
            self.ema.update(self.net, step=k + 1 if told else None)

        def average(self):
            return list(self.ema.module.parameters())
    return Origin


def ema_pytorch_average(**options):
    import ema_pytorch

    class Origin(Caller):
        def make(self):
            self.ema = ema_pytorch.EMA(self.net, update_every=self.n, **options)

        def step(self, k):
            self.ema.update()

        def average(self):
            return list(self.ema.ema_model.parameters())
    return Origin


def diffusers_average(**options):
    made = compiled("diffusers", "training_utils.py", "EMAModel", contextlib=__import__("contextlib"),
                    is_transformers_available=lambda: False)

    class Origin(Caller):
        def make(self):
            self.ema = made(self.net.parameters(), **options)

        def step(self, k):  # counts its own calls, so it has no interval
            self.ema.step(self.net.parameters())

        def average(self):
            return self.ema.shadow_params
    return Origin


def torch_ema_average(**options):
    import torch_ema

    class Origin(Caller):
        starts_initial = True

        def make(self):
            self.ema = torch_ema.ExponentialMovingAverage(self.net.parameters(), **options)

        def update(self, k):
            self.ema.update()

        def average(self):
            return self.ema.shadow_params
    return Origin


def k_diffusion_average(**options):
    update = torch.no_grad()(compiled("k_diffusion", "utils.py", "ema_update"))
    warmup = compiled("k_diffusion", "utils.py", "EMAWarmup")

    class Origin(Caller):
        def make(self):
            self.ema, self.warmup = Net(), warmup(**options)
            self.ema.load_state_dict(self.net.state_dict())

        def step(self, k):
            update(self.net, self.ema, self.warmup.get_value())
            self.warmup.step()

        def average(self):
            return list(self.ema.parameters())
    return Origin


def mmagic_average(**options):
    import mmengine.model
    made = compiled("mmagic", "models/base_models/average_model.py", "RampUpEMA",
                    BaseAveragedModel=mmengine.model.BaseAveragedModel)

    class Origin(Caller):
        def make(self):
            self.ema = made(self.net, interval=self.n, **options)

        def step(self, k):
            self.ema.update_parameters(self.net)

        def average(self):
            return list(self.ema.module.parameters())
    return Origin


def trl_average(**options):
    made = compiled("trl", "trainer/callbacks.py", "BEMACallback", TrainerCallback=object,
                    logger=logging.getLogger("trl"))

    class Origin(Caller):
        starts_initial = options.get("update_after", 0) == 0

        def make(self):
            self.ema = made(update_freq=self.n, **options)
            self.ema.on_train_begin(None, None, None, self.net)

        def step(self, k):  # the Trainer has counted the step when it calls
            self.ema.on_step_end(None, types.SimpleNamespace(global_step=k + 1), None, self.net)

        def average(self):
            return list(self.ema.running_model.parameters())

        def running(self):
            return self.ema.ema_params
    return Origin


def adam_average(momentum):
    """Adam's first moment of the weights instead of their gradients, with its bias correction."""
    class Origin(Caller):
        def make(self):
            self.held = [torch.nn.Parameter(torch.zeros_like(p)) for p in self.net.parameters()]
            self.adam = torch.optim.Adam(self.held, lr=0.0, betas=(1 - momentum, 0.999))

        def update(self, k):
            for held, p in zip(self.held, self.net.parameters()):
                held.grad = p.detach().clone()
            self.adam.step()

        def average(self):
            found = []
            for held in self.held:
                state = self.adam.state[held]
                done = 1 - (1 - momentum) ** state["step"].item() if state else 1
                found.append(state["exp_avg"] / done if state else held)
            return found
    return Origin


class Formula(Caller):
    """An origin that no wheel has: avg += weight(k) (w - avg), in the dtype of the weights, with a weight in double."""

    def make(self):
        self.kept = [p.detach().clone() for p in self.net.parameters()]

    def update(self, k):
        weight = self.weight(k)
        for kept, p in zip(self.kept, self.net.parameters()):
            kept += weight * (p.detach() - kept)

    def average(self):
        return self.kept


def torchtitan_average(fraction, bias):
    class Origin(Formula):
        starts_initial = True

        def weight(self, k):  # of its num_updates: how often it averaged, this time included
            return 1 - 2.0 ** (-1.0 / (fraction * max((k + 1 + bias) // self.n, 1)))
    return Origin


def edm2_exponent(sigma_rel):
    """The gamma whose profile has this standard deviation, relative to the length: (g+1) = s^2 (g+2)^2 (g+3)."""
    return max(numpy.roots([1, 7, 16 - sigma_rel ** -2, 12 - sigma_rel ** -2]).real)


def edm2_average(gamma):
    class Origin(Formula):
        def weight(self, k):  # after optimizer step t, the last averaging having been after step t - n
            t = k + 1
            return 1.0 if k == 0 else 1 - (1 - self.n / t) ** (gamma + 1)
    return Origin


def leela_average(most):
    class Origin(Formula):
        def weight(self, k):
            return 1 / (min(k // self.n, most) + 1)
    return Origin


def lawa_average(window):
    class Origin(Caller):
        def make(self):
            self.queue = collections.deque(maxlen=window)

        def update(self, k):
            self.queue.append(values(self.net.parameters()))

        def average(self):
            if not self.queue:
                return list(self.net.parameters())
            return [torch.tensor([math.fsum(column) / len(self.queue)
                                  for column in zip(*self.queue)], dtype=torch.float64)]
    return Origin


class Lookahead(Caller):
    """timm's, over SGD that makes the walk's steps. It reads the slow weights before the first step, as the paper does."""
    starts_initial, closed = True, True

    def make(self):
        import timm.optim
        self.optimizer = timm.optim.Lookahead(torch.optim.SGD(self.net.parameters(), lr=1.0), alpha=0.5, k=self.n)
        for p in self.net.parameters():
            p.grad = torch.zeros_like(p)
        self.optimizer.sync_lookahead()

    def walk(self, deltas):
        for p in self.net.parameters():
            p.grad = -torch.tensor([deltas.next() for _ in range(p.numel())]).view(p.shape)
        self.optimizer.step()

    def step(self, k):
        pass

    def average(self):
        state = self.optimizer._base_optimizer.state
        return [state[p]["lookahead_slow_buff"] for p in self.net.parameters()]


def cases():
    """(origin, class of it, our block without its interval, intervals, and the first call to compare, where an average
    that starts later is not ours until then: TRL publishes the initial weights up to the first averaging, and others
    copy at every n-th call only, where ours is the model)."""
    from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn
    version = origin("torch", "")
    yield version + "AveragedModel, get_ema_multi_avg_fn(0.95)", torch_average(get_ema_multi_avg_fn(0.95)), \
        "type: ExponentialMovingAverage, decay: 0.95", INTERVALS
    yield version + "AveragedModel, get_swa_multi_avg_fn()", torch_average(get_swa_multi_avg_fn()), \
        "type: StochasticWeightAverage", INTERVALS
    yield origin("timm", "ModelEmaV3(decay=0.95), update(model)"), timm_average(False, decay=0.95), \
        "type: ExponentialMovingAverage, decay: 0.95, start: initial", INTERVALS
    yield origin("timm", "ModelEmaV3(decay=0.95), update(model, step)"), timm_average(decay=0.95), \
        "type: ExponentialMovingAverage, decay: 0.95", INTERVALS
    yield origin("timm", "ModelEmaV3(decay=0.95, use_warmup=True)"), timm_average(decay=0.95, use_warmup=True), \
        "type: WarmupEMA, decay: 0.95", INTERVALS
    yield origin("timm", "ModelEmaV3(decay=0.95, min_decay=0.4, update_after_step=21, use_warmup=True, "
                 "warmup_gamma=2, warmup_power=0.75)"), \
        timm_average(decay=0.95, min_decay=0.4, update_after_step=21, use_warmup=True, warmup_gamma=2.0,
                     warmup_power=0.75), \
        "type: WarmupEMA, decay: 0.95, min_decay: 0.4, update_after_step: 21, gamma: 2, power: 0.75", INTERVALS, lambda n: 21
    yield origin("ema-pytorch", "EMA(beta=0.95, update_after_step=0)"), \
        ema_pytorch_average(beta=0.95, update_after_step=0), "type: WarmupEMA, decay: 0.95", INTERVALS
    yield origin("ema-pytorch", "EMA(beta=0.95, update_after_step=42, inv_gamma=2, power=0.8, min_value=0.3)"), \
        ema_pytorch_average(beta=0.95, update_after_step=42, inv_gamma=2.0, power=0.8, min_value=0.3), \
        "type: WarmupEMA, decay: 0.95, update_after_step: 42, gamma: 2, power: 0.8, min_decay: 0.3", INTERVALS, lambda n: 42
    for beta, weight in ((0.0, "1"), (0.25, "0.75")):
        made = ema_pytorch_average(beta=0.95, update_after_step=0, update_model_with_ema_every=21,
                                   update_model_with_ema_beta=beta)
        made.closed = True
        yield origin("ema-pytorch", "EMA(beta=0.95, update_after_step=0, update_model_with_ema_every=21, "
                     f"update_model_with_ema_beta={beta})"), made, \
            f"type: WarmupEMA, decay: 0.95, write_back: {{every: 21, weight: {weight}}}", INTERVALS
    yield origin("diffusers", "EMAModel(decay=0.95, use_ema_warmup=True)"), \
        diffusers_average(decay=0.95, use_ema_warmup=True), "type: WarmupEMA, decay: 0.95", (1,)
    yield origin("diffusers", "EMAModel(decay=0.9)"), diffusers_average(decay=0.9), \
        "type: WarmupEMA, decay: 0.9, form: ratio", (1,)
    yield origin("diffusers", "EMAModel(decay=0.9, min_decay=0.3, update_after_step=20)"), \
        diffusers_average(decay=0.9, min_decay=0.3, update_after_step=20), \
        "type: WarmupEMA, decay: 0.9, form: ratio, min_decay: 0.3, update_after_step: 20", (1,)
    yield origin("torch-ema", "ExponentialMovingAverage(decay=0.9)"), torch_ema_average(decay=0.9), \
        "type: WarmupEMA, decay: 0.9, form: ratio, start: initial", (1,)
    yield origin("torch-ema", "ExponentialMovingAverage(decay=0.95, use_num_updates=False)"), \
        torch_ema_average(decay=0.95, use_num_updates=False), \
        "type: ExponentialMovingAverage, decay: 0.95, start: initial", INTERVALS
    yield origin("k-diffusion", "EMAWarmup(power=0.7, max_value=0.95)"), \
        k_diffusion_average(power=0.7, max_value=0.95), "type: WarmupEMA, decay: 0.95, power: 0.7", (1,)
    yield origin("mmagic", "RampUpEMA(ema_kimg=1, ema_rampup=0.5)"), mmagic_average(ema_kimg=1, ema_rampup=0.5), \
        "type: RampUpEMA, ema_kimg: 1, ema_rampup: 0.5", INTERVALS
    yield origin("trl", "BEMACallback()"), trl_average(), "type: BEMA, start: initial", INTERVALS
    yield origin("trl", "BEMACallback(update_after=1)"), trl_average(update_after=1), "type: BEMA", INTERVALS, lambda n: n
    yield origin("trl", "BEMACallback(ema_power=0.7, bias_power=0.3, lag=4, multiplier=0.5, min_ema_multiplier=0.1)"), \
        trl_average(ema_power=0.7, bias_power=0.3, lag=4, multiplier=0.5, min_ema_multiplier=0.1), \
        "type: BEMA, ema_power: 0.7, bias_power: 0.3, lag: 4, multiplier: 0.5, min_ema_multiplier: 0.1, " \
        "start: initial", INTERVALS
    yield origin("trl", "BEMACallback(update_after=20)"), trl_average(update_after=20), \
        "type: BEMA, update_after: 20", INTERVALS, lambda n: 19 + n
    yield version + "Adam's first moment of the weights, betas[0]=0.9", adam_average(0.1), \
        "type: ExponentialMovingAverage, momentum: 0.1, bias_correction: true", INTERVALS
    for n in (3, 5, 7):
        yield origin("timm", f"Lookahead(alpha=0.5, k={n}) after sync_lookahead()"), Lookahead, \
            f"type: ExponentialMovingAverage, momentum: 0.5, start: initial, write_back: {{every: {n}}}", (n,)
    for fraction, bias in ((0.05, 0), (0.5, 0), (0.5, 14)):
        yield f"derived: torchtitan's EMA, half_life_fraction={fraction}, step_bias={bias}", \
            torchtitan_average(fraction, bias), f"type: GrowingHalfLifeEMA, half_life_fraction: {fraction}, " \
            f"step_bias: {bias}, start: initial", INTERVALS
    yield "derived: EDM2's power function, sigma_rel=0.1", edm2_average(edm2_exponent(0.1)), \
        "type: PowerFunctionEMA, sigma_rel: 0.1", INTERVALS
    yield "derived: EDM2's power function, gamma=3", edm2_average(3), "type: PowerFunctionEMA, gamma: 3", INTERVALS
    yield "derived: Leela Chess Zero's SWA of at most 10", leela_average(10), \
        "type: StochasticWeightAverage, max_snapshots: 10", INTERVALS
    yield "derived: LAWA's queue of 6", lawa_average(6), "type: SlidingWindowAverage, window: 6", INTERVALS


def run(name, made, block, n, dtype, first=None):
    torch.set_default_dtype(dtype)  # of the scalars that they compute with, too
    deltas, net = Deltas(), Net()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.tensor([deltas.next() for _ in range(p.numel())]).view(p.shape))
    average = made(net, n)
    key = "snapshot_every" if "SlidingWindow" in block else "interval"
    closed = hasattr(made, "closed")
    case = {"origin": name, "block": f"{{{block}, {key}: {n}}}" if n != 1 else f"{{{block}}}",
            "dtype": str(dtype)[6:], "initial": made.starts_initial, "averages": []}
    if closed:
        case["models"] = []
    if first is not None:
        case["from"] = first(n)
    weights = []
    for k in range(STEPS):
        before = values(average.running()) if not closed else []
        with torch.no_grad():
            if hasattr(average, "walk"):
                average.walk(deltas)
            else:
                for p in net.parameters():
                    p += torch.tensor([deltas.next() for _ in range(p.numel())]).view(p.shape)
        now = values(net.parameters())
        average.step(k)
        if not closed and len(weights) < 3:
            after = values(average.running())
            moves = [(abs(w - b), (a - b) / (w - b)) for w, b, a in zip(now, before, after) if w != b]
            if moves and max(moves)[1] != 0:
                weights.append(round(max(moves)[1], 12))
        if k in KEPT:
            digits = 17 if dtype is torch.float64 else 9
            case["averages"].append([float(f"{v:.{digits}g}") for v in values(average.average())])
            if closed:
                case["models"].append([float(f"{v:.{digits}g}") for v in values(net.parameters())])
    if n == 1 and dtype is torch.float64 and not closed:
        case["first_weights"] = weights
    return case


def all_cases():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return [run(name, made, block, n, dtype, *first) for name, made, block, intervals, *first in cases()
            for n in intervals for dtype in (torch.float64, torch.float32)]


def check(path):
    stored, found = json.loads(pathlib.Path(path).read_text()), all_cases()
    assert stored["steps"] == list(KEPT), "the stored steps are others"
    assert len(stored["cases"]) == len(found), f"{len(stored['cases'])} cases are stored, {len(found)} were computed"
    for old, new in zip(stored["cases"], found):
        what = f"{new['origin']}, {new['dtype']}, {new['block']}"
        assert {k for k in old} == {k for k in new} and all(
            old[k] == new[k] for k in ("block", "dtype", "initial")), f"{what}: stored as {old['block']}"
        # Another version of an origin may round otherwise, and another processor's lerp fuses.
        tolerance = 1e-13 if new["dtype"] == "float64" else 1e-6
        for key in ("averages", "models"):
            for a, b in zip(old.get(key, []), new.get(key, [])):
                worst = max(abs(x - y) for x, y in zip(a, b))
                assert worst <= tolerance, f"{what}: {key} differ by {worst}"
    print(f"{len(found)} cases are as stored, of {len({c['origin'] for c in found})} origins")


def main():
    if sys.argv[1:2] == ["--check"]:
        return check(sys.argv[2])
    lines = ",\n".join(json.dumps(case) for case in all_cases())
    sys.stdout.write(f'{{"steps": {json.dumps(KEPT)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
