# SPDX-License-Identifier: Apache-2.0
"""Tensors go both ways between Polyak and Python's safetensors library: names, dtypes, shapes, bits, metadata.

Usage: safetensors_interop.py CHECKPOINT_TOOL. Needs torch and safetensors.
"""
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile

try:
    import safetensors
    import torch
    from safetensors.torch import load_file, load_model, save_file, save_model
except ImportError as error:
    sys.exit(f"{sys.executable} has no torch or no safetensors ({error}); "
             "set POLYAK_PYTHON to an interpreter that has both")

# Each dtype of the format: the name in Python, the one in C++. LibTorch has the new ones from 2.3 on at the latest.
DTYPES = {
    "BOOL": ("bool", "Bool"), "U8": ("uint8", "Byte"), "I8": ("int8", "Char"), "I16": ("int16", "Short"),
    "I32": ("int32", "Int"), "I64": ("int64", "Long"), "F16": ("float16", "Half"), "BF16": ("bfloat16", "BFloat16"),
    "F32": ("float32", "Float"), "F64": ("float64", "Double"), "C64": ("complex64", "ComplexFloat"),
}
NEW_DTYPES = {
    "U16": ("uint16", "UInt16"), "U32": ("uint32", "UInt32"), "U64": ("uint64", "UInt64"),
    "F8_E4M3": ("float8_e4m3fn", "Float8_e4m3fn"), "F8_E5M2": ("float8_e5m2", "Float8_e5m2"),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", "Float8_e4m3fnuz"), "F8_E5M2FNUZ": ("float8_e5m2fnuz", "Float8_e5m2fnuz"),
    "F8_E8M0": ("float8_e8m0fnu", "Float8_e8m0fnu"),
}


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def run(tool, *arguments):
    done = subprocess.run([tool, *arguments], capture_output=True, text=True)
    check(done.returncode == 0, f"{arguments}: {done.stderr}")
    return done.stdout


def polyak_reads(tool, path):
    entries = json.loads(run(tool, "read", path))["entries"]
    return {key["value"]: item for key, item in entries}


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def pattern(dtype, shape=(2, 3)):
    """The bytes of checkpoint_tool's sample."""
    size = torch.empty(shape, dtype=dtype).nbytes
    values = [i % 2 if dtype is torch.bool else (i * 37 + 11) % 256 for i in range(size)]
    return torch.tensor(values, dtype=torch.uint8).view(dtype).reshape(shape)


def dtypes_of(tool):
    """What Python's torch and the C++ one both have, by its name in the format."""
    same = run(tool, "version").strip().split("+")[0] == torch.__version__.split("+")[0]
    known = {name: pair for name, pair in NEW_DTYPES.items() if hasattr(torch, pair[0])}
    if not same:  # each may be older than the other: what was read of the sample says what the tool has
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "sample.safetensors")
            run(tool, "write", path)
            found = polyak_reads(tool, path)
        known = {name: pair for name, pair in known.items() if pair[1] in found}
    return {**DTYPES, **known}, same


def equal(found, wanted):
    return found.dtype == wanted.dtype and found.shape == wanted.shape and torch.equal(bits(found), bits(wanted))


def metadata_of(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def check_python_reads_polyak(tool, folder, dtypes):
    path = os.path.join(folder, "polyak.safetensors")
    run(tool, "write", path)
    loaded = load_file(path)
    weight = torch.arange(12.0).reshape(3, 4)
    for python_name, name in dtypes.values():
        dtype = getattr(torch, python_name)
        check(equal(loaded.pop(name), pattern(dtype)), f"{name} in Python")
    wanted = {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), 'Grüße "世界"\n': torch.ones(1),
              "tied": weight, "transposed": weight.t(), "row": weight[1]}
    check(set(loaded) == set(wanted), f"names {sorted(loaded)}")
    for name, tensor in wanted.items():
        check(equal(loaded[name], tensor), name)
    check(metadata_of(path) == {"format": "pt", "tied_too": "tied"}, f"metadata {metadata_of(path)}")


