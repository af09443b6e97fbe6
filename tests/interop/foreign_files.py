# SPDX-License-Identifier: Apache-2.0
"""Files of other programs: each is read, holds what was saved, and a run finds the weights in it; or it is refused by a
sentence that says what it is and what to do. The real libraries write them: torch, torchvision, timm, MMEngine,
mmpretrain, Lightning, safetensors; layouts of programs that are not installed are copied from their sources.

Usage: foreign_files.py CHECKPOINT_TOOL. What needs a library that cannot be imported is named and left out, and the
exit status is 77, by which ctest counts the test as skipped.
"""
import _compat_pickle
import argparse
import collections
import copy
import datetime
import enum
import gzip
import io
import json
import logging
import lzma
import math
import os
import pathlib
import pickle
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest.mock
import warnings
import zipfile
import zlib

# MMEngine's and Lightning's own loading, with torch.load's default since PyTorch 2.6, refuses what they save.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
warnings.filterwarnings("ignore")  # of the libraries, about what is installed

import numpy
import torch
import torch.distributed.checkpoint
from torch import nn

SKIPPED = 77  # the exit status

CPP_NAMES = {torch.float64: "Double", torch.float32: "Float", torch.float16: "Half", torch.int64: "Long",
             torch.int32: "Int", torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte",
             torch.complex64: "ComplexFloat", torch.complex128: "ComplexDouble"}


# ---- what Polyak makes of a Python object


def opaque(name):
    return {"kind": "opaque", "class": name}


def dotted(module, name, protocol):
    """A class or a function by the name that its pickle has: protocol 2 has Python 2's."""
    if protocol < 3:
        module, name = _compat_pickle.REVERSE_NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.REVERSE_IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"


def describe_tensor(value):
    value = value.detach()
    dtype = str(value.dtype).removeprefix("torch.").capitalize().replace("Bf", "BF").replace("Ui", "UI")
    whole = value.resolve_conj().resolve_neg().contiguous()
    return {"kind": "Tensor", "dtype": CPP_NAMES.get(value.dtype, dtype), "size": list(value.shape),
            "stride": list(value.stride()), "offset": value.storage_offset(),
            "values": zlib.crc32(whole.reshape(-1).view(torch.uint8).numpy().tobytes())}


def describe(value, protocol=2):
    again = lambda item: describe(item, protocol)
    if isinstance(value, torch.Tensor):
        kinds = {"a sparse torch.Tensor": value.layout is not torch.strided and not value.is_nested,
                 "a nested torch.Tensor": value.is_nested, "a quantized torch.Tensor": value.is_quantized,
                 "a torch.Tensor on the meta device": value.is_meta}
        return next((opaque(kind) for kind, holds in kinds.items() if holds), None) or describe_tensor(value)
    if value is None:
        return {"kind": "None"}
    if type(value) in (bool, int, float, str):
        if type(value) is int and not -2**63 <= value < 2**63:
            return opaque("int of more than 64 bits")
        in_json = str(value) if type(value) is float and not math.isfinite(value) else value
        return {"kind": type(value).__name__, "value": in_json}
    if isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
        return again(value.item())
    if type(value) in (dict, collections.OrderedDict, collections.defaultdict, collections.Counter):
        if not all(type(key) in (str, int) for key in value):
            return opaque("a dict with keys that are neither str nor int")
        kind = "OrderedDict" if type(value) is collections.OrderedDict else "dict"
        return {"kind": kind, "entries": [[again(key), again(item)] for key, item in value.items()]}
    if type(value) in (list, tuple, torch.Size):
        return {"kind": "list" if type(value) is list else "tuple", "items": [again(item) for item in value]}
    if type(value) in (set, frozenset):
        return {"kind": "set", "items": [again(item) for item in value]}
    if type(value) is bytes:
        return opaque("bytes")
    if isinstance(value, torch.dtype):
        return opaque(str(value))
    if isinstance(value, nn.Module):
        return again(collections.OrderedDict(module_tensors(value)))
    if isinstance(value, (type, types.FunctionType)):
        return opaque(dotted(value.__module__, value.__qualname__, protocol))
    return opaque(dotted(type(value).__module__, type(value).__qualname__, protocol))


