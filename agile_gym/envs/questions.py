"""`QuestionEnv`: a benchmark's questions about images, each an episode of one turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import cv2
import gymnasium
import numpy as np
from numpy.typing import NDArray

from agile_gym.envs.contract import EpisodeDescription, make_info
from agile_gym.envs.spaces import UnicodeText, observation_space
from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.questions.judging import judge, rule_of, unwrap
from agile_gym.questions.opening import get_benchmark, open_questions
from agile_gym.questions.prompts import write_prompt
from agile_gym.questions.records import Question

__all__ = ["UNREADABLE", "QuestionEnv"]

CANVAS = 224
"""Side of an observation's canvas, which shows the first picture scaled down; ``info["images"]`` has them whole."""
UNREADABLE = "unreadable picture: "
"""Beginning of the label of an episode whose question is left out, since a picture cannot be decoded."""
MAX_REASON = 300
MAX_TEXT = 1_000_000
_LEFT_OUT = "A picture of this question cannot be read, so that it is not counted."
MAX_KEPT = 2000
"""Longest part of a reply that is kept in the description of the state, in characters."""


class QuestionEnv(gymnasium.Env[dict[str, Any], str]):
    """A question and its pictures at their own size; the reply is judged by the benchmark's rule, without a judge.

    ``reset`` asks the question of the number ``options["episode"]``, in the order of the file, or a random one.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 -- Gymnasium's
    max_turns = 1

    def __init__(
        self,
        benchmark: str,
        file: str,
        rule: str | None = None,
        *,
        unwrap: bool = False,
        questions: str | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        """Open a benchmark's file.

        Args:
            benchmark: Key of the benchmark, one of `agile_gym.questions.opening.BENCHMARKS`.
            file: A TSV, a Parquet file, or a folder of Parquet files.
            rule: Name of the rule for answers; the benchmark's default for None.
            unwrap: True to judge only the content of a reply's last answer tag, or what follows its thoughts.
            questions: Identity of the questions that are expected (`digest`), so that an evaluation goes on with no
                others; None for any.
            skip_unreadable: True for an episode without pictures, whose label begins with `UNREADABLE`, where a picture
                cannot be decoded, instead of an `ImageError`. It must not be counted.

        Raises:
            ConfigurationError: If the benchmark or the rule is not known, the file cannot be read, or holds others.
            MissingDependencyError: If pyarrow is needed and not installed.
        """
        get_benchmark(benchmark)
        self.rule = rule_of(benchmark, rule)
        opened = open_questions(Path(file), benchmark)
        if questions is not None and questions != opened.digest:
            raise ConfigurationError(
                f"{file} holds other questions or pictures than this evaluation was begun with. Give that file."
            )
        self.questions: tuple[Question, ...] = opened.asked
        self.unwrap = unwrap
        self.skip_unreadable = skip_unreadable
        self.observation_space = observation_space((CANVAS, CANVAS), MAX_TEXT)
        self.action_space = UnicodeText(MAX_TEXT)
        self._question: Question | None = None
        self._state: list[Any] = []
        self._fault: str | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask a question.

        Raises:
            ConfigurationError: If there is no question of this number.
            ImageError: If a picture cannot be decoded, unless `skip_unreadable` is true.
        """
        super().reset(seed=seed)
        count = len(self.questions)
        number: Any = (options or {}).get("episode")
        if number is None:
            number = int(self.np_random.integers(count))
        if not isinstance(number, int) or not 0 <= number < count:
            raise ConfigurationError(f"episode={number!r:.80} is not allowed; give a number from 0 to {count - 1:,}.")
        self._question, self._state, self._fault = self.questions[number], [], None
        text, pictures = write_prompt(self._question)
        try:
            loaded = [picture.load() for picture in pictures]
        except ImageError as error:
            if not self.skip_unreadable:
                raise
            self._fault = str(error)[:MAX_REASON]
            return _observation(_LEFT_OUT, None), make_info([], turn=0, task=self._task())
        images = [image for image, _ in loaded]
        info = make_info(images, turn=0, task=self._task())
        info["image_id"] = loaded[0][1]
        return _observation(text, images[0]), info

    def step(self, action: str) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Judge a reply, which ends the episode.

        Raises:
            ConfigurationError: If no question was asked.
        """
        if self._question is None or self._state:
            raise ConfigurationError("The episode has ended, or not begun. Call reset() first.")
        reply = unwrap(action) if self.unwrap else action
        verdict = judge(self._question, reply, self.rule)
        self._state = [self._question.id, verdict.answer and verdict.answer[:MAX_KEPT], list(self._question.answers)]
        error = None if verdict.answer is not None else "no_answer"
        right = verdict.right
        if self._fault is not None:
            self._state[1], error, right = None, "unreadable_picture", False
        primitives = () if error else ("Answer",)
        info = make_info([], turn=1, task=self._task(), error=error, primitives=primitives, solved=right)
        return _observation("", None), float(right), True, False, info

    def describe_episode(self) -> EpisodeDescription:
        """Describe the episode; its label is the category."""
        question = self._question
        if question is None:
            return EpisodeDescription()
        label = question.category if self._fault is None else UNREADABLE + self._fault
        return EpisodeDescription(self._task(), label, list(question.answers))

    def describe_state(self) -> Sequence[Any]:
        """Return the question's id, the answer that was read (None for none), and the right answers."""
        return self._state

    def usual_turn(self) -> str:
        """Write a turn for the token plan."""
        return "A"

    def mistakes(self) -> Sequence[str]:
        """Return no turn, as none is answered."""
        return ()

    def _task(self) -> Mapping[str, Any]:
        question = self._question
        if question is None:
            return {}
        return {"benchmark": question.benchmark, "question": question.id, "max_turns": 1, "rule": self.rule}


def _observation(text: str, image: NDArray[np.uint8] | None) -> dict[str, Any]:
    canvas, size = np.zeros((CANVAS, CANVAS, 3), np.uint8), (0, 0)
    if image is not None:
        scale = min(1.0, CANVAS / max(image.shape[:2]))
        size = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
        canvas[: size[0], : size[1]] = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return {"image": canvas, "image_size": np.array(size, np.int64), "text": text}