def check_files_are_the_same(tool, folder, dtypes):
    """Of Python's file, Polyak makes the same bytes: names, order, header, padding, data."""
    tensors = {f"layer{i}.{name}": pattern(getattr(torch, python_name), shape)
               for name, (python_name, _) in dtypes.items()
               for i, shape in enumerate([(2, 3), (), (1,), (0, 4), (5, 1, 2)])}
    tensors.update({"ä\x01\x7f\"\\/\t": torch.ones(3), "": torch.zeros(2)})
    path, copy = os.path.join(folder, "python.safetensors"), os.path.join(folder, "copy.safetensors")
    save_file(tensors, path, metadata={"format": "pt"})
    run(tool, "copy", path, copy)
    with open(path, "rb") as file, open(copy, "rb") as other:
        check(file.read() == other.read(), "the bytes of the copy of Python's file")
    # Without padding of the header and by name, as other writers lay it out: all is misaligned.
    offset, header, data = 0, {}, b""
    for name, tensor in sorted(tensors.items()):
        raw = bytes(bits(tensor).tolist())
        dtype = next(known for known, pair in dtypes.items() if getattr(torch, pair[0]) == tensor.dtype)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)  # an odd length
    odd = os.path.join(folder, "odd.safetensors")
    with open(odd, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    run(tool, "copy", odd, copy)
    with open(path, "rb") as file, open(copy, "rb") as other:
        check(file.read() == other.read(), "the bytes of the copy of a file that is not aligned")


def check_polyak_describes_python(tool, folder, dtypes, same):
    path = os.path.join(folder, "described.safetensors")
    values = torch.tensor([[0.0, 1.0, 2.0], [0.5, 4.0, 1.5]])
    tensors = {name: values.to(getattr(torch, python_name)) for name, (python_name, _) in dtypes.items()}
    others = {} if same else {"U16": torch.ones(2).to(torch.uint16), "F8_E5M2": torch.ones(2).to(torch.float8_e5m2)}
    others = {name: tensor for name, tensor in others.items() if name not in tensors}
    save_file({**tensors, **others}, path)
    found = polyak_reads(tool, path)
    check(set(found) == set(tensors) | set(others), "names")
    for name, tensor in tensors.items():
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        wanted = {"kind": "Tensor", "dtype": dtypes[name][1], "size": [2, 3], "stride": [3, 1], "offset": 0,
                  "values": real.to(torch.float64).reshape(-1).tolist()}
        check(found[name] == wanted, f"found {found[name]}, wanted {wanted}")
    for name in others:
        check(found[name] == {"kind": "opaque", "class": f"a tensor of dtype {name}"}, f"{name} is opaque")


class Tied(torch.nn.Module):
    """As language models tie their first and last layer; one tensor has three names."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)])
        self.norm = torch.nn.BatchNorm1d(6)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.copy = torch.nn.Linear(6, 11)
        self.head.weight = self.copy.weight = self.embedding.weight
        self.layers[1].bias = self.layers[0].bias

    def forward(self, tokens):
        x = self.norm(self.layers[1](self.layers[0](self.embedding(tokens))))
        return self.head(x) + self.copy(x)


def trained():
    torch.manual_seed(0)
    model = Tied()
    model(torch.randint(11, (8,))).sum().backward()
    return model.eval()


def check_tied_weights(tool, folder):
    model, tokens = trained(), torch.arange(11)
    state = model.state_dict()
    pth, path = os.path.join(folder, "tied.pth"), os.path.join(folder, "tied.safetensors")
    # Python -> .pth -> Polyak -> .safetensors -> Python
    torch.save(state, pth)
    run(tool, "copy", pth, path)
    loaded = Tied().eval()
    missing, unexpected = load_model(loaded, path)  # strict
    check(not missing and not unexpected, f"{missing} {unexpected}")
    check(torch.equal(loaded(tokens), model(tokens)), "the model that load_model loaded")
    names = set(load_file(path)) | set(metadata_of(path)) - {"format"}
    check(names == set(state), f"every name is in the file or in its metadata: {sorted(names)}")
    check(len(load_file(path)) == len(state) - 3, "tied weights are in the file once")
    # Python's save_model -> Polyak -> .pth -> Python
    save_model(model, path)
    run(tool, "copy", path, pth)
    again = torch.load(pth, weights_only=True)
    check(set(again) == set(state), f"names {sorted(again)}")
    for name, tensor in state.items():
        check(equal(again[name], tensor), name)
    pointers = {again[name].data_ptr() for name in ("embedding.weight", "head.weight", "copy.weight")}
    check(len(pointers) == 1, "tied weights are tied again")
    Tied().load_state_dict(again)


def check_shards(tool, folder):
    state = trained().state_dict()
    del state["head.weight"], state["copy.weight"], state["layers.1.bias"]
    names, weight_map = list(state), {}
    for shard in range(3):
        file = f"model-{shard + 1:05}-of-00003.safetensors"
        save_file({name: state[name] for name in names[shard::3]}, os.path.join(folder, file), {"format": "pt"})
        weight_map.update({name: file for name in names[shard::3]})
    index = os.path.join(folder, "model.safetensors.index.json")
    with open(index, "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": 1, "head.weight": "embedding.weight"}, "weight_map": weight_map}, file)
    whole = os.path.join(folder, "whole.safetensors")
    run(tool, "copy", index, whole)
    loaded = load_file(whole)
    check(set(loaded) == set(state), f"names {sorted(loaded)}")
    check(all(equal(loaded[name], tensor) for name, tensor in state.items()), "tensors of shards")
    check(metadata_of(whole)["head.weight"] == "embedding.weight", "a tied weight of the index")


# What Python's library lets pass, and the format's description forbids.
STRICTER = re.compile(r"is in the header twice|has the unknown key|its header does not start with '\{'|"
                      r"has two __metadata__|its __metadata__ has '[^']*' twice|its __metadata__ is null")


def damaged_bytes(rng, whole):
    """The file with some bytes of its header changed, removed or added."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        length = struct.unpack("<Q", data[:8])[0]
        at, kind = rng.randrange(8 + min(length, len(data) - 8)), rng.randrange(4)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice(b'0123456789[]{}",:\\ \x00\xff')
        elif at >= 8:  # the header gets shorter or longer, and says so
            if kind == 2:
                del data[at]
            else:
                data.insert(at, rng.choice(b'0123456789[]{}",:\\ -.e'))
            data[:8] = struct.pack("<Q", (length + (1 if kind == 3 else -1)) % 2**64)
    return bytes(data)


def changed_header(rng, data):
    """A file whose header is JSON, and right or almost right."""
    def field(name, right, others):
        return name, right if rng.random() < 0.96 else rng.choice(others)

    entries = []
    for name, dtype, shape, offsets in (("w", '"F32"', "[2,3]", "[0,24]"), ("b", '"U8"', "[3]", "[24,27]"),
                                        ("e", '"F32"', "[0,2]", "[27,27]")):
        fields = [field("dtype", dtype, ['"I32"', '"I8"', '"BOOL"', '"F16"', '"f32"', '"F64"', "null", "1", '"F4"']),
                  field("shape", shape, ["[]", "[6]", "[0]", "[1,2,3]", "[2,4]", "[2.0,3]", "[-2,-3]", "null",
                                         "[2,[3]]", "[18446744073709551615,2]", "[0,4294967296,4294967296]", "[1e2]"]),
                  field("data_offsets", offsets, ["[0,27]", "[0,24,0]", "[24,0]", "[27,27]", "[0,0]", "[3]", "[28,28]",
                                                  "[0.0,24]", "null", f"[{2**64 - 1},{2**64 - 1}]"])]
        if rng.random() < 0.1:
            fields.append(rng.choice([*fields, ("other", "1"), ("", "{}")]))
        if rng.random() < 0.05:
            fields.pop(rng.randrange(len(fields)))
        rng.shuffle(fields)
        entries.append((name, "{" + ",".join(f'"{key}":{value}' for key, value in fields) + "}"))
    if rng.random() < 0.3:
        entries.append(("__metadata__", rng.choice(['{"a":"b"}', "{}", '{"a":1}', '{"a":"b","a":"c"}', "null", "[]"])))
    if rng.random() < 0.1:
        entries.append(rng.choice(entries))
    if rng.random() < 0.1:
        entries.pop(rng.randrange(len(entries)))
    rng.shuffle(entries)
    text = "{" + ",".join(f'"{name}":{value}' for name, value in entries) + "}"
    text = rng.choice(["", "", "", "", " ", "\n"]) + text + rng.choice(["", " ", "\n\t ", "", "x", "\0"])
    return struct.pack("<Q", len(text)) + text.encode() + data[:rng.choice([27, 27, 27, 27, 27, 26, 0])] + \
        rng.choice([b"", b"", b"", b"", b"x"])


def check_damage(tool, folder):
    """What Polyak accepts of damaged headers, Python accepts as well, and nearly the other way round."""
    rng = random.Random(0)
    path = os.path.join(folder, "whole.safetensors")
    save_file({"w": torch.arange(6.0), "b": torch.ones(3, dtype=torch.uint8), "e": torch.empty(0, 2)}, path, {"a": "b"})
    with open(path, "rb") as file:
        whole = file.read()
    contents = [damaged_bytes(rng, whole) for _ in range(300)]
    contents += [changed_header(rng, whole[-27:]) for _ in range(600)]
    files = [os.path.join(folder, f"damaged{i}.safetensors") for i in range(len(contents))]
    for name, data in zip(files, contents):
        with open(name, "wb") as file:
            file.write(data)
    answers = run(tool, "check", *files).splitlines()
    check(len(answers) == len(files), "one line for each file")
    accepted = refused = stricter = 0
    for name, data, answer in zip(files, contents, answers):
        try:
            safetensors.deserialize(data)
            python = "ok"
        except safetensors.SafetensorError as error:
            python = str(error)
        if answer == "ok":
            accepted += 1
            check(python == "ok", f"Polyak accepts what Python refuses ({python}): {data}")
        else:
            refused += 1
            check(answer.startswith(name + ": "), answer)
            if python == "ok":
                stricter += 1
                check(STRICTER.search(answer), f"Python accepts what Polyak refuses: {answer}: {data}")
    check(accepted > 30 and refused > 300 and stricter > 10, f"{accepted} accepted, {refused}, {stricter} refused")
    return accepted, refused, stricter


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        dtypes, same = dtypes_of(tool)
        check_python_reads_polyak(tool, folder, dtypes)
        check_files_are_the_same(tool, folder, dtypes)
        check_polyak_describes_python(tool, folder, dtypes, same)
        check_tied_weights(tool, folder)
        check_shards(tool, folder)
        accepted, refused, stricter = check_damage(tool, folder)
    print(f"{len(dtypes)} of {len(DTYPES) + len(NEW_DTYPES)} dtypes agree with safetensors {safetensors.__version__} "
          f"and torch {torch.__version__}; of damaged files, {accepted} accepted by both, {refused} refused, "
          f"{stricter} of them by Polyak only")


if __name__ == "__main__":
    main()