def module_tensors(module, prefix=""):
    """Those of its state dict, which it is read as."""
    for members in (module._parameters, module._buffers):
        yield from ((prefix + name, tensor) for name, tensor in members.items() if tensor is not None)
    for name, child in module._modules.items():
        yield from module_tensors(child, f"{prefix}{name}.")


def difference(found, wanted, path=""):
    """The first place at which two descriptions differ."""
    if found == wanted:
        return None
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return next(difference(found[key], wanted[key], path + ("" if key in ("entries", "items") else f".{key}"))
                    for key in wanted if found[key] != wanted[key])
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for i, (a, b) in enumerate(zip(found, wanted)):
            if a != b:
                if isinstance(a, list) and isinstance(b, list) and len(a) == 2 and a[0] == b[0]:  # key and value
                    return difference(a[1], b[1], f"{path}.{a[0]['value']}")
                return difference(a, b, f"{path}[{i}]")
    return f"{path}: found {json.dumps(found)[:300]}, wanted {json.dumps(wanted)[:300]}"


# ---- the files


class Files:
    """Files, each with what must come of it: what it holds and where its weights are, or the sentence of its refusal as
    a pattern."""

    def __init__(self, folder):
        self.folder = folder
        self.cases = []
        self.skipped = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def loads(self, name, value, weights=None, protocol=2):
        """A file that is there already and holds `value`.

        weights: the key path of what a run loads; "" for the whole file, which is the default if it has no state_dict.
        """
        if weights is None:
            weights = "state_dict" if isinstance(value, dict) and "state_dict" in value else ""
        self.cases.append((name, (describe(value, protocol), weights)))

    def refused(self, name, pattern):
        self.cases.append((name, pattern))

    def save(self, name, value, protocol=2, weights=None, **keys):
        torch.save(value, self.path(name), pickle_protocol=protocol, **keys)
        self.loads(name, value, weights, protocol)

    def write(self, name, data, pattern):
        with open(self.path(name), "wb") as file:
            file.write(data)
        self.refused(name, pattern)


def saved(value, **keys):
    buffer = io.BytesIO()
    torch.save(value, buffer, **keys)
    return buffer.getvalue()


def small_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def stepped(net, optimizer, steps=2):
    for _ in range(steps):
        def loss():
            optimizer.zero_grad()
            value = net(torch.ones(2, 1, 4, 4)).square().mean()
            value.backward()
            return value
        optimizer.step(loss)
    return optimizer


def adam(net):
    return stepped(net, torch.optim.Adam(net.parameters(), lr=0.01))


def namespace(**keys):
    return argparse.Namespace(lr=0.1, epochs=300, model="vit", output_dir=pathlib.PurePosixPath("out"), device="cpu",
                              opt_betas=None, smoothing=0.1, **keys)


def prefixed(prefix, net):
    return collections.OrderedDict((prefix + name, value) for name, value in net.state_dict().items())


