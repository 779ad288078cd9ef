"""Episodes as one HTML page that needs nothing else: no network, no server, no other file.

The page holds its data in blocks of JSON, which browsers do not run, and a policy (Content-Security-Policy) that allows
its own scripts and styles, by their hash, and no connection to anywhere. It opens with the index of all episodes only;
an episode's block is read when it is opened. Scripts insert all text as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Collection, Iterable
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import features

from agile_gym.errors import ConfigurationError
from agile_gym.files import write_text
from agile_gym.outputs import check_replaceable, is_generated
from agile_gym.reporting.boards import puzzle_of
from agile_gym.reporting.record import episode_record, index_row, segment_record
from agile_gym.transcripts.record import Image, Transcript

__all__ = ["SCRIPTS", "STYLES", "PageInfo", "PictureStore", "StoredPicture", "json_text", "shrink", "write_page"]

StoredPicture = tuple[int, int, str]
"""Width and height of the original in pixels, and the file as a base64 text."""


class PictureStore:
    """Numbers images by their content, and encodes each when it is first seen.

    Attributes:
        mime: The type of the files.
        count: How many images there are.
    """

    def __init__(self, quality: int) -> None:
        """Make a store.

        Args:
            quality: Quality of the compression, 1 to 100.
        """
        self._quality = quality
        self._format = "WEBP" if features.check("webp") else "JPEG"
        self.mime = f"image/{self._format.lower()}"
        self._numbers: dict[bytes, int] = {}
        self._new: list[StoredPicture] = []

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self._numbers)

    def add(self, image: Image, max_side: int) -> int:
        """Return the number of an image, from 0 in the order in which they are first seen.

        Args:
            image: (h, w, 3) uint8.
            max_side: Largest side, in pixels, to which a new image is scaled down.
        """
        content = np.ascontiguousarray(image)
        key = hashlib.blake2b(content.data, digest_size=16, key=repr(content.shape).encode()).digest()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._new.append(self._encode(content, max_side))
        return number

    def take_new(self) -> tuple[int, list[StoredPicture]]:
        """Return the number of the first image since the last call, and these images, and forget their files."""
        new, self._new = self._new, []
        return self.count - len(new), new

    def _encode(self, image: Image, max_side: int) -> StoredPicture:
        height, width = image.shape[:2]
        file = io.BytesIO()
        options = {"method": 2} if self._format == "WEBP" else {"optimize": True}
        shrink(PILImage.fromarray(image), max_side).save(file, self._format, quality=self._quality, **options)
        return width, height, base64.b64encode(file.getvalue()).decode("ascii")


def shrink(image: PILImage.Image, max_side: int) -> PILImage.Image:
    """Scale an image down so that its longer side is at most ``max_side``; smaller ones stay as they are."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, PILImage.Resampling.LANCZOS, reducing_gap=2.0)


