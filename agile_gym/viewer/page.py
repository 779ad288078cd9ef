"""Writes episodes as one HTML page that needs nothing else: no network, no server, no other file.

The page holds its data in blocks of JSON, which browsers do not run, and a policy (Content-Security-Policy) that allows
its own scripts and styles, by their hash, and no connection to anywhere. It opens with the index of all episodes only;
an episode's block is read when it is opened. Scripts insert all text as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Collection, Iterable
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, NamedTuple

from agile_gym.errors import ConfigurationError
from agile_gym.rollout.files import write_text
from agile_gym.rollout.owned import check_replaceable, is_generated
from agile_gym.rollout.transcript import Image, Transcript
from agile_gym.viewer.boards import puzzle_of
from agile_gym.viewer.pictures import PictureStore
from agile_gym.viewer.record import episode_record, index_row, segment_record

__all__ = ["SCRIPTS", "STYLES", "PageInfo", "json_text", "write_page"]

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
    folder = files("agile_gym.viewer")
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
