"""Record of an episode that was played, for training, export, evaluation and inspection.

A transcript holds the model's inputs and outputs, and, where a policy samples tokens itself, the very tokens that were
sampled. Tokens are only ever appended: nothing is decoded and tokenised again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import ActionError, Answer, Arrange, Crop, Observe, Rotate, RotatePiece, Swap, Zoom
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.actions.reading import piece_reader
from agile_gym.actions.tags import read_answer, read_tags
from agile_gym.envs.contract import RewardParts
from agile_gym.images.items import hash_pixels

__all__ = [
    "Image",
    "ImageTable",
    "Message",
    "PickledByFields",
    "PolicyRecord",
    "SeenBoard",
    "Segment",
    "Transcript",
    "Turn",
    "TurnUsage",
    "answer_of",
    "arrangement_of",
    "boards_seen",
    "count_looks",
    "first_board",
    "has_board",
    "image_shown",
    "places_right",
    "turns_played",
]

Image = NDArray[np.uint8]
"""(h, w, 3) uint8, RGB."""


class Message(NamedTuple):
    """A message of the conversation.

    Attributes:
        role: ``"system"``, ``"user"`` or ``"assistant"``.
        text: Text of the message, with ``<image>`` wherever an image belongs.
        images: Those images, in order.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()


class PickledByFields:
    """Base of dataclasses of which many are sent: pickled as a call of the class with its fields.

    By itself, pickle lists the fields of a dataclass with slots for each object, a third of the time in which a driver
    unpacks the episodes of its runners.
    """

    __slots__ = ()
    __match_args__: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the class and its arguments."""
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])


@dataclass(frozen=True, eq=False, slots=True)
class Segment(PickledByFields):
    """A stretch of tokens that a model read and wrote, which only ever grew at its end.

    An episode is one segment, unless older images were dropped from the context on the way: then each change of the
    context begins a new one. Every sampled token is marked in exactly one segment, the one whose context it was sampled
    in.

    Attributes:
        ids: (T,) int32, token ids, image placeholders included.
        loss_mask: (T,) bool, True on the tokens that the model wrote in this segment.
        logps: (T,) float32, log-probability of each of those when it was sampled; 0 elsewhere.
        turns: (T,) int16, the turn, from 0, in which the model wrote a marked token; -1 elsewhere.
        images: Indices into `Transcript.images` of the images whose placeholders are in ``ids``, in order.
        advantages: (T,) float32, the advantage of each token, or None when it has not been computed.
    """

    ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    logps: NDArray[np.float32]
    turns: NDArray[np.int16]
    images: tuple[int, ...]
    advantages: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check that the arrays belong together.

        Raises:
            ValueError: If their lengths differ.
        """
        arrays = [self.ids, self.loss_mask, self.logps, self.turns]
        if self.advantages is not None:
            arrays.append(self.advantages)
        if len({array.shape for array in arrays}) != 1 or self.ids.ndim != 1:
            raise ValueError(f"The arrays of a segment have the shapes {[array.shape for array in arrays]}.")


@dataclass(frozen=True, slots=True)
class TurnUsage(PickledByFields):
    """Usage of a policy in a turn.

    Attributes:
        seconds: Time from the observation to the text; in a batch, the time of the whole batch.
        context_tokens: Tokens of the context that the turn was written in.
        computed_tokens: Those of them that had to be computed, which a cache makes fewer; None if unknown.
        new_tokens: Tokens written.
    """

    seconds: float
    context_tokens: int | None = None
    computed_tokens: int | None = None
    new_tokens: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class PolicyRecord:
    """Record that a policy gives of an episode that it has played; see `agile_gym.policies.RecordingPolicy`.

    Attributes:
        usage: One entry a turn.
        segments: The tokens, where the policy has them.
        details: More about it, in JSON's types: model, sampling, cost.
    """

    usage: tuple[TurnUsage, ...] = ()
    segments: tuple[Segment, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False, slots=True)
