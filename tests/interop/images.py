# SPDX-License-Identifier: Apache-2.0
"""Images as `polyak` reads them against PIL's `Image.open(...).convert("RGB")`: every kind of PNG and JPEG, upright by
EXIF as `ImageOps.exif_transpose`, and none that is cut off.

Usage: images.py IMAGE_TOOL. Needs Pillow and NumPy. Prints a table of the largest differences. Where it differs from PIL
on purpose, grey PNGs of 16 bits, which PIL clips, the higher bytes of what was written are expected.
"""
import io
import pathlib
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps

TOOL = str(pathlib.Path(sys.argv[1]).resolve())
HEIGHT, WIDTH = 37, 53  # no multiples of a block
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
random = np.random.default_rng(0)


def picture(channels, top=255):
    """Waves with some noise: edges and smooth parts."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / (3 + c)) + np.cos(y / (4 + c) + c) for c in range(channels)]
    values = (np.stack(waves, 2) + 2) / 4 + random.normal(0, 0.03, (HEIGHT, WIDTH, channels))
    return np.clip(np.rint(values * top), 0, top).astype(np.int64)


# ---- PNG by hand, since PIL writes few of its kinds

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def lines(pixels, depth):
    """Unfiltered lines of a (part of an) image."""
    out = b""
    for row in pixels.reshape(pixels.shape[0], -1):
        if depth == 16:
            out += b"\0" + row.astype(">u2").tobytes()
        else:
            bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            out += b"\0" + np.packbits(bits.astype(np.uint8)).tobytes()
    return out


def png(pixels, depth, colour, interlaced=False, before=(), after=()):
    parts = [pixels[y::down, x::right] for x, y, right, down in ADAM7] if interlaced else [pixels]
    data = zlib.compress(b"".join(lines(part, depth) for part in parts if part.size))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*c) for c in before) +
            chunk(b"IDAT", data[:50]) + chunk(b"IDAT", data[50:]) + b"".join(chunk(*c) for c in after) +
            chunk(b"IEND", b""))


def pngs():
    """(kind, bytes, expected pixels or None for PIL's)"""
    icc = (b"iCCP", b"x\0\0" + zlib.compress(b"no profile at all" * 9))
    extras = {"": (), " gAMA 1.0": ((b"gAMA", struct.pack(">I", 100000)),),
              " gAMA 1/2.2 cHRM": ((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(
                  ">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))),
              " sRGB": ((b"sRGB", b"\0"),), " iCCP": (icc,), " sBIT bKGD": ()}
    for colour, name, depths in ((GREY, "grey", (1, 2, 4, 8, 16)), (GREY_ALPHA, "grey+alpha", (8, 16)),
                                 (RGB, "RGB", (8, 16)), (RGBA, "RGBA", (8, 16)), (PALETTE, "palette", (1, 2, 4, 8))):
        for depth in depths:
            pixels = picture(CHANNELS[colour], 2 ** depth - 1)
            entries = 2 ** depth if depth < 8 else 200
            if colour == PALETTE:
                pixels = np.minimum(pixels, entries - 1)
            palette = ((b"PLTE", random.bytes(3 * entries)),) if colour == PALETTE else ()
            expected = None
            if colour == GREY and depth == 16:
                expected = np.repeat(pixels >> 8, 3, 2)
            key = pixels[HEIGHT // 2, WIDTH // 2]  # a colour that is there
            transparent = {GREY: struct.pack(">H", key[0]), RGB: struct.pack(">3H", *(key[i % len(key)] for i in range(3))),
                           PALETTE: random.bytes(entries // 2)}.get(colour)
            for interlaced in (False, True):
                kind = f"PNG {name} {depth}" + (" interlaced" if interlaced else "")
                for extra, chunks in extras.items():
                    if extra == " sBIT bKGD":
                        channels = {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGBA: 4, PALETTE: 3}[colour]
                        ground = {PALETTE: b"\1", RGB: bytes(5) + b"\1", RGBA: bytes(5) + b"\1"}.get(colour, b"\0\1")
                        before = ((b"sBIT", b"\1" * channels),) + palette + ((b"bKGD", ground),)
                    else:
                        before = chunks + palette
                    yield kind + extra, png(pixels, depth, colour, interlaced, before), expected
                if transparent:
                    yield (kind + " tRNS", png(pixels, depth, colour, interlaced, palette + ((b"tRNS", transparent),)),
                           expected)
                    yield (kind + " tRNS gAMA", png(pixels, depth, colour, interlaced, extras[" gAMA 1.0"] + palette +
                                                    ((b"tRNS", transparent),)), expected)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):  # with PIL's filters
        image = Image.fromarray(picture(3).astype(np.uint8)).convert(mode)
        yield f"PNG of PIL {mode}", saved(image, "PNG"), None


# ---- JPEG: PIL's, those that only libjpeg writes, and changed headers

def saved(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def segments(data):
    """[(marker, whole segment)] and the rest from the scan on."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        size = 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
        found.append((data[at + 1], data[at:at + size]))
        at += size
    return found, data[at:]


def changed(data, keep=lambda marker: True, first=b"", adobe=None):
    """The same scan below another header."""
    parts, scan = segments(data)
    out = b"\xFF\xD8" + first
    for marker, part in parts:
        if marker == 0xEE and adobe is not None:
            part = part[:-1] + bytes([adobe])
        if keep(marker):
            out += part
    return out + scan


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpegs(folder):
    colours = Image.fromarray(picture(3).astype(np.uint8))
    grey, cmyk = colours.convert("L"), Image.fromarray(picture(4).astype(np.uint8), "CMYK")
    for progressive in (False, True):
        also = " progressive" if progressive else ""
        for quality in (50, 95):
            options = {"progressive": progressive, "quality": quality}
            yield f"JPEG grey{also}", saved(grey, "JPEG", **options)
            for subsampling, name in enumerate(("4:4:4", "4:2:2", "4:2:0")):
                yield f"JPEG YCbCr {name}{also}", saved(colours, "JPEG", subsampling=subsampling, **options)
            plain = saved(colours, "JPEG", subsampling=0, **options)
            adobe = segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0))
            yield f"JPEG RGB by Adobe's mark{also}", changed(plain, lambda marker: marker != 0xE0, adobe)
            letters = plain
            for number, letter in ((1, b"R"), (2, b"G"), (3, b"B")):  # ids in the frame's and the scans' headers
                parts, scan = segments(letters)
                new = b"\xFF\xD8"
                for marker, part in parts:
                    if marker in (0xC0, 0xC2):
                        at = 10 + 3 * (number - 1)
                        part = part[:at] + letter + part[at + 1:]
                    if marker != 0xE0:
                        new += part
                if not progressive:
                    at = 5 + 2 * (number - 1)
                    scan = scan[:at] + letter + scan[at + 1:]
                letters = new + scan
            if not progressive:
                yield "JPEG RGB by its components' names", letters
            inverted = saved(cmyk, "JPEG", **options)
            yield f"JPEG CMYK of Adobe{also}", inverted
            yield f"JPEG CMYK without a mark{also}", changed(inverted, lambda marker: marker != 0xEE)
            yield f"JPEG YCCK{also}", changed(inverted, adobe=2)
            yield f"JPEG CMYK 4:2:0{also}", saved(cmyk, "JPEG", subsampling=2, **options)
        for across, down in ((4, 1), (1, 2), (2, 1), (2, 2), (4, 2), (1, 4), (3, 1)):
            for arithmetic in (False, True):
                path = folder / "written.jpg"
                subprocess.run([TOOL, "--write-jpeg", str(path), str(across), str(down), str(int(progressive)),
                                str(int(arithmetic))], check=True)
                coded = " arithmetic" if arithmetic else ""
                yield f"JPEG YCbCr {across}x{down} samples{also}{coded}", path.read_bytes()
    yield "JPEG with bytes behind its end", saved(colours, "JPEG") + b"something else" * 9
    yield "JPEG with bytes between its header's segments", b"\xFF\xD8\xFF\xFF" + saved(colours, "JPEG")[3:]


# ---- EXIF

def exif(orientation, order, kind="H", count=1, prefix=b""):
    """A block with two other tags beside the orientation."""
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    types = {"H": 3, "L": 4}
    entries = [struct.pack(order + "HHL", 0x0100, 4, 1) + struct.pack(order + "L", 7),
               struct.pack(order + "HHL", 0x0112, types[kind], count) + value,
               struct.pack(order + "HHL", 0x0128, 3, 1) + struct.pack(order + "HH", 2, 0)]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "L", 8)
    return prefix + head + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def oriented():
    image = picture(3)
    photo = saved(Image.fromarray(image.astype(np.uint8)), "JPEG", quality=90)
    profile = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    for order in "<>":
        for orientation in range(10):
            for kind in "HL":
                block = exif(orientation, order, kind)
                name = f"EXIF {orientation}, {'II' if order == '<' else 'MM'}, " + {"H": "short", "L": "long"}[kind]
                yield f"JPEG {name}", changed(photo, first=profile + segment(0xE1, b"Exif\0\0" + block))
                yield f"PNG {name}", png(image, 8, RGB, before=((b"eXIf", block),))
            block = exif(orientation, order)
            name = f"EXIF {orientation}, " + ("II" if order == "<" else "MM")
            yield f"PNG {name} behind the pixels", png(image, 8, RGB, after=((b"eXIf", block),))
            for size in range(10, len(block), 7):  # what PIL finds before the end of a block that is cut off, counts
                yield (f"JPEG {name} cut off", changed(photo, first=segment(0xE1, b"Exif\0\0" + block[:size])))


# ---- comparison

def read(folder, files, *options):
    """What the tool makes of each: pixels, or its message."""
    paths = []
    for i, data in enumerate(files):
        paths.append(folder / f"{i}.image")
        paths[-1].write_bytes(data)
    done = subprocess.run([TOOL, *options, *map(str, paths)], capture_output=True, check=True)
    if done.stderr:
        sys.exit(f"the tool wrote: {done.stderr.decode()}")
    out, results = io.BytesIO(done.stdout), []
    for _ in files:
        line = out.readline().decode().rstrip("\n")
        if line.startswith("error: "):
            results.append(line)
            continue
        height, width = map(int, line.split())
        results.append(np.frombuffer(out.read(3 * height * width), np.uint8).reshape(height, width, 3).astype(int))
    return results


def compare(kinds, found, table, bound):
    wrong = []
    for (kind, _, expected), pixels in zip(kinds, found):
        if isinstance(pixels, str):
            wrong.append(f"{kind}: {pixels}")
            continue
        same_size = pixels.shape == expected.shape
        difference = int(np.abs(pixels - expected).max()) if same_size else 255
        table[kind] = max(table.get(kind, 0), difference)
        if difference > bound:
            wrong.append(f"{kind}: {pixels.shape} differs by {difference} from {expected.shape}")
    return wrong


def main():
    warnings.simplefilter("ignore")
    table, wrong = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kinds = list(pngs()) + [(kind, data, None) for kind, data in jpegs(folder)]
        for i, (kind, data, expected) in enumerate(kinds):
            if expected is None:
                expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
            kinds[i] = (kind, data, expected)
        files = [data for _, data, _ in kinds]
        wrong += compare(kinds, read(folder, files), table, bound=1)

        turned = []
        for kind, data in oriented():
            image = Image.open(io.BytesIO(data))
            try:
                image = ImageOps.exif_transpose(image)
            except (SyntaxError, struct.error):  # PIL's, of a block that ends early
                pass
            turned.append((kind, data, np.asarray(image.convert("RGB")).astype(int)))
        wrong += compare(turned, read(folder, [data for _, data, _ in turned]), table, bound=0)
        stored = [(f"{kind}, as stored", data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int))
                  for kind, data in oriented()]
        wrong += compare(stored, read(folder, [data for _, data, _ in stored], "--as-stored"), table, bound=0)

        cut, names = [], []
        for kind, data, _ in kinds:
            if kind == "JPEG with bytes behind its end":
                continue
            for size in {0, 1, 2, 8, len(data) * 2 // 5, len(data) // 2, len(data) * 4 // 5, len(data) - 2,
                         len(data) - 1}:
                cut.append(data[:size])
                names.append(f"{kind}, {size} of {len(data)} bytes")
        for kind, result in zip(names, read(folder, cut)):
            if not isinstance(result, str):
                wrong.append(f"{kind}: was read, but is cut off")
    print(f"Largest difference from PIL {PIL.__version__}, of 255:")
    for kind, difference in table.items():
        print(f"  {difference:3d}  {kind}")
    print(f"{len(table)} kinds; {len(cut)} files that are cut off are all refused" if not wrong else "\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
