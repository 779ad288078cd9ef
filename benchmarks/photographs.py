"""Make the built-in photographs from their originals: scale, compress and annotate them.

Usage: python benchmarks/photographs.py ORIGINALS MANIFEST [--output FOLDER]

``MANIFEST`` is a TOML file with a table ``[[photograph]]`` for each photograph: ``file`` (``train/NAME.jpg`` or
``test/NAME.jpg``), ``title``, ``author``, ``source``, ``copy`` (where the original was taken from), ``licence`` and
``licence_url``. That of the photographs that ship is ``agile_gym/images/photographs/ATTRIBUTION.toml``. The originals
are ``ORIGINALS/NAME.*``. Written to ``FOLDER`` (default: that of the manifest) are the files, and the manifest with
their ``changes`` as ``ATTRIBUTION.toml``.

The files are JPEG without subsampled colours, which decoders turn into the same pixels: Pillow 10.1 and 13.0 (with
libjpeg-turbo 3.0 and 3.2) and OpenCV 4.8 and 5.0 do, with the processor's vector instructions and without. A comment
in each names its author and licence, and ends with a number. It is chosen so that the hash of the content, which
decides the split (`agile_gym.images.split_of`), begins with 000 in ``test`` and with fff in ``train``: the split is
that of the folder for every ``test_fraction`` between 0.0003 and 0.9997.
"""

import argparse
import hashlib
import io
import json
import tomllib
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, ImageOps

SHORT_SIDE = 240
"""Pixels of the shorter side at most; smaller originals keep their size."""
QUALITY = 85
BEGINNINGS = {"train": "fff", "test": "000"}
"""First digits of the hash of a file's content."""
KEYS = ("file", "title", "author", "source", "copy", "licence", "licence_url")
MARKER = b"\xff\xfe"
"""Begins a comment in a JPEG file."""


def load(path: Path) -> Image.Image:
    """Return a picture upright, in sRGB."""
    with Image.open(path) as opened:
        profile = opened.info.get("icc_profile")
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    if profile:
        srgb = ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb)
        assert picture is not None
    return picture


def scale(picture: Image.Image) -> Image.Image:
    """Return a picture whose shorter side has `SHORT_SIDE` pixels at most."""
    factor = min(1.0, SHORT_SIDE / min(picture.size))
    if factor == 1.0:
        return picture
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)


def encode(picture: Image.Image, comment: str, beginning: str) -> bytes:
    """Return a picture as JPEG, with a comment and a number that make its hash begin with some digits."""
    stream = io.BytesIO()
    bare = Image.frombytes("RGB", picture.size, picture.tobytes())  # without metadata
    bare.save(stream, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    data = stream.getvalue()
    end = 4 + int.from_bytes(data[4:6], "big")  # of the first segment, which begins behind two bytes
    for number in count():
        text = f"{comment} #{number}".encode()
        result = data[:end] + MARKER + (len(text) + 2).to_bytes(2, "big") + text + data[end:]
        if hashlib.sha256(result).hexdigest().startswith(beginning):
            return result
    raise AssertionError


def make(entry: dict[str, Any], originals: Path, output: Path) -> dict[str, Any]:
    """Write a photograph, and return its entry of the manifest."""
    target = output / entry["file"]
    (original,) = originals.glob(f"{target.stem}.*")
    before = load(original)
    after = scale(before)
    changes = f"{after.width} x {after.height} pixels, compressed as JPEG"
    if after.size != before.size:
        changes = f"scaled from {before.width} x {before.height} to {changes}"
    comment = "; ".join(entry[key] for key in ("title", "author", "source", "licence", "licence_url"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode(after, comment, BEGINNINGS[target.parent.name]))
    return {key: entry[key] for key in KEYS} | {"changes": changes}


def main() -> None:
    """Make all photographs of a manifest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("originals", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    output = options.output or options.manifest.parent
    text = options.manifest.read_text(encoding="utf-8")
    entries = sorted(tomllib.loads(text)["photograph"], key=lambda entry: entry["file"])
    made = [make(entry, options.originals, output) for entry in entries]
    lines = [line for line in text.partition("[[")[0].splitlines() if line]  # the comment that it begins with
    for entry in made:
        lines += ["", "[[photograph]]"]
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    (output / "ATTRIBUTION.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(made)} photographs, {sum((output / entry['file']).stat().st_size for entry in made):,} bytes")


if __name__ == "__main__":
    main()