def torch_files(files):
    net = small_net()
    files.save("state_dict.pth", net.state_dict())
    files.save("parameters.pth", dict(net.named_parameters()))
    for protocol in (3, 4, 5):
        files.save(f"protocol_{protocol}.pth",
                   {"state_dict": net.state_dict(), "args": namespace(), "bytes": b"x", "set": {1}}, protocol)
    for name, make in {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "adamw": lambda p: torch.optim.AdamW(p, amsgrad=True),
            "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=2), "adagrad": torch.optim.Adagrad,
            "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True), "asgd": torch.optim.ASGD,
            "rprop": torch.optim.Rprop, "radam": torch.optim.RAdam}.items():
        own = small_net()
        files.save(f"{name}.pth", {"epoch": 2, "state_dict": own.state_dict(),
                                   "optimizer": stepped(own, make(own.parameters())).state_dict()})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    lr = torch.optim.lr_scheduler
    for name, schedule in {
            "multi_step": lr.MultiStepLR(optimizer, [2, 5]), "one_cycle": lr.OneCycleLR(optimizer, 0.1, total_steps=9),
            "plateau": lr.ReduceLROnPlateau(optimizer), "lambda": lr.LambdaLR(optimizer, lambda step: 0.5),
            "warm_restarts": lr.CosineAnnealingWarmRestarts(optimizer, 3),
            "sequential": lr.SequentialLR(optimizer, [lr.ConstantLR(optimizer), lr.ExponentialLR(optimizer, 0.9)], [3]),
            "swa_lr": torch.optim.swa_utils.SWALR(optimizer, 0.05)}.items():
        optimizer.step()
        schedule.step(*([1.0] if name == "plateau" else []))
        files.save(f"schedule_{name}.pth", {"state_dict": net.state_dict(), "scheduler": schedule.state_dict()})
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(net)
    files.save("averaged_model.pth", averaged.state_dict())
    files.save("swa.pth", {"state_dict": net.state_dict(), "swa_state_dict": averaged.state_dict(), "swa_n": 1})
    files.save("grad_scaler.pth", {"state_dict": net.state_dict(), "scaler": torch.amp.GradScaler("cpu").state_dict()})
    files.save("random_states.pth", {
        "state_dict": net.state_dict(), "python": random.getstate(), "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(), "cuda": []})
    files.save("weight_norm.pth", nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)).state_dict())
    files.save("compiled.pth", torch.compile(net).state_dict())
    files.save("data_parallel.pth", nn.DataParallel(net).state_dict())
    files.save("fsdp.pth", {"model": prefixed("_fsdp_wrapped_module.block._checkpoint_wrapped_module.", net),
                            "flat": {"_flat_param": torch.arange(9.0)}}, weights="model")


class Color(enum.Enum):
    RED = 1


class NamedTuple(collections.namedtuple("NamedTuple", "loss step")):
    """In this file, for pickle to find it."""


class Subclass(torch.Tensor):
    pass


def function():
    pass


