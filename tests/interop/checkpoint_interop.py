# SPDX-License-Identifier: Apache-2.0
"""Checkpoints go both ways between Polyak and Python's torch: keys, kinds, dtypes, shapes, values.

Usage: checkpoint_interop.py CHECKPOINT_TOOL. Needs torch, of any version from 1.13.
"""
import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
import zipfile

import numpy

try:
    import torch
except ImportError as error:
    sys.exit(f"{sys.executable} has no torch ({error}); "
             "set POLYAK_PYTHON to an interpreter that has it")

# C++ names of dtypes.
DTYPES = {
    "Double": torch.float64, "Float": torch.float32,
    "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8,
    "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}
CPP_NAMES = {dtype: name for name, dtype in DTYPES.items()}



def check(condition, message):
    if not condition:
        raise AssertionError(message)


def describe(value):
    """The same description that checkpoint_tool prints."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        real = torch.view_as_real(value) if value.is_complex() else value
        return {"kind": "Tensor", "dtype": CPP_NAMES[value.dtype], "size": list(value.shape),
                "stride": list(value.stride()), "offset": value.storage_offset(),
                "values": real.to(torch.float64).reshape(-1).tolist()}
    if value is None:
        return {"kind": "None"}
    if isinstance(value, dict):
        kind = "OrderedDict" if isinstance(value, collections.OrderedDict) else "dict"
        return {"kind": kind,
                "entries": [[describe(key), describe(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {"kind": kind, "items": [describe(item) for item in value]}
    return {"kind": type(value).__name__, "value": value}


def polyak_reads(tool, path):
    done = subprocess.run([tool, "read", path], capture_output=True, text=True)
    check(done.returncode == 0, f"Polyak cannot read {path}: {done.stderr}")
    return json.loads(done.stdout)


def check_python_reads_polyak(tool, folder):
    path = os.path.join(folder, "polyak.pth")
    subprocess.run([tool, "write", path], check=True)
    loaded = torch.load(path, weights_only=True)
    keys = ["state_dict", "none", "flags", "ints", "real", "text", "betas", "empties", "by_int"]
    check(list(loaded) == keys, f"keys {list(loaded)}")
    state = loaded["state_dict"]
    check(type(state) is collections.OrderedDict, "state_dict is an OrderedDict")
    for name, dtype in DTYPES.items():
        check(state[name].dtype == dtype, f"dtype of {name}")
        wanted = torch.arange(6.0).reshape(2, 3).to(dtype)
        check(torch.equal(state[name], wanted), f"values of {name}")
    weight = torch.arange(12.0).reshape(3, 4)
    check(state["scalar"].shape == () and state["scalar"].item() == 2.5, "scalar")
    check(state["empty"].shape == (0, 3), "empty")
    check(torch.equal(state["tied"], weight), "tied")
    check(torch.equal(state["tied_transposed"], weight.t()), "tied_transposed")
    check(state["tied_transposed"].stride() == (1, 4), "stride of tied_transposed")
    check(torch.equal(state["tied_row"], weight[1]), "tied_row")
    check(torch.equal(state["small_view"], torch.arange(5.0, 9.0)), "small_view")
    check(not any(tensor.requires_grad for tensor in state.values()), "requires_grad")
    state["tied"].fill_(-1.0)
    for name in ("tied_too", "tied_transposed", "tied_row"):
        check(bool((state[name] == -1).all()), f"{name} shares the storage of tied")
    check(loaded["none"] is None and loaded["flags"] == [True, False], "None and bools")
    check(loaded["ints"] == [0, 255, 256, 65535, 65536, -1, 2**63 - 1, -2**63], "ints")
    # Numbers are float64 tensors without dimensions: torch 1.13's weights_only reader knows no float.
    check(loaded["real"].dtype == torch.float64 and loaded["real"].item() == 0.1, "float")
    check(loaded["text"] == "Grüße, 世界", "str")
    check([float(beta) for beta in loaded["betas"]] == [0.9, 0.999], "tuple")
    check(loaded["empties"] == [[], (), {}, {}], "empties")
    check(loaded["by_int"] == {0: "zero", 1: "one"}, "int keys")
    # Back again: what Python makes of the file reads the same as the file itself.
    again = os.path.join(folder, "again.pth")
    torch.save(torch.load(path, weights_only=True), again)
    check(polyak_reads(tool, again) == polyak_reads(tool, path), "a round trip through Python")


def python_checkpoint():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4),
                                torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        optimizer.step()
    big = torch.arange(1000.0)
    repeated = ["shared", "shared"]  # one object twice: the pickle recalls it from its memo
    return {
        "meta": {"epoch": 3, "name": "Grüße", "big": 2**40, "lowest": -2**63},
        "state_dict": model.state_dict(),  # an OrderedDict with the attribute _metadata
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "dtypes": {name: torch.arange(6).to(dtype) for name, dtype in DTYPES.items()},
        "views": [big, big[10:20], big.view(10, 100).t(), torch.ones(1).expand(3, 2)],
        "channels_last": torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.5),
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "empties": [[], {}, collections.OrderedDict(), "", None],
        "single": {"only": [True]},
        "long": list(range(3000)),  # the pickler appends in batches of 1000
        "many": {f"key{i}": i for i in range(3000)},  # more than 256 objects in the memo
        "repeated": [repeated, repeated],
    }


def check_polyak_reads_python(tool, folder):
    path = os.path.join(folder, "python.pth")
    checkpoint = python_checkpoint()
    torch.save(checkpoint, path)
    found, wanted = polyak_reads(tool, path), describe(checkpoint)
    for found_entry, wanted_entry in zip(found["entries"], wanted["entries"]):
        check(found_entry == wanted_entry, f"\nfound  {found_entry}\nwanted {wanted_entry}")
    check(found == wanted, "the number of keys")
    torch.save({"size": torch.Size([2, 3])}, path)
    check(polyak_reads(tool, path) == describe({"size": (2, 3)}), "a torch.Size is a tuple")


def check_polyak_compares_checksums(tool, folder):
    path = os.path.join(folder, "sums.pth")
    torch.save({"a": torch.arange(50.0), "b": "text"}, path)
    wanted = polyak_reads(tool, path)
    # The same records as Python's own zip writer lays them out: without 64-bit fields, and compressed.
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        repacked = os.path.join(folder, f"repacked{method}.pth")
        with zipfile.ZipFile(repacked, "w", method) as archive:
            for name, data in records.items():
                archive.writestr(name, data)
        check(polyak_reads(tool, repacked) == wanted, f"repacked by method {method}")
    data = open(path, "rb").read()
    for what in (b"text", torch.arange(50.0).numpy().tobytes()):
        at = data.index(what)
        with open(path, "wb") as file:
            file.write(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        done = subprocess.run([tool, "read", path], capture_output=True, text=True)
        check(done.returncode == 1 and "is damaged: the checksum" in done.stderr, done.stderr)
    if not hasattr(torch.serialization, "set_crc32_options"):  # before 2.6
        return
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(50.0), "b": "text"}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check(polyak_reads(tool, path) == wanted, "without checksums")


def opaque(name):
    return {"kind": "opaque", "class": name}


def foreign_objects():
    """Objects as other programs put them into checkpoints, each with what Polyak makes of it."""
    complex_numbers = torch.tensor([1 + 2j, 3 - 4j])
    marked = torch.ones(2)
    marked.mark = "an attribute"
    module = torch.nn.Linear(1, 1)
    objects = {
        "counter": (collections.Counter({3: 1, 5: 2}), describe({3: 1, 5: 2})),
        "defaultdict": (collections.defaultdict(list, {"a": [1]}), describe({"a": [1]})),
        "set": ({7}, {"kind": "set", "items": [describe(7)]}),
        "empty set": (set(), {"kind": "set", "items": []}),
        "frozenset": (frozenset({"x"}), {"kind": "set", "items": [describe("x")]}),
        "conj": (complex_numbers.conj(), None),
        "neg": (torch.tensor([5 + 6j]).conj().imag, None),
        "tensor with an attribute": (marked, describe(torch.ones(2))),
        "parameter": (torch.nn.Parameter(torch.ones(2)), describe(torch.ones(2))),
        "device": (torch.device("cpu"), opaque("torch.device")),
        "dtype": (torch.float32, opaque("torch.float32")),
        "namespace": (argparse.Namespace(lr=0.1, weight=torch.ones(2)), opaque("argparse.Namespace")),
        "path": (pathlib.PurePosixPath("a/b"), opaque("pathlib.PurePosixPath")),
        "deque": (collections.deque([1, 2]), opaque("collections.deque")),
        "slice": (slice(1, 2), opaque("builtins.slice")),
        "module": (module, describe(module.state_dict())),
        "array": (numpy.arange(3), opaque("numpy.ndarray")),
        "bytes": (b"x\xff", opaque("bytes")),
        "empty bytes": (b"", opaque("bytes")),
        "bytearray": (bytearray(b"x"), None),
        "complex": (1 + 2j, opaque("builtins.complex")),
        "huge int": (2**70, opaque("int of more than 64 bits")),
        "other keys": ({1.5: 1}, opaque("a dict with keys that are neither str nor int")),
        "sparse": (torch.ones(2, 2).to_sparse(), opaque("a sparse torch.Tensor")),
    }
    for dtype in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool_"):
        value = getattr(numpy, dtype)(1)
        objects[f"numpy.{dtype}"] = (value, describe(value.item()))
    objects["numpy.uint64"] = (numpy.uint64(2**63), opaque("numpy.uint64"))
    objects["big-endian"] = (numpy.dtype(">f8").type(0.5), describe(0.5))
    for dtype in ("uint16", "float8_e4m3fn"):
        if hasattr(torch, dtype):
            objects[f"torch.{dtype}"] = (torch.ones(2).to(getattr(torch, dtype)), None)
    return objects


def python2_name(name):
    """Protocol 2 has Python 2's names for modules."""
    return name.replace("builtins.", "__builtin__.")


def check_polyak_reads_foreign_objects(tool, folder):
    path = os.path.join(folder, "foreign.pth")
    objects = foreign_objects()
    weights = collections.OrderedDict(w=torch.arange(3.0))
    for protocol in (2, 3, 4, 5):
        values = {name: value for name, (value, _) in objects.items()}
        torch.save({**values, "state_dict": weights}, path, pickle_protocol=protocol)
        found = {key["value"]: item for key, item in polyak_reads(tool, path)["entries"]}
        check(found.pop("state_dict") == describe(weights), "state_dict")
        loaded = torch.load(path, weights_only=False)
        for name, (_, wanted) in objects.items():
            what = f"{name} by protocol {protocol}"
            if wanted is not None:
                if protocol == 2 and wanted["kind"] == "opaque":
                    wanted = opaque(python2_name(wanted["class"]))
                check(found[name] == wanted, f"{what}: found {found[name]}, wanted {wanted}")
            elif name in ("conj", "neg"):
                resolved = loaded[name].resolve_conj().resolve_neg()  # torch 1.13 saves neither of them
                check(found[name]["values"] == describe(resolved)["values"], what)
            elif name == "bytearray":
                check(found[name]["class"] in ("bytes", "__builtin__.bytearray", "builtins.bytearray"), what)
            else:  # a tensor, where LibTorch has the dtype
                kind = found[name].get("class", found[name]["kind"])
                check(kind in ("Tensor", f"a tensor of dtype {name}"), what)
        check(len(found) == len(objects), "the number of keys")


class OldTensor:
    """Pickles as tensors did before PyTorch 0.4."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        with warnings.catch_warnings():  # PyTorch 2 would rather have storages without a dtype
            warnings.simplefilter("ignore")
            storage = self.tensor.storage()
        return (torch._utils._rebuild_tensor, (storage, self.tensor.storage_offset(), tuple(self.tensor.shape),
                                               self.tensor.stride()))


def check_polyak_reads_the_format_before_1_6(tool, folder):
    path = os.path.join(folder, "legacy.pth")
    checkpoint = python_checkpoint()
    for protocol in (2, 4):
        torch.save(checkpoint, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        check(polyak_reads(tool, path) == describe(checkpoint), f"the format before 1.6 by protocol {protocol}")
    numbers = torch.arange(12.0)
    torch.save([numbers, OldTensor(numbers[3:9].view(2, 3))], path, _use_new_zipfile_serialization=False)
    check(polyak_reads(tool, path) == describe([numbers, numbers[3:9].view(2, 3)]), "a tensor before PyTorch 0.4")
    # Objects of other programs, a whole module with the source of its classes among them.
    objects = foreign_objects()
    for name in ("conj", "neg", "torch.uint16", "torch.float8_e4m3fn", "bytearray"):
        objects.pop(name, None)
    torch.save({name: value for name, (value, _) in objects.items()}, path, pickle_protocol=4,
               _use_new_zipfile_serialization=False)
    found = {key["value"]: item for key, item in polyak_reads(tool, path)["entries"]}
    for name, (_, wanted) in objects.items():
        check(found[name] == wanted, f"{name} before 1.6: found {found[name]}, wanted {wanted}")
    # Cut off, also within the tensors.
    whole = open(path, "rb").read()
    for size in (1, 10, 100, len(whole) // 2, len(whole) - 1):
        with open(path, "wb") as file:
            file.write(whole[:size])
        done = subprocess.run([tool, "read", path], capture_output=True, text=True)
        check(done.returncode == 1 and path in done.stderr, f"{size} bytes of {len(whole)}: {done.stderr}")


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        check_python_reads_polyak(tool, folder)
        check_polyak_reads_python(tool, folder)
        check_polyak_compares_checksums(tool, folder)
        check_polyak_reads_foreign_objects(tool, folder)
        check_polyak_reads_the_format_before_1_6(tool, folder)
    print(f"checkpoints agree with torch {torch.__version__}")


if __name__ == "__main__":
    main()