class Turn(PickledByFields):
    """A turn: the model's text and the environment's feedback.

    Attributes:
        text: The model's text.
        feedback: The environment's text, with ``<image>`` wherever an image belongs.
        images: Those images, in order.
        primitives: Names of the primitives carried out, as in `agile_gym.actions.primitives`, such as ``"Swap"``.
        error: Kind of the error, or None.
        state: The board after the turn, as a model writes it: names, or [name, angle] pairs.
        reward: The parts of the reward.
        env_seconds: Time that the environment took.
        usage: Usage of the policy.
    """

    text: str
    feedback: str
    images: tuple[Image, ...]
    primitives: tuple[str, ...]
    error: str | None
    state: tuple[Any, ...]
    reward: RewardParts
    env_seconds: float
    usage: TurnUsage


@dataclass(frozen=True, eq=False)
class Transcript:
    """A whole episode.

    Attributes:
        id: Name of the episode within its run: letters, digits, ``-``, ``_`` and ``.``.
        policy: Name of the policy.
        task: The puzzle, in JSON's types: ``grid`` (such as ``"2x2"``), ``level``, ``names``, ``dialect``,
            ``initial_view``, ``piece_size``, ``rotations``, ``max_turns``, ``seed`` and ``policy_seed`` (None if not
            known), and ``image_id``, the hash of the photograph.
        prompt: The first observation's text.
        prompt_images: The images of its marks, in order.
        turns: The turns.
        solution: The right answer, as a model would write it.
        solved: True if it was given.
        score: Fraction of pieces right in the answer, 0 to 1.
        reward: The parts of the reward of the whole episode.
        truncated: True if the turns ran out.
        system: The system prompt, or None.
        segments: The tokens, where the policy has them.
        details: More about the policy, in JSON's types: model, sampling, cost; ``given_up``, with ``kind`` and
            ``reason``, if it could not go on (`agile_gym.policies.GivenUp`). Then the last turn has no text, the kind
            as its error and the reason as its feedback. ``blank_looks``, true if the images of the turns are uniform
            grey, as the policy saw them; texts, states and rewards are those of the environment.
    """

    id: str
    policy: str
    task: Mapping[str, Any]
    prompt: str
    prompt_images: tuple[Image, ...]
    turns: tuple[Turn, ...]
    solution: tuple[Any, ...]
    solved: bool
    score: float
    reward: RewardParts
    truncated: bool
    system: str | None = None
    segments: tuple[Segment, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """All images, in the order in which they were shown."""
        return (*self.prompt_images, *(image for turn in self.turns for image in turn.images))

    def messages(self) -> list[Message]:
        """Return the conversation; the last message is the model's, as no turn follows the last feedback."""
        messages = [] if self.system is None else [Message("system", self.system)]
        messages.append(Message("user", self.prompt, self.prompt_images))
        for turn in self.turns:
            messages.append(Message("assistant", turn.text))
            messages.append(Message("user", turn.feedback, turn.images))
        return messages[:-1] if self.turns else messages


class ImageTable:
    """Images of several episodes by the hash of their content, each once.

    Pickle writes an array that is shared once, however many episodes and turns show it.
    """

    def __init__(self) -> None:
        """Begin with no image."""
        self._known: dict[str, Image] = {}

    def share(self, transcript: Transcript) -> Transcript:
        """Return a transcript with the arrays of the table, which gets the images that it lacks."""
        turns = tuple(replace(turn, images=self._same(turn.images)) for turn in transcript.turns)
        return replace(transcript, prompt_images=self._same(transcript.prompt_images), turns=turns)

    def _same(self, images: Sequence[Image]) -> tuple[Image, ...]:
        return tuple(self._known.setdefault(hash_pixels(image), image) for image in images)


Arrangement = tuple[Any, ...]
"""The piece at each place; a pair with its angle where pieces are turned."""
_MOVES = {kind.__name__ for kind in (Swap, Arrange, RotatePiece)}
_SHOWN = {kind.__name__ for kind in (Observe, Crop, Zoom, Rotate)}


def count_looks(transcript: Transcript, answer: Sequence[Any] | None = None) -> dict[str, int]:
    """Count an episode's looks, and the outcome of the boards that it showed.

    An image of a turn's feedback is seen if another turn follows; the first observation is no look. The boards are
    those of `boards_seen`. The last board of an episode that was given up has no outcome, and is not counted.

    Args:
        transcript: The episode.
        answer: The answer as names, or [name, angle] pairs; None if there is none, or it cannot be read.

    Returns:
        ``images``: images seen. Of a jigsaw also

        - ``wrong``: boards with a piece that is not in its place; ``noticed``: those of them after which the model
          changed the state before it looked at a board again, or answered with another order; ``mended``: those
          noticed whose outcome is a right answer, or a board with more pieces in place;
        - ``right``: boards that are the solution; ``spoiled``: those whose outcome is a wrong board or answer, or none,
          as the turns ran out.
    """
    images = sum(turn.feedback.count(IMAGE_MARK) for turn in turns_played(transcript)[:-1])
    if not has_board(transcript):
        return {"images": images}
    count = len(transcript.task["names"])
    counts = dict.fromkeys(("images", "wrong", "noticed", "mended", "right", "spoiled"), 0) | {"images": images}
    for board in boards_seen(transcript, answer):
        if board.outcome is None:
            continue
        if board.right == count:
            counts["right"] += 1
            counts["spoiled"] += board.outcome < count
        else:
            counts["wrong"] += 1
            counts["noticed"] += board.noticed
            counts["mended"] += board.noticed and board.outcome > board.right
    return counts


class SeenBoard(NamedTuple):
    """A board that the model was shown, and that another turn followed.

    Attributes:
        turn: Number of the turn that showed it, from 0.
        order: The piece at each place, or its name and angle.
        right: Pieces in their place.
        changed: True if the state was changed in a later turn, before the next board or the end.
        noticed: True if it was changed, or is the last one and the answer is another order.
        outcome: Pieces in place on the next board; of the last one, all of them or 0, as the episode was solved or not;
            None if the episode was given up after it.
    """

    turn: int
    order: Arrangement
    right: int
    changed: bool
    noticed: bool
    outcome: int | None


def has_board(transcript: Transcript) -> bool:
    """Return whether an episode is a jigsaw whose boards can be compared with a solution."""
    return {"grid", "names", "rotations"} <= transcript.task.keys() and bool(transcript.solution)


def turns_played(transcript: Transcript) -> tuple[Turn, ...]:
    """Return the turns that the model wrote; the last one of an episode that was given up is none."""
    return transcript.turns[:-1] if "given_up" in transcript.details else transcript.turns


def first_board(transcript: Transcript) -> Arrangement:
    """Return the first state of a jigsaw."""
    turned = bool(transcript.task["rotations"])
    return tuple((name, 0) if turned else name for name in transcript.task["names"])


def places_right(transcript: Transcript, board: Arrangement) -> int:
    """Return the number of pieces of a board that are in their place."""
    return _equal(board, arrangement_of(transcript.solution))


def boards_seen(transcript: Transcript, answer: Sequence[Any] | None = None) -> list[SeenBoard]:
    """Return the boards that a model saw in a jigsaw.

    A board is an image that `observe` made; the order that it showed is the state of that time. A board that is looked
    at again before anything has changed counts once. Its outcome is the next board, or else the answer.

    Args:
        transcript: The episode, for which `has_board` is true.
        answer: As in `count_looks`.
    """
    turns, given_up = turns_played(transcript), "given_up" in transcript.details
    names: Sequence[str] = transcript.task["names"]
    turned = bool(transcript.task["rotations"])
    state = first_board(transcript)
    boards: list[tuple[Arrangement, bool]] = []
    numbers: list[int] = []
    for number, turn in enumerate(turns):
        before, state = state, arrangement_of(turn.state)
        if boards and state != before:
            boards[-1] = boards[-1][0], True
        shown = _shown_board(turn, before, state) if number + 1 < len(turns) else None
        if shown is not None and (not boards or boards[-1] != (shown, False)):
            boards.append((shown, False))
            numbers.append(number)
    last = turns[-1] if turns else None
    answered = last is not None and last.primitives == (Answer.__name__,) and last.error is None
    given = _read_answer(answer, names, turned=turned) if answered and answer is not None else None
    solutions = [arrangement_of(transcript.solution)]
    if transcript.solved and given is not None:  # another one, where pieces look alike
        solutions.append(given)
    places = [max(_equal(board, right) for right in solutions) for board, _ in boards]
    outcomes = [*places[1:], None if given_up else len(names) if transcript.solved else 0]
    found: list[SeenBoard] = []
    for place, (board, changed) in enumerate(boards):
        otherwise = place + 1 == len(boards) and (transcript.solved or (given is not None and given != board))
        noticed = changed or (otherwise and places[place] < len(names))
        found.append(SeenBoard(numbers[place], board, places[place], changed, noticed, outcomes[place]))
    return found


def arrangement_of(state: Sequence[Any]) -> Arrangement:
    """Return a state as it can be compared with others."""
    return tuple(tuple(cast("list[Any]", entry)) if isinstance(entry, list) else entry for entry in state)


def _equal(board: Arrangement, other: Arrangement) -> int:
    return sum(mine == theirs for mine, theirs in zip(board, other, strict=False))


def _read_answer(answer: Sequence[Any], names: Sequence[str], *, turned: bool) -> Arrangement | None:
    """Return an answer in the pieces' own names, or None if it is no arrangement of them."""
    pairs = [(entry, 0) if isinstance(entry, str) else tuple(entry) for entry in answer]
    order, problem = piece_reader(tuple(names)).read_order([name for name, _ in pairs])
    if problem is not None:
        return None
    placed = zip(order, pairs, strict=True)
    return tuple((names[piece], angle % 360) if turned else names[piece] for piece, (_, angle) in placed)


def image_shown(turn: Turn) -> tuple[int, str] | None:
    """Return place and name of the primitive that made a turn's image, the last one that shows any; None for none."""
    shown = [(place, name) for place, name in enumerate(turn.primitives) if name in _SHOWN]
    return shown[-1] if shown and IMAGE_MARK in turn.feedback else None


def _shown_board(turn: Turn, before: Arrangement, after: Arrangement) -> Arrangement | None:
    """Return the board that a turn's image shows; None if it shows no board, or one that the record does not tell."""
    shown = image_shown(turn)
    if shown is None or shown[1] != Observe.__name__:
        return None
    moves = [place for place, name in enumerate(turn.primitives) if name in _MOVES]
    if all(place < shown[0] for place in moves):
        return after
    return before if all(place > shown[0] for place in moves) else None


def answer_of(transcript: Transcript) -> list[Any] | None:
    """Return the answer that ended an episode; of another environment than the jigsaw, as the text that it is.

    Args:
        transcript: The episode.

    Returns:
        Names, or [name, angle] pairs; None if there is none, or it cannot be read.
    """
    last = transcript.turns[-1] if transcript.turns else None
    if last is None or last.primitives != (Answer.__name__,):
        return None
    try:
        body, task = read_tags(last.text, "code").bodies[0], transcript.task
        if "rotations" not in task:
            return [body]
        answer = read_answer(body, task["names"], rotations=bool(task["rotations"]))
    except ActionError as error:  # a dialect of one's own may write answers otherwise
        error.forget()
        return None
    if answer.turns is None:
        return list(answer.order)
    return [[name, angle] for name, angle in zip(answer.order, answer.turns, strict=True)]
