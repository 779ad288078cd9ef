"""Self-contained pages, and episodes as such a page or as parts of another.

No network, no server, no other file: templates escape what they are given, and a policy (Content-Security-Policy)
allows a page its own scripts and styles, by their hash, and no connection to anywhere. Scripts insert all text as text.
A page of episodes holds its data in blocks of JSON, which browsers do not run. It opens with the index of all episodes
only; a block of an episode is read when it is opened.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image as PILImage
from PIL import features

from agile_gym.errors import ConfigurationError
from agile_gym.files import write_text
from agile_gym.outputs import check_replaceable, is_generated
from agile_gym.reporting.charts import STAGE_TITLES, duration
from agile_gym.reporting.record import episode_record, index_row, puzzle_of, segment_record
from agile_gym.transcripts.behaviours import BEHAVIOURS
from agile_gym.transcripts.record import Image, Transcript

__all__ = [
    "BOARD",
    "SCRIPTS",
    "STYLES",
    "Block",
    "EpisodeBlocks",
    "PageInfo",
    "PictureStore",
    "shrink",
    "write_html",
    "write_page",
]

_FOLDER = files("agile_gym.reporting")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def write_html(path: Path, template: str, styles: Sequence[str], scripts: Sequence[str], **values: object) -> None:
    """Write a page from a template, as ASCII.

    Args:
        path: The file; it is replaced only when the page is complete.
        template: Name of the template, in the package.
        styles: Names of its style sheets, in their order.
        scripts: Names of its scripts, in the order in which they run.
        **values: Values for the template. Iterators are read as the page is written.
    """
    style = "\n".join(map(_source, styles))
    page = _environment().get_template(template).generate(
        style=Markup(style), scripts=[Markup(_source(name)) for name in scripts], **values
    )  # fmt: skip
    with write_text(path) as file:
        file.writelines(part.encode("ascii", "xmlcharrefreplace").decode("ascii") for part in page)


def _source(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="ascii")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_seen(lambda code: code),
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(_source),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "duration": duration,
        "readable": _seen(lambda code: f'<span class="unseen">{code}</span>'),
        "sha256": _sha256,
        "stage_title": _stage_title,
    }
    return environment


def _sha256(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _stage_title(stage: str) -> str:
    return STAGE_TITLES.get(stage, stage)


def _seen(shown: Callable[[str], str]) -> Callable[[Any], Any]:
    """Return a function that gives texts in which characters that are invisible, or reorder others, are numbers."""

    def replace(value: Any) -> Any:  # noqa: ANN401 -- any value of a template
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return Markup(_UNSEEN.sub(lambda found: shown(f"U+{ord(found[0]):04X}"), escape(value)))

    return replace


StoredPicture = tuple[int, int, str]
"""Width and height of the original in pixels, and the file as a base64 text."""


class PictureStore:
    """Store of images, numbered by their content, each encoded at its first use.

    Attributes:
        mime: The type of the files.
        count: Number of images.
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
        """Number of images."""
        return len(self._numbers)

    def add(self, image: Image, max_side: int) -> int:
        """Return the number of an image, from 0 in the order of their first use.

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
        """Return the number of the first image since the last call, and these images, and drop their files."""
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


BOARD = ("dom.js", "data.js", "board.js", "turn.js", "episode.js")
"""The scripts that show an episode, on any page whose blocks are those of `EpisodeBlocks`."""
STYLES = ("base.css", "list.css", "episode.css", "turn.css", "narrow.css")
"""The style sheets of the page, in their order."""
SCRIPTS = (*BOARD, "tokens.js", "overview.js", "list.js", "main.js")
"""The scripts of the page, in the order in which they run."""
BOARD_SIDES = 2
"""Largest side of a board, as a multiple of that of an image."""


class PageInfo(NamedTuple):
    """Counts of a page that was written.

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
        The counts.

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
    blocks = EpisodeBlocks(max_side, quality, decode, image_tokens)
    write_html(target, "page.html", STYLES, SCRIPTS, title=title, blocks=blocks.read(_with_ids(transcripts)))
    return PageInfo(len(blocks.rows), blocks.store.count, target.stat().st_size)


def _with_ids(transcripts: Iterable[Transcript]) -> Iterator[Transcript]:
    """Pass on transcripts that have ids of their own, at least one."""
    seen: set[str] = set()
    for transcript in transcripts:
        if transcript.id in seen:
            raise ConfigurationError(
                f"Two episodes have the id {transcript.id!r}; a page needs an id for each of its own."
            )
        seen.add(transcript.id)
        yield transcript
    if not seen:
        raise ConfigurationError("There is no episode to show; a page needs at least one.")


class Block(NamedTuple):
    """A block of JSON in a page.

    Attributes:
        kind: Kind of its value.
        value: The JSON value.
        numbers: Numbers that identify it, by name.
    """

    kind: str
    value: object
    numbers: Mapping[str, int] = MappingProxyType({})


class EpisodeBlocks:
    """Maker of the blocks that hold episodes; scripts read an episode's when it is shown.

    Attributes:
        rows: The index, one entry an episode.
        store: The images.
    """

    def __init__(
        self,
        max_side: int,
        quality: int,
        decode: Callable[[int], str] | None = None,
        image_tokens: Collection[int] = (),
    ) -> None:
        """Begin without episodes; see `write_page` for the arguments."""
        self.rows: list[dict[str, Any]] = []
        self.store = PictureStore(quality)
        self._max_side, self._decode, self._image_tokens = max_side, decode, image_tokens

    def read(self, transcripts: Iterable[Transcript]) -> Iterator[Block]:
        """Yield the blocks of episodes, and at last those that all share.

        Raises:
            ConfigurationError: If an episode has no puzzle.
        """
        tokens: set[int] = set()
        for transcript in transcripts:
            puzzle = puzzle_of(transcript)
            piece_side = min(max(BOARD_SIDES * self._max_side // max(puzzle.rows, puzzle.cols, 1), 8), self._max_side)

            def add_image(image: Image, is_piece: bool, limit: int = piece_side) -> int:
                return self.store.add(image, limit if is_piece else self._max_side)

            record = episode_record(transcript, puzzle, add_image)
            first, pictures = self.store.take_new()
            if pictures:
                yield Block("images", pictures, {"first": first})
            yield Block("episode", record)
            if transcript.segments:
                segments = [segment_record(segment) for segment in transcript.segments]
                yield Block("tokens", segments, {"episode": len(self.rows)})
                tokens.update(*(segment.ids.tolist() for segment in transcript.segments))
            self.rows.append(index_row(transcript))
        texts = {} if self._decode is None else {token: self._decode(token) for token in sorted(tokens)}
        image_tokens = sorted(tokens.intersection(self._image_tokens))
        yield Block("vocabulary", {"texts": texts, "image_tokens": image_tokens})
        yield Block("index", {"mime": self.store.mime, "behaviours": BEHAVIOURS, "rows": self.rows})
