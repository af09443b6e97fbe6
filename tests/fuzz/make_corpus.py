# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets anew: make_corpus.py [FOLDER], by default the folder corpus beside this file.

Needs torch and Pillow. The seeds are kept, so that fuzzing needs neither.
"""
import argparse
import collections
import gzip
import io
import json
import pathlib
import struct
import sys
import zipfile

import numpy
import torch
from PIL import Image

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus")

LEGACY_HEADERS = 3  # pickles before the object

# The format before 1.6 keeps a module's source and where that lies: of PyTorch's own, and of one machine.
torch.serialization.get_source_lines_and_file = lambda *_: (["class Linear: ...\n"], 1, "linear.py")


def write(target, name, data):
    folder = ROOT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def objects():
    weight = torch.arange(6.0).view(2, 3)
    marked = torch.ones(1)
    marked.mark = 1
    yield "weights", {"state_dict": collections.OrderedDict(w=weight, tied=weight.t(), h=torch.ones(2).half())}, 2
    yield "values", {"none": None, "numbers": [True, 1, 300, 70000, 2**40, 2**70, 0.5], "text": "ü",
                     "tuple": (1, (2, 3)), "set": {1}, "counter": collections.Counter([3]),
                     "default": collections.defaultdict(list, a=[1]),
                     "bytes": b"\xff", 4: {}}, 4
    yield "numpy", {"a": numpy.float32(0.5), "b": numpy.int64(-3), "c": numpy.bool_(True), "d": numpy.arange(2)}, 2
    yield "objects", {"args": argparse.Namespace(lr=0.1), "device": torch.device("cpu"), "dtype": torch.float16,
                      "size": torch.Size([2, 3]), "marked": marked, "parameter": torch.nn.Parameter(torch.ones(1)),
                      "sparse": torch.eye(2).to_sparse()}, 5
    yield "module", {"model": torch.nn.Linear(1, 1), "epoch": 3}, 4
    yield "conj", {"c": torch.tensor([1 + 2j]).conj(),
                   "q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, 3


def without_checksums(archive):
    """The archive with checksums of 0, by which LibTorch's reader and ours take it for one without."""
    data = bytearray(archive)
    for sign, offset in ((b"PK\3\4", 14), (b"PK\1\2", 16), (b"PK\7\x08", 4)):
        at = data.find(sign)
        while at >= 0:
            data[at + offset:at + offset + 4] = bytes(4)
            at = data.find(sign, at + 4)
    return bytes(data)


def checkpoints():
    for name, value, protocol in objects():
        buffer = io.BytesIO()
        torch.save(value, buffer, pickle_protocol=protocol)
        with zipfile.ZipFile(buffer) as archive:
            records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        write("pickle", name, next(data for record, data in records.items() if record.endswith("data.pkl")))
        # A small archive: torch.save aligns each record to 64 bytes.
        for method, compressed in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
            small = io.BytesIO()
            with zipfile.ZipFile(small, "w", compressed) as archive:
                for record, data in records.items():
                    if not record.endswith(("serialization_id", ".format_version", ".storage_alignment")):
                        entry = zipfile.ZipInfo("a/" + record.partition("/")[2])  # of no date
                        archive.writestr(entry, data, compressed)
            if method == "stored" or name == "weights":
                write("pth", f"{name}_{method}", without_checksums(small.getvalue()))
        if name == "weights":
            write("pth", "torch_save", without_checksums(buffer.getvalue()))
        if "conj" in name:
            continue
        buffer = io.BytesIO()
        torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        write("pth", f"{name}_legacy", buffer.getvalue())
        buffer.seek(0)
        for _ in range(LEGACY_HEADERS):
            torch.serialization.pickle.load(buffer)
        write("legacy", name, buffer.read())