def value_files(files):
    weights = {"state_dict": {"w": torch.arange(3.0)}}
    plain = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]
    files.save("dtypes.pth", {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in plain})
    newer = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
             torch.float8_e5m2fnuz]
    files.save("new_dtypes.pth", {str(dtype): torch.arange(6.0).to(dtype) for dtype in newer})
    big = torch.arange(1000.0)
    pairs = torch.tensor([1 + 2j, 3 - 4j])
    files.save("views.pth", {
        "tied": big, "tied_too": big, "slice": big[10:20], "transposed": big.view(10, 100).t(), "step": big[::7],
        "expanded": torch.ones(1).expand(3, 2),
        "channels_last": torch.ones(1, 3, 2, 2).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3), "scalar": torch.tensor(1.5), "conj": pairs.conj(), "neg": pairs.clone().conj().imag,
        "real": pairs.clone().real})
    marked = torch.ones(2)
    marked.mark = "an attribute"
    files.save("tensors.pth", {
        "parameter": nn.Parameter(torch.ones(2)), "buffer": getattr(nn, "Buffer", nn.Parameter)(torch.ones(2)),
        "marked": marked, "subclass": torch.ones(2).as_subclass(Subclass)})
    files.save("sparse.pth", {**weights, "coo": torch.eye(2).to_sparse(), "csr": torch.eye(2).to_sparse_csr(),
                              "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
                              "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
                              "meta": torch.ones(2, device="meta")})
    files.save("quantized.pth", {
        **weights, "per_tensor": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "unsigned": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        "int32": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint32),
        "per_channel": torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8)})
    scalars = [numpy.float64(0.1), numpy.float32(0.5), numpy.float16(2), numpy.int64(-3), numpy.uint8(200),
               numpy.bool_(True), numpy.uint64(2**63 - 1)]
    files.save("numpy.pth", {**weights, "scalars": scalars, "array": numpy.arange(3), "dtype": numpy.float32})
    objects = {
        **weights, "set": {7}, "frozenset": frozenset("x"), "defaultdict": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter([3, 3, 5]), "ordered": collections.OrderedDict(b=1, a=2),
        "deque": collections.deque([1]), "named": NamedTuple(0.5, 3), "enum": Color.RED, "class": nn.Linear,
        "function": function, "device": torch.device("cpu"), "dtype": torch.float16, "size": torch.Size([2, 3]),
        "time": datetime.datetime(2024, 1, 2), "delta": datetime.timedelta(1), "path": pathlib.PurePosixPath("a"),
        "complex": 1j, "bytes": b"x\xff", "huge": 2**70, "lowest": -2**63, "tuple keys": {(1, 2): 3},
        "int keys": {0: "a", -1: "b"}, "namespace": namespace(), "simple": types.SimpleNamespace(a=1),
        "module": nn.Linear(1, 1),
        "text": "Grüße, 世界 \U0001f600", "none": None, "float": 1e-300, "infinite": float("inf")}
    for protocol in (2, 5):
        files.save(f"objects_{protocol}.pth", objects, protocol)
        files.save(f"legacy_objects_{protocol}.pth", objects, protocol, _use_new_zipfile_serialization=False)
    net = small_net()
    files.save("legacy.pth", {"state_dict": net.state_dict(), "optimizer": adam(net).state_dict()},
               _use_new_zipfile_serialization=False)
    files.save("legacy_state_dict.pth.tar", net.state_dict(), _use_new_zipfile_serialization=False)
    files.save("a name without an extension", net.state_dict())
    files.save("pytorch_model.bin", net.state_dict())
    files.save("many.pth", {f"layer{i}.weight": torch.full((1,), float(i)) for i in range(2000)})