STYLES = ("base.css", "list.css", "episode.css", "turn.css", "narrow.css")
"""The style sheets of the page, in their order."""
SCRIPTS = ("dom.js", "data.js", "board.js", "turn.js", "tokens.js", "episode.js", "overview.js", "list.js", "main.js")
"""The scripts of the page, in the order in which they run."""
BOARD_SIDES = 2
"""How many times the largest side of an image a board may have."""
_POLICY = (
    "default-src 'none'; img-src data:; style-src {styles}; script-src {scripts}; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


class PageInfo(NamedTuple):
    """What was written.

    Attributes:
        episodes: Number of episodes.
        images: Number of images, each stored once.
        size: Bytes of the file.
    """

    episodes: int
    images: int
    size: int


def write_page(
    transcripts: Iterable[Transcript],
    path: str | Path,
    *,
    title: str = "Episodes",
    max_side: int = 224,
    quality: int = 75,
    decode: Callable[[int], str] | None = None,
    image_tokens: Collection[int] = (),
) -> PageInfo:
    """Write episodes as a self-contained HTML page.

    Episodes are taken one by one and written at once; of each, about a kilobyte is kept in memory until the end.

    Args:
        transcripts: The episodes, each with an id of its own.
        path: The file; it is replaced only when the page is complete.
        title: Title of the page, such as the name of the run.
        max_side: Images are scaled down to this side, and boards to twice of it, 16 to 4096 pixels.
        quality: Quality of their compression, 1 to 100.
        decode: Returns the text of a token, for the token strip; without it, tokens are shown by their ids.
        image_tokens: Ids of the tokens that stand for images, which the token strip counts instead of listing them.
            Without it, four or more equal tokens in a row that the model did not write are taken for such.

    Returns:
        What was written.

    Raises:
        ConfigurationError: If there is no episode, two have the same id, one has no puzzle, an option is not allowed,
            or the file cannot be written there.
    """
    target = Path(path)
    if not 16 <= max_side <= 4096 or not 1 <= quality <= 100:
        raise ConfigurationError(
            f"max_side={max_side!r}, quality={quality!r} is not allowed; give 16 to 4096 pixels, and a quality of 1 to "
            "100."
        )
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigurationError(
            f"The page cannot be written to {target}; give the name of a file in a folder that exists."
        )
    check_replaceable(target, is_generated, "a page of agile-gym view")
    before, after = _template(title)
    with write_text(target) as file:
        file.write(before)
        episodes, images = _write_data(transcripts, file, max_side, quality, decode, image_tokens)
        file.write(after)
    return PageInfo(episodes, images, target.stat().st_size)


def _write_data(
    transcripts: Iterable[Transcript],
    file: IO[str],
    max_side: int,
    quality: int,
    decode: Callable[[int], str] | None,
    image_tokens: Collection[int],
) -> tuple[int, int]:
    store = PictureStore(quality)
    index: dict[str, dict[str, Any]] = {}
    tokens: set[int] = set()
    for transcript in transcripts:
        if transcript.id in index:
            raise ConfigurationError(
                f"Two episodes have the id {transcript.id!r}; a page needs an id for each of its own."
            )
        puzzle = puzzle_of(transcript)
        piece_side = min(max(BOARD_SIDES * max_side // max(puzzle.rows, puzzle.cols), 8), max_side)

        def add_image(image: Image, is_piece: bool, limit: int = piece_side) -> int:
            return store.add(image, limit if is_piece else max_side)

        record = episode_record(transcript, puzzle, add_image)
        first, pictures = store.take_new()
        if pictures:
            _write_block(file, "images", pictures, first=first)
        _write_block(file, "episode", record)
        if transcript.segments:
            _write_block(
                file, "tokens", [segment_record(segment) for segment in transcript.segments], episode=len(index)
            )
            tokens.update(*(segment.ids.tolist() for segment in transcript.segments))
        index[transcript.id] = index_row(transcript)
    if not index:
        raise ConfigurationError("There is no episode to show; a page needs at least one.")
    texts = {} if decode is None else {token: decode(token) for token in sorted(tokens)}
    _write_block(file, "vocabulary", {"texts": texts, "image_tokens": sorted(tokens.intersection(image_tokens))})
    _write_block(file, "index", {"mime": store.mime, "rows": list(index.values())})
    return len(index), store.count


def json_text(value: object) -> str:
    """Return JSON that can stand in a script element: ASCII only, and no ``<``, so that no tag can begin in it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")


def _write_block(file: IO[str], kind: str, value: object, **numbers: int) -> None:
    attributes = "".join(f' data-{name}="{number}"' for name, number in numbers.items())
    file.write(f'<script type="application/json" data-kind="{kind}"{attributes}>{json_text(value)}</script>\n')


def _template(title: str) -> tuple[str, str]:
    """Return the page before and after its data, with styles, scripts and the policy that allows them."""
    folder = files("agile_gym.reporting")
    style = "\n".join(folder.joinpath(name).read_text(encoding="ascii") for name in STYLES)
    scripts = [folder.joinpath(name).read_text(encoding="ascii") for name in SCRIPTS]
    policy = _POLICY.format(styles=_source_hash(style), scripts=" ".join(map(_source_hash, scripts)))
    before, mark, after = folder.joinpath("page.html").read_text(encoding="ascii").partition("<!-- data -->\n")
    if not mark:
        raise RuntimeError("page.html has no place for the data.")
    name = html.escape(title).encode("ascii", "xmlcharrefreplace").decode("ascii")
    before = before.replace("{policy}", policy).replace("{style}", style).replace("{title}", name)
    return before, after.replace("{scripts}", "\n".join(f"<script>{script}</script>" for script in scripts))


def _source_hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
