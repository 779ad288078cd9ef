"""Free puzzles for the tiny model's training: drawn as the environment draws them, with the ids that belong to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.actions import Answer
from agile_gym.actions.dialects import write_answer
from agile_gym.envs.config import JigsawConfig, resolve
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.starting import check_reset_options, draw_start
from agile_gym.errors import ConfigurationError
from agile_gym.images import ImageSource, open_images
from agile_gym.policies.tiny.build import PIECE
from agile_gym.policies.tiny.words import IMAGE
from agile_gym.puzzle.board import parse_grid, piece_names
from agile_gym.puzzle.photo import resize
from agile_gym.puzzle.render import compose_into

__all__ = [
    "Lesson",
    "PuzzleBatch",
    "PuzzleDrawer",
    "puzzle_config",
    "random_state",
    "set_random_state",
    "training_images",
]

SHORT_SIDE = 256
"""Photographs are shrunk to this before windows are cut from them, in pixels: much faster, and it hardly shows."""
_SCRAMBLED, _EXCHANGED = 0.5, 0.75
MAX_PIECES = 26
"""Names beyond Z are more than one token, so that answers would differ in length."""


@dataclass(frozen=True)
class PuzzleBatch:
    """Some puzzles of one grid.

    Attributes:
        pieces: (N, P, 32, 32, 3) uint8, the pieces in the order of their names.
        home: (N, P) int64, the place where each piece belongs.
    """

    pieces: NDArray[np.uint8]
    home: NDArray[np.int64]

    @property
    def solution(self) -> NDArray[np.int64]:
        """(N, P) int64, the piece that belongs at each place."""
        return np.argsort(self.home, axis=1)

    def first(self, count: int) -> PuzzleBatch:
        """Return the first puzzles of the batch."""
        return PuzzleBatch(self.pieces[:count], self.home[:count])


def training_images(images: ImageSource) -> ImageSource:
    """Return photographs as the training cuts its puzzles from them: small, and each also mirrored.

    Args:
        images: The photographs. They stay in memory, shrunk to 256 pixels on the short side.

    Returns:
        Twice as many images.
    """
    small: list[NDArray[np.uint8]] = []
    for index in range(len(images)):
        photo = images.load(index)
        scale = SHORT_SIDE / min(photo.shape[:2])
        if scale < 1:
            photo = resize(photo, round(photo.shape[0] * scale), round(photo.shape[1] * scale))
        small += [photo, np.ascontiguousarray(photo[:, ::-1])]
    return open_images(small)


def puzzle_config(grid: tuple[int, int]) -> JigsawConfig:
    """Return the options of the environment for the tiny model: pieces of 32 x 32 pixels and the short prompt.

    Raises:
        ConfigurationError: If the grid is none, or has more than 26 pieces.
    """
    rows, cols = parse_grid(grid)
    if rows * cols > MAX_PIECES:
        raise ConfigurationError(f"grid={grid!r} has more than {MAX_PIECES} pieces, and the tiny model names no more.")
    return JigsawConfig(grid=grid, level=None, image_size=(rows * PIECE, cols * PIECE), crop="random", prompt="short")


class PuzzleDrawer:
    """Draws puzzles as `JigsawVisionEnv` does: any unsolved permutation, of a random part of a random photograph."""

    def __init__(self, images: ImageSource, grid: tuple[int, int], seed: int | Sequence[int]) -> None:
        """Prepare.

        Args:
            images: The photographs to cut puzzles from.
            grid: Rows and columns, at most 26 pieces.
            seed: Seed of all draws.

        Raises:
            ConfigurationError: If there are more than 26 pieces.
        """
        self._rules = resolve(puzzle_config(grid))
        self._images = images
        self._options = check_reset_options(self._rules, images, None)
        self._rng = np.random.default_rng(seed)

    def get_state(self) -> str:
        """Return where the draws are."""
        return random_state(self._rng)

    def set_state(self, state: str) -> None:
        """Go on with the draws from where others were."""
        set_random_state(self._rng, state)

    def draw(self, count: int) -> PuzzleBatch:
        """Draw some puzzles."""
        starts = [draw_start(self._rules, self._images, self._rng, self._options) for _ in range(count)]
        home = np.array([start.puzzle.home for start in starts], np.int64)
        return PuzzleBatch(np.stack([start.pieces for start in starts]), home)

    def boards(self, batch: PuzzleBatch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Lay the pieces of each puzzle out as a board, as an observation shows it and the model sees it.

        Half of the boards are in any order; of the others, a half is right, and a half has two pieces exchanged.

        Args:
            batch: The puzzles.

        Returns:
            (N, 32, 32, 3) uint8, and (N, P) int64: for each place of the board the place where its piece belongs.
        """
        layout = self._rules.layout_for((PIECE, PIECE))
        count, pieces = batch.home.shape
        arranged = np.tile(np.arange(pieces, dtype=np.int64), (count, 1))
        images = np.empty((count, PIECE, PIECE, 3), np.uint8)
        board = np.empty((layout.height, layout.width, 3), np.uint8)
        for row, shown, solution, image in zip(arranged, batch.pieces, batch.solution, images, strict=True):
            kind = self._rng.random()
            if kind < _SCRAMBLED:
                self._rng.shuffle(row)
            elif kind < _EXCHANGED:
                places = self._rng.permutation(pieces)[:2]
                row[places] = row[places[::-1]]
            compose_into(board, shown, layout, solution[row].tolist())
            image[:] = np.asarray(Image.fromarray(board).resize((PIECE, PIECE), Image.Resampling.BICUBIC))
        return images, arranged


