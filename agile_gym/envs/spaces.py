"""Spaces of texts and images, and rendering of frames as arrays, texts and windows."""

from __future__ import annotations

import copy
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import cv2
import numpy as np
from gymnasium.spaces import Box, Dict, Text
from gymnasium.spaces import utils as space_utils
from gymnasium.vector.utils import batch_space, read_from_shared_memory
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect
from agile_gym.actions.primitives import Answer, Crop, Observe, Primitive, Swap, Zoom
from agile_gym.actions.workspace import Workspace
from agile_gym.puzzle.pixels import resize

__all__ = [
    "ActionText",
    "CanvasPool",
    "ImageBox",
    "UnicodeText",
    "ansi_text",
    "close_window",
    "observation_space",
    "render_text",
    "show",
]

_ANSWERS = ("A", "B", "C", "D", "yes", "no", "1", "2", "3")
_KEPT = 2
"""Canvases kept: while one is drawn, the caller usually still holds the one before."""


class CanvasPool:
    """Pool of uint8 arrays of one shape.

    An array that was handed out is handed out again only when nothing outside the pool refers to it or to a view of it;
    so an observation that is kept stays unchanged. Copies and pickles of a pool begin empty.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Make an empty pool.

        Args:
            shape: Shape of every array.
        """
        self._shape = shape
        self._kept: list[NDArray[np.uint8]] = []

    def take(self) -> NDArray[np.uint8]:
        """Return an array with arbitrary contents to which nothing else refers."""
        for index in range(len(self._kept)):
            if self._references(index) == _UNSHARED:
                return self._kept[index]
        canvas = np.empty(self._shape, np.uint8)
        self._kept = [*self._kept[-(_KEPT - 1) :], canvas]
        return canvas

    def _references(self, index: int) -> int:
        return sys.getrefcount(self._kept[index])

    def _probe(self) -> int:
        """Return the result of `_references` for an array that only the pool holds, on this version of Python."""
        self._kept = [np.empty(1, np.uint8)]
        return self._references(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> CanvasPool:
        """Return an empty pool."""
        return CanvasPool(self._shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the shape only."""
        return CanvasPool, (self._shape,)


_UNSHARED = CanvasPool((1,))._probe()  # pyright: ignore[reportPrivateUsage] -- its own class


class ImageBox(Box):
    """All uint8 images of one shape: ``Box(0, 255, shape, uint8)`` without its four arrays of bounds.

    A `gymnasium.spaces.Box` keeps its bounds for each element, which is four times the memory of an image; here they
    are views of a single number.
    """

    def __init__(self, shape: tuple[int, ...], *, seed: int | np.random.Generator | None = None) -> None:
        """Make the space.

        Args:
            shape: Shape of the images, such as (H, W, 3) or (num_envs, H, W, 3).
            seed: Seed of `sample`.
        """
        super().__init__(0, 255, (1,) * len(shape), np.uint8, seed=seed)
        self._shape = tuple(shape)
        self._view_bounds()

    def _view_bounds(self) -> None:
        self.low = np.broadcast_to(np.uint8(0), self._shape)
        self.high = np.broadcast_to(np.uint8(255), self._shape)
        self.bounded_below = self.bounded_above = np.broadcast_to(np.True_, self._shape)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the bounds, which a copy would write out in full."""
        bounds = ("low", "high", "bounded_below", "bounded_above")
        return {key: value for key, value in self.__dict__.items() if key not in bounds}

    def __setstate__(self, state: Iterable[tuple[str, Any]] | Mapping[str, Any]) -> None:
        """Restore a pickle or copy."""
        self.__dict__.update(state)
        self._view_bounds()


@batch_space.register(ImageBox)
def _(space: ImageBox, n: int = 1) -> ImageBox:
    return ImageBox((n, *space.shape), seed=copy.deepcopy(space.np_random))


class UnicodeText(Text):
    """All strings up to a length, whatever their characters.

    `gymnasium.spaces.Text` has a fixed set of characters, which no model keeps to. `sample` draws from Gymnasium's
    set, which is a part of the space.
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        """Make the space.

        Args:
            max_length: Largest number of characters.
            seed: Seed of `sample`.
        """
        super().__init__(max_length, min_length=0, seed=seed)

    def contains(self, x: Any) -> bool:  # noqa: ANN401 -- Gymnasium's signature
        """Return whether ``x`` is a string of at most ``max_length`` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        """Return the expression that makes the space."""
        return f"{type(self).__name__}({self.max_length})"


def observation_space(canvas: tuple[int, int], max_text: int) -> Dict:
    """Return the space of observations with a canvas of a height and width and at most so many characters of text."""
    image, sizes = ImageBox((*canvas, 3)), Box(0, max(canvas), (2,), np.int64)
    return Dict({"image": image, "image_size": sizes, "text": UnicodeText(max_text)})


class ActionText(UnicodeText):
    """All turns that a model can write; `sample` draws turns that the environment can carry out.

    A sampled turn swaps, observes, crops, zooms or answers, at random, written in the environment's dialect; where
    there is no board, it crops, zooms or answers with a letter, a number, yes or no.
    """

    def __init__(
        self,
        max_length: int,
        dialect: Dialect,
        make_workspace: Callable[[], Workspace],
        *,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Make the space.

        Args:
            max_length: Largest number of characters.
            dialect: Dialect of the turns.
            make_workspace: Makes a workspace at the start of an episode, whose pieces and images can be named.
            seed: Seed of `sample`.
        """
        super().__init__(max_length, seed=seed)
        self.dialect = dialect
        self._workspace = make_workspace()

    def sample(self, mask: None = None, probability: None = None) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] -- no masks
        """Draw a turn: half of those with a board swap and observe, the others observe, crop, zoom or answer.

        Args:
            mask: Not supported.
            probability: Not supported.

        Returns:
            The text of a turn.

        Raises:
            ValueError: If a mask or a probability is given.
        """
        if mask is not None or probability is not None:
            raise ValueError("This space samples whole turns; it takes neither a mask nor a probability.")
        rng = self.np_random
        names = self._workspace.names
        count = len(names)
        piece = names[int(rng.integers(count))]
        left, top = rng.uniform(0, 0.5, 2).round(2).tolist()
        look = Crop(piece, (left, top, left + 0.5, top + 0.5))
        if not self._workspace.board:
            zoomed = Zoom(piece, round(float(rng.uniform(0.5, 1.0)), 2))
            answer = Answer((), text=_ANSWERS[int(rng.integers(len(_ANSWERS)))])
            turns: list[Primitive] = [look, look, zoomed, answer]
            return self.dialect.write([turns[int(rng.integers(len(turns)))]], self._workspace, "A random turn.")
        shuffled: list[int] = rng.permutation(count).tolist()
        first, second = sorted(shuffled[:2])
        choices: list[list[Primitive]] = [
            [Swap(first, second), Observe()],
            [Swap(first, second), Observe()],
            [Swap(first, second), Observe()],
            [Observe()],
            [look],
            [Zoom(piece, round(float(rng.uniform(0.5, 1.0)), 2))],
            [Answer(tuple(names[place] for place in shuffled), self._answer_turns())],
        ]
        chosen = choices[int(rng.integers(len(choices)))]
        return self.dialect.write(chosen, self._workspace, "A random turn.")

    def _answer_turns(self) -> tuple[int, ...] | None:
        if not self._workspace.rotations:
            return None
        return tuple((self.np_random.integers(4, size=len(self._workspace.names)) * 90).tolist())

    def __eq__(self, other: object) -> bool:
        """Return whether another space holds the same strings and samples alike."""
        return (
            isinstance(other, ActionText)
            and self.max_length == other.max_length
            and self.dialect.name == other.dialect.name
            and self._workspace.names == other._workspace.names
        )

    __hash__ = None


# Gymnasium keeps strings in shared memory as indices into a space's characters; here they are code points.


@space_utils.flatten.register(UnicodeText)
def _(space: UnicodeText, x: str) -> NDArray[np.int32]:
    codes = np.full(space.max_length, -1, np.int32)
    codes[: len(x)] = [ord(character) for character in x]
    return codes


@space_utils.unflatten.register(UnicodeText)
def _(space: UnicodeText, x: NDArray[np.int32]) -> str:
    return _decode(x)


@space_utils.flatten_space.register(UnicodeText)  # pyright: ignore[reportUnknownMemberType] -- Gymnasium's types
def _(space: UnicodeText) -> Any:  # noqa: ANN401 -- Gymnasium's signature
    return Box(-1, 0x10FFFF, (space.max_length,), np.int32)


class _SharedTexts(Sequence[str]):
    """The texts that worker processes have written, read on access.

    Gymnasium reads a space's shared memory only once, which is enough for arrays, as these are views; a copy of this
    object, such as `AsyncVectorEnv` makes at each step, is a tuple of the texts as they are then.
    """

    def __init__(self, codes: NDArray[np.int32]) -> None:
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        rows = self._codes[index]
        return _decode(rows) if isinstance(index, int) else tuple(map(_decode, rows))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


def _decode(codes: NDArray[np.int32]) -> str:
    return "".join(map(chr, codes[codes >= 0].tolist()))


@read_from_shared_memory.register(UnicodeText)
def _(space: UnicodeText, shared_memory: Any, n: int = 1) -> Any:  # noqa: ANN401 -- Gymnasium's signature
    return _SharedTexts(np.frombuffer(shared_memory.get_obj(), np.int32).reshape(n, space.max_length))


def ansi_text(image: NDArray[np.uint8], columns: int = 72) -> str:
    """Draw an image with 24-bit colour escapes, two pixels a character (an upper half block).

    Args:
        image: (H, W, 3) uint8.
        columns: Width in characters; the image is scaled to it, or kept if it is narrower.

    Returns:
        Lines of text, each ended by a reset of the colours and a line break.
    """
    height, width = image.shape[:2]
    columns = min(columns, width)
    rows = max(round(height * columns / width / 2), 1)
    small = resize(image, 2 * rows, columns)
    lines: list[str] = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        cells = [
            f"\x1b[38;2;{u[0]};{u[1]};{u[2]}m\x1b[48;2;{d[0]};{d[1]};{d[2]}m\u2580"
            for u, d in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def render_text(canvas: NDArray[np.uint8], size: Sequence[int] | NDArray[np.int64], text: str) -> str:
    """Draw an observation as coloured text.

    Args:
        canvas: (H, W, 3) uint8, with the image at its top left.
        size: Height and width of the image, in pixels; (0, 0) if there is none.
        text: The text of the observation.

    Returns:
        The image, if there is one, and the text below it.
    """
    height, width = size
    return f"{ansi_text(canvas[:height, :width]) if height and width else ''}{text}\n"


def show(title: str, image: NDArray[np.uint8], text: str) -> None:
    """Show an image to a person: in a window where there is a screen, else as coloured text on the terminal.

    Args:
        title: Title of the window.
        image: (H, W, 3) uint8, RGB.
        text: Text below the picture on a terminal.
    """
    if _has_screen():
        try:
            cv2.imshow(title, np.ascontiguousarray(image[..., ::-1]))
            cv2.waitKey(1)
            return
        except cv2.error:  # a build of OpenCV without windows
            pass
    print(f"{ansi_text(image)}{text}", flush=True)


def close_window(title: str) -> None:
    """Close a window if it is open."""
    if not _has_screen():
        return
    try:
        cv2.destroyWindow(title)
    except cv2.error:  # it was never opened, or this build of OpenCV has no windows
        return


def _has_screen() -> bool:
    """Return whether windows can be opened: OpenCV ends the whole process where that fails."""
    if not sys.platform.startswith("linux"):
        return True
    match = re.fullmatch(r"([^:]*):(\d+)(?:\.\d+)?", os.environ.get("DISPLAY", ""))
    if match is None:
        return False
    host, number = match[1], int(match[2])
    local = host in ("", "unix")
    kind = socket.AF_UNIX if local else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(f"/tmp/.X11-unix/X{number}" if local else (host, 6000 + number))
        except OSError:
            return False
    return True