def layout_files(files):
    """What programs save that are not installed here."""
    net, other = small_net(), small_net()
    weights, optimizer = net.state_dict(), adam(other).state_dict()
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
              "_growth_tracker": 3}
    files.save("deit.pth", {"model": weights, "optimizer": optimizer, "lr_scheduler": {"base_values": [0.1]},
                            "epoch": 3, "model_ema": prefixed("", other), "scaler": scaler, "args": namespace()},
               weights="model")
    files.save("dino.pth", {"student": prefixed("module.backbone.", net), "teacher": prefixed("backbone.", other),
                            "optimizer": optimizer, "epoch": 3, "args": namespace(),
                            "dino_loss": {"center": torch.zeros(1, 4)}, "fp16_scaler": None}, weights="student")
    files.save("mae.pth", {"model": weights, "optimizer": optimizer, "epoch": 3, "scaler": scaler, "args": namespace()},
               weights="model")
    moco = {**prefixed("module.encoder_q.", net), **prefixed("module.encoder_k.", other),
            "module.queue": torch.ones(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    files.save("moco.pth.tar", {"epoch": 3, "arch": "resnet50", "state_dict": collections.OrderedDict(moco),
                                "optimizer": optimizer})
    files.save("fairseq.pt", {
        "args": None, "cfg": {"common": {"seed": 1, "fp16": False}, "model": namespace(arch="transformer")},
        "model": weights, "criterion": None,
        "optimizer_history": [{"criterion_name": "CrossEntropy", "optimizer_name": "FairseqAdam", "lr_scheduler_state":
                               {"best": None}, "num_updates": 100}],
        "last_optimizer_state": optimizer, "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 2}, "val_loss": 0.5}}, weights="model")
    files.save("basicsr.pth", {"params": weights, "params_ema": other.state_dict()}, weights="params")
    files.write("basicsr.state", saved({
        "epoch": 2, "iter": 1000, "optimizers": [optimizer],
        "schedulers": [{"milestones": collections.Counter({250: 1}), "last_epoch": 3}]}),
        "holds no weights: no entry is a dict of tensors; its keys are")
    files.save("ema_pytorch.pt", {**prefixed("online_model.", net), **prefixed("ema_model.", other),
                                  "initted": torch.tensor(True), "step": torch.tensor(7)})
    files.save("torch_ema.pth", {"state_dict": weights, "ema": {
        "decay": 0.995, "num_updates": 7, "shadow_params": list(other.parameters()), "collected_params": None}})
    files.save("latent_diffusion.ckpt", {"global_step": 9, "state_dict": {
        **prefixed("model.diffusion_model.", net), **prefixed("model_ema.", other),
        "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(9, dtype=torch.int32)}})
    files.save("mp_rank_00_model_states.pt", {
        "module": weights, "buffer_names": ["1.running_mean"], "optimizer": None, "lr_scheduler": None,
        "skipped_steps": 0, "sparse_tensor_module_names": set(), "ds_config": {"zero": {"stage": 1}},
        "ds_version": "0.14.0", "param_shapes": [collections.OrderedDict(w=torch.Size([2, 3]))], "dp_world_size": 1,
        "global_steps": 3}, weights="module")
    files.write("detectron2.pth", saved({"model": {name: value.numpy() for name, value in weights.items()},
                                         "__author__": "zoo", "matching_heuristics": True}),
                "holds no weights: no entry is a dict of tensors; its keys are")
    files.save("yolo.pt", {"epoch": -1, "best_fitness": numpy.float64(0.5), "model": copy.deepcopy(net).half(),
                           "ema": None, "updates": 7, "optimizer": None, "train_args": {"imgsz": 640, "amp": True},
                           "date": datetime.datetime(2024, 1, 2).isoformat(), "version": "8.0"}, weights="model")
    files.save("horovod.pth.tar", {"model": weights, "optimizer": optimizer}, weights="model")
    files.save("rllib.pt", {"weights": weights, "policy_spec": namespace(), "global_timestep": 10**12},
               weights="weights")


def torchvision_files(files):
    import torchvision
    net = torchvision.models.squeezenet1_1()
    files.save("torchvision.pth", net.state_dict())
    files.save("torchvision_half.pth", copy.deepcopy(net).half().state_dict())
    # The checkpoint of its reference training, with its ExponentialMovingAverage.
    ema = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, b, n: 0.9 * a + 0.1 * b, use_buffers=True)
    ema.update_parameters(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    files.save("torchvision_reference.pth", {
        "model": net.state_dict(), "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(),
        "epoch": 1, "args": namespace(), "model_ema": ema.state_dict()}, weights="model")


def timm_files(files):
    import timm
    import timm.utils
    net = timm.create_model("test_vit")
    files.save("timm.pth", net.state_dict())
    ema = timm.utils.ModelEmaV3(net, decay=0.9)
    ema.update(net)
    files.save("timm_ema.pth", ema.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    saver = timm.utils.CheckpointSaver(net, optimizer, args=namespace(), model_ema=ema, checkpoint_dir=files.folder,
                                       recovery_dir=files.folder, amp_scaler=timm.utils.NativeScaler())
    saver.save_checkpoint(1, metric=0.5)
    for name in ("last.pth.tar", "model_best.pth.tar"):
        os.rename(files.path(name), files.path(f"timm_{name}"))
        files.loads(f"timm_{name}", torch.load(files.path(f"timm_{name}"), weights_only=False))


def mmengine_files(files):
    from mmengine.model import BaseModel
    from mmengine.runner import Runner, save_checkpoint
    from mmengine.registry import VISUALIZERS
    from mmengine.visualization import Visualizer

    class Regression(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, inputs, mode):
            return {"loss": self.layer(inputs).square().mean()}

    class NoPictures(Visualizer):  # spares the test matplotlib
        def _initialize_fig(self, fig_cfg):
            return (unittest.mock.MagicMock(),) * 3

    VISUALIZERS.register_module(module=NoPictures, name="ForeignFilesNoPictures")
    work_dir = files.path("mmengine_run")
    loader = torch.utils.data.DataLoader([{"inputs": torch.full((3,), float(i))} for i in range(4)], batch_size=2)
    Runner(model=Regression(), work_dir=work_dir, train_dataloader=loader,
           train_cfg={"by_epoch": True, "max_epochs": 2},
           optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
           param_scheduler=[{"type": "MultiStepLR", "milestones": [1]}], custom_hooks=[{"type": "EMAHook"}],
           visualizer={"type": "ForeignFilesNoPictures", "name": "foreign"}, log_level="ERROR",
           experiment_name="foreign").train()
    for epoch in (1, 2):
        name = f"mmengine_run/epoch_{epoch}.pth"
        files.loads(name, torch.load(files.path(name), weights_only=False))
    weights = {"meta": {"epoch": 2, "classes": ("a", "b"), "time": "now"}, "state_dict": Regression().state_dict()}
    save_checkpoint(weights, files.path("mmengine_published.pth"))
    files.loads("mmengine_published.pth", weights)


def mmpretrain_files(files):
    import mmpretrain.models
    from mmpretrain.models.utils import CosineEMA
    net = mmpretrain.models.LeNet5(num_classes=10)
    files.save("mmpretrain.pth", {"meta": {"mmpretrain_version": "1.2.0"}, "state_dict": prefixed("backbone.", net)})
    files.save("mmpretrain_target.pth", {"state_dict": CosineEMA(net).state_dict()})


def lightning_files(files):
    import lightning.pytorch
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, WeightAveraging

    class Regression(lightning.pytorch.LightningModule):
        def __init__(self, width, flags):
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))

        def training_step(self, batch, index):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])]

    class Counting(Callback):
        def state_dict(self):
            return {"best": torch.tensor(0.5), "path": pathlib.PurePosixPath("a")}

    def run(name, callbacks, weights_only=False):
        trainer = lightning.pytorch.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=callbacks, default_root_dir=files.folder)
        loader = torch.utils.data.DataLoader(torch.arange(24.0).view(8, 3), batch_size=4)
        trainer.fit(Regression(width=2, flags=namespace()), loader)
        trainer.save_checkpoint(files.path(name), weights_only=weights_only)
        files.loads(name, torch.load(files.path(name), weights_only=False))

    for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    run("lightning.ckpt", [Counting()])
    run("lightning_weights.ckpt", [], weights_only=True)
    run("lightning_averaged.ckpt", [WeightAveraging(avg_fn=lambda a, b, n: 0.5 * a + 0.5 * b)])
    run("lightning_ema.ckpt", [EMAWeightAveraging(decay=0.9)])


class Script(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


def foreign_kinds(files):
    """What is no checkpoint, or one that only Python can read."""
    net = small_net()
    files.save("module.pth", net)
    files.save("legacy_module.pth", net, _use_new_zipfile_serialization=False)
    files.save("module_and_epoch.pth", {"model": net, "epoch": 3}, weights="model")
    files.save("weights_module.pth", {"state_dict": net})
    files.write("namespace.pth", saved(namespace(seed=1)),
                "holds a whole Python object, argparse.Namespace, which only Python can read; save its state_dict")
    files.write("list.pth", saved([torch.ones(2)]), "holds a list, expected a dict")
    files.write("tensor.pth", saved(torch.ones(2)), "holds a Tensor, expected a dict")
    script = Script()
    torch.jit.script(script).save(files.path("script.pt"))
    files.loads("script.pt", script)
    with torch.package.PackageExporter(files.path("package.pt")) as exporter:
        exporter.save_pickle("model", "model.pkl", {"w": torch.ones(2)})
    files.refused("package.pt", "is an archive of torch.package, not a checkpoint; in Python, save the state_dict")
    torch.export.save(torch.export.export(Script(), (torch.ones(1, 2),)), files.path("exported.pt2"))
    files.refused("exported.pt2", "is a program of torch.export, not a checkpoint; in Python, save the state_dict")
    torch.distributed.checkpoint.save({"w": torch.ones(2)}, checkpoint_id=files.path("distributed"))
    files.refused("distributed", "is a folder of torch.distributed.checkpoint; make one file of it with Python's "
                                 ".*dcp_to_torch_save")
    os.mkdir(files.path("folder.pth"))
    files.refused("folder.pth", "is a folder, not a checkpoint")
    files.refused("none.pth", "cannot be read: No such file or directory")


def damaged_files(files):
    whole = saved({"state_dict": {"w": torch.arange(3000.0)}})
    old = saved({"state_dict": {"w": torch.arange(3000.0)}}, _use_new_zipfile_serialization=False)
    beside = "; there is no intact checkpoint next to it|; the newest intact checkpoint next to it is"
    files.write("empty.pth", b"", f"is empty({beside})")
    files.write("cut.pth", whole[:len(whole) // 2], f"is truncated or damaged: it has no zip end record({beside})")
    files.write("cut_legacy.pth", old[:len(old) // 2],
                f"is truncated or damaged: its tensors need .* are left({beside})")
    files.write("cut_pickle.pth", old[:200], f"the pickle is damaged at byte [0-9]+: .*({beside})")
    flipped = bytearray(whole)
    flipped[whole.index(torch.arange(3000.0).numpy().tobytes()) + 77] ^= 4
    files.write("flipped.pth", bytes(flipped), r"is damaged: the checksum \(CRC32\) of its record 'data/0' is")
    files.write("zeros.pth", bytes(4096), "is not a checkpoint: a .pth file is a zip archive, and this file is not")
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(buffer, "w") as other:
        for name in archive.namelist():
            other.writestr(name, b"big" if name.endswith("byteorder") else archive.read(name))
    files.write("big_endian.pth", buffer.getvalue(), "was written on a big-endian machine")


def other_files(files):
    whole = saved({"state_dict": {"w": torch.ones(2)}})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/weights.bin", b"x")
        archive.writestr("model/config.json", b"{}")
    files.write("other_zip.pth", buffer.getvalue(), "is a zip archive without data.pkl, not a checkpoint")
    buffer = io.BytesIO()
    numpy.savez(buffer, w=numpy.ones(2))
    files.write("arrays.pth", buffer.getvalue(), "is a zip archive without data.pkl, not a checkpoint")
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.ones(2))
    files.write("array.pth", buffer.getvalue(), "is an array of numpy, not a checkpoint of PyTorch")
    zipfile.ZipFile(files.path("empty_zip.pth"), "w").close()
    files.refused("empty_zip.pth", "is an empty zip archive, not a checkpoint")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    page = "<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
    for name in ("pointer.pth", "pointer.pt", "pytorch_model.bin.pointer"):
        files.write(name, pointer.encode(),
                    "is a pointer of Git LFS to a checkpoint; fetch the file itself with `git lfs pull`")
    for name in ("page.pth", "page.ckpt"):
        files.write(name, page.encode(), "is a web page, not a checkpoint: the server sent it in place of the file")
    files.write("denied.pth", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page")
    files.write("message.pth", b'{"message": "Not Found"}',
                "is a text file that begins with '{\"message\": \"Not Found\"}', not a checkpoint")
    files.write("config.pth", b"model:\n  type: ResNet\n", "is a text file that begins with 'model:', not a checkpoint")
    files.write("packed.pth.gz", gzip.compress(whole), "is compressed by gzip; decompress it with gunzip")
    files.write("packed.pth", lzma.compress(whole), "is compressed by xz; decompress it with unxz")
    with tarfile.open(files.path("packed.tar"), "w") as archive:
        info = tarfile.TarInfo("model.pth")
        info.size = len(whole)
        archive.addfile(info, io.BytesIO(whole))
    files.refused("packed.tar",
                  "is a tar archive; if PyTorch before 0.1.10 wrote it, load it in Python with torch.load")
    for protocol in (2, 4):
        files.write(f"pickle_{protocol}.pth", pickle.dumps({"w": [1.0, 2.0]}, protocol),
                    "is a pickle that torch.save did not write; load it in Python, and save its tensors with "
                    "torch.save")
    files.write("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file, not a checkpoint of PyTorch")
    files.write("model.onnx", b"\x08\x07\x12\x07pytorch\x1a\x03" + bytes(range(256)),
                "unknown checkpoint format '.onnx'; Polyak reads")


def safetensors_files(files):
    import safetensors.torch
    weights = {name: tensor.contiguous() for name, tensor in small_net().state_dict().items()}
    safetensors.torch.save_file(weights, files.path("model.safetensors"), metadata={"format": "pt"})
    loaded = safetensors.torch.load_file(files.path("model.safetensors"))
    files.loads("model.safetensors", collections.OrderedDict(loaded))
    data = safetensors.torch.save(weights)
    with open(files.path("safetensors.bin"), "wb") as file:
        file.write(data)
    files.loads("safetensors.bin", collections.OrderedDict(loaded))
    files.write("cut.safetensors", data[:-1], "is truncated: tensor '.*' ends at byte [0-9]+ of the data, which has")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    files.write("pointer.safetensors", pointer, "is only Git LFS's pointer to a file; fetch the file by 'git lfs pull'")
    files.write("page.safetensors", b"<!DOCTYPE html>\n<html></html>\n",
                "is a web page, not a checkpoint; download the file")
    files.write("zip.safetensors", saved({"w": torch.ones(2)}),
                "is a zip archive, as torch.save writes it; rename it to .pth")
    files.write("safetensors.pth", data, "is a .safetensors file; give it a name that ends so")


GROUPS = {"torch": torch_files, "values": value_files, "layouts": layout_files, "torchvision": torchvision_files,
          "timm": timm_files, "mmengine": mmengine_files, "mmpretrain": mmpretrain_files, "lightning": lightning_files,
          "safetensors": safetensors_files,
          "kinds": foreign_kinds, "damaged": damaged_files, "other": other_files}


def failure_of(case, line):
    """What is wrong with what came of a file; None if nothing is."""
    name, wanted = case
    if isinstance(wanted, str):  # a refusal
        if "error" not in line:
            return f"was read, and should be refused with: {wanted}"
        if re.search(wanted, line["error"]):
            return None
        return f"refused with: {line['error']}\nand should be with: {wanted}"
    if "error" in line:
        return f"refused with: {line['error']}"
    value, weights = wanted
    if line["weights"] != weights:
        return f"its weights are found at '{line['weights']}', not at '{weights}'"
    return difference(line["value"], value)


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        files = Files(folder)
        skipped = []
        for group, make in GROUPS.items():
            try:
                make(files)
            except ImportError as error:
                skipped.append(group)
                print(f"SKIPPED the files of {group}: {error}")
        paths = [files.path(name) for name, _ in files.cases]
        done = subprocess.run([tool, "load", *paths], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{tool} ended with {done.returncode} at file {done.stdout.count(chr(10))}: {done.stderr[-2000:]}")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if len(lines) != len(paths):
            sys.exit(f"{len(lines)} lines for {len(paths)} files")
        failures = 0
        for case, line in zip(files.cases, lines):
            failure = failure_of(case, line)
            if failure is None and "error" in line and not line["error"].startswith(files.path(case[0]) + ": "):
                failure = f"an error without the file's name: {line['error']}"
            if failure is not None:
                failures += 1
                print(f"{case[0]}: {failure}")
    print(f"{len(lines) - failures} of {len(lines)} files as they must be"
          + (f", those of {', '.join(skipped)} skipped" if skipped else ""))
    sys.exit(1 if failures else SKIPPED if skipped else 0)


if __name__ == "__main__":
    main()