class Lesson:
    """The conversation of a puzzle that is answered at once: the ids are those of processor and chat template.

    Attributes:
        names: Names of the pieces.
        prompt: (T,) int64, the ids up to where the model begins to write.
        images: (P,) int64, where in it the images are.
        words: (V,) int64, the ids that a thought can be made of: all but special ones.
        thought: Where in an answer's ids a thought would begin.
    """

    def __init__(self, processor: Any, grid: tuple[int, int], turns: int) -> None:  # noqa: ANN401 -- untyped
        """Prepare the conversation.

        Args:
            processor: The tiny model's processor.
            grid: Rows and columns.
            turns: Turns that the first text speaks of.
        """
        config = puzzle_config(grid)
        blank = np.full((grid[0] * PIECE, grid[1] * PIECE, 3), 127, np.uint8)
        plain = replace(config, images=[blank], equal_pieces="names", max_turns=turns)
        observation, _ = JigsawVisionEnv(**vars(plain)).reset(seed=0)
        content: list[dict[str, str]] = []
        for text in observation["text"].split(IMAGE):
            content += [{"type": "text", "text": text}, {"type": "image"}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content[:-1]}], add_generation_prompt=True, tokenize=False
        )
        self._tokenizer = processor.tokenizer
        self.names = piece_names(grid[0] * grid[1])
        self.prompt = np.array(self._tokenizer.encode(text, add_special_tokens=False), np.int64)
        self.images = np.flatnonzero(self.prompt == processor.image_token_id)
        special = {*self._tokenizer.all_special_ids, processor.image_token_id}
        self.words = np.array([word for word in range(len(self._tokenizer)) if word not in special], np.int64)
        opening: list[int] = self._tokenizer.encode("<think>", add_special_tokens=False)
        self.thought = len(opening)

    def answers(self, solutions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids (N, A) of the turns that give some solutions (N, P), the token that ends the turn included.

        Their thoughts are empty.
        """
        orders: list[list[int]] = solutions.tolist()
        texts = [write_answer(Answer(tuple([self.names[piece] for piece in order]))) for order in orders]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return np.array([[*row, self._tokenizer.eos_token_id] for row in ids], np.int64)


def random_state(rng: np.random.Generator) -> str:
    """Return the state of a generator as JSON."""
    return json.dumps(rng.bit_generator.state)


def set_random_state(rng: np.random.Generator, state: str) -> None:
    """Set the state of a generator, as `random_state` gives it."""
    rng.bit_generator.state = json.loads(state)