def part_of_a_storage():
    """As PyTorch's first versions wrote it: no torch of today does."""
    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value
    storage = (b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"7") + text(b"cpu") + b"K\5(" + text(b"9") +
               b"K\2K\3ttQ")
    pickled = b"\x80\2ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\0K\3\x85K\1\x85tR."
    keys = b"\x80\2](" + text(b"7") + b"e."
    write("legacy", "part", pickled + keys + struct.pack("<q5f", 5, *range(5)))
    write("pickle", "part", pickled)


def safetensors():
    def file(header, data):
        text = json.dumps(header, separators=(",", ":"))
        text += " " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text.encode() + data
    write("safetensors", "two", file({
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]}}, bytes(32)))
    write("safetensors", "tied", file({
        "__metadata__": {"format": "pt", "b": "a"}, "a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
        "f8": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [2, 4]},
        "none": {"dtype": "BOOL", "shape": [0], "data_offsets": [4, 4]}}, bytes(4)))
    write("safetensors_index", "both", json.dumps({
        "metadata": {"total_size": 16, "format": "pt"}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))


def configs():
    write("config", "run", "model:\n  type: LeNet\n  head: {type: Linear, sizes: [1, 2.5, .inf]}\nhooks:\n"
          "- type: EMAHook\n  momentum: 1e-4\n  begin: 0x10\n- {type: 'it''s', text: \"a\\tb\\u00fc\"}\nnone: ~\n")
    write("config", "anchors", "a: &x {p: 1, q: [true, no, 010]}\nb: *x\nc:\n  <<: [*x, {r: 2}]\n  p: 3\n"
          "d: {_delete_: true}\n")
    write("config", "blocks", "text: |\n  one\n   two\nfolded: >-\n  a\n  b\n? key\n: value\n'quoted: key': \"\"\n"
          "empty:\n"
          "# comment\nlist: [a, 'b, c', [d]]\nbig: 12345678901234567890\n")
    for i, text in enumerate(("a.b.0=2", "a.b.1.c=[1, (2, 3), 'x, y']", 'a.d="1, 2"', "e=None", "new.key=1e-3,.5,true",
                              "a.b=\"[1, 2]\"")):
        write("override", str(i), text)


def datasets():
    images = struct.pack(">IIII", 0x803, 2, 3, 3) + bytes(range(18))
    labels = struct.pack(">II", 0x801, 4) + bytes(4)
    write("dataset", "images", b"\3" + images)
    write("dataset", "images_gz", b"\3" + gzip.compress(images, mtime=0))
    write("dataset", "labels", b"\1" + labels)
    write("dataset", "labels_gz", b"\1" + gzip.compress(labels, mtime=0))
    write("dataset", "cifar", b"\0" + bytes([7]) + bytes(3072))


def images():
    picture = Image.frombytes("RGB", (11, 9), bytes(i * 7 % 256 for i in range(297)))
    exif = picture.getexif()
    exif[0x0112] = 6

    def save(name, image, form, **keys):
        buffer = io.BytesIO()
        image.save(buffer, form, **keys)
        write("image", name, buffer.getvalue())
    save("rgb.png", picture, "PNG", exif=exif)
    save("palette.png", picture.quantize(5), "PNG")
    save("alpha.png", picture.convert("LA"), "PNG")
    save("bits.png", picture.convert("1"), "PNG")
    save("deep.png", Image.fromarray(numpy.arange(99, dtype=numpy.uint16).reshape(9, 11) * 600), "PNG")
    save("plain.jpg", picture, "JPEG", exif=exif, quality=50)
    save("progressive.jpg", picture, "JPEG", progressive=True, subsampling=0)
    save("grey.jpg", picture.convert("L"), "JPEG")
    save("cmyk.jpg", picture.convert("CMYK"), "JPEG", restart_marker_blocks=1)


def main():
    torch.manual_seed(1)
    checkpoints()
    part_of_a_storage()
    safetensors()
    configs()
    datasets()
    images()
    files = [path for path in ROOT.rglob("*") if path.is_file()]
    print(f"{len(files)} seeds, {sum(path.stat().st_size for path in files)} bytes")


if __name__ == "__main__":
    main()
