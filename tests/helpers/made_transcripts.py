"""Transcripts for tests: played ones, made-up ones, and an exact comparison."""

import json
from dataclasses import fields

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import PolicyRecord, Segment, Transcript, TranscriptWriter, Turn, TurnUsage, read_transcripts

ARRAYS = ("ids", "loss_mask", "logps", "turns", "advantages")
WRONG = "<think>t</think><code>crop(image_list[9], [0, 0, 1, 1])</code>"


def same_array(first, second):
    """Compare arrays to the last bit, types included."""
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def same_value(first, second):
    """Compare JSON values, NaN included, and numbers with their types."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def differences(first, second):
    """Return the names of the fields in which two transcripts differ."""
    found = []
    for field in fields(Transcript):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("prompt_images",):
            equal = len(one) == len(other) and all(map(same_array, one, other))
        elif field.name == "turns":
            equal = len(one) == len(other) and all(not turn_differences(a, b) for a, b in zip(one, other, strict=True))
        elif field.name == "segments":
            equal = len(one) == len(other) and all(
                a.images == b.images and all(same_array(getattr(a, name), getattr(b, name)) for name in ARRAYS)
                for a, b in zip(one, other, strict=True)
            )
        else:
            equal = type(one) is type(other) and same_value(one, other)
        if not equal:
            found.append(field.name)
    return found


def turn_differences(first, second):
    """Return the names of the fields in which two turns differ."""
    found = []
    for field in fields(Turn):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name == "images":
            equal = len(one) == len(other) and all(map(same_array, one, other))
        elif field.name == "usage":
            equal = repr(one) == repr(other)
        else:
            equal = type(one) is type(other) and same_value(one, other)
        if not equal:
            found.append(field.name)
    return found


class Scripted:
    """Observes, makes a mistake on odd puzzles, then gives the right answer, or a wrong one on every fourth."""

    def __init__(self, tokens=0):
        self.tokens = tokens
        self.played = {}

    def reset(self, seed=None):
        self.played = {}

    def act(self, observations, infos):
        return [self.turn(info) for info in infos]

    def turn(self, info):
        self.played[info["slot"]] = info["turn"] + 1
        odd = info["policy_seed"] % 2
        if info["turn"] == 0:
            return "<think>Où? 🧩</think><code>state[0], state[1] = state[1], state[0]\no = observation(state)</code>"
        if info["turn"] == 1 and odd:
            return WRONG
        answer = info["solution"][::-1] if info["policy_seed"] % 4 == 0 else info["solution"]
        return f"<think>I see.</think><answer>{json.dumps(answer)}</answer>"

    def finish(self, slot):
        turns = self.played.pop(slot)
        usage = tuple(TurnUsage(0.25, 100 + turn, 10, 5) for turn in range(turns))
        if not self.tokens:
            return PolicyRecord(usage=usage)
        rng = np.random.default_rng(turns)
        mask = np.arange(self.tokens) % 2 == 1
        segment = Segment(
            ids=rng.integers(0, 150_000, self.tokens).astype(np.int32),
            loss_mask=mask,
            logps=np.where(mask, -rng.exponential(size=self.tokens), 0).astype(np.float32),
            turns=np.where(mask, 0, -1).astype(np.int16),
            images=(0, 1, 2, 3),
        )
        return PolicyRecord(usage=usage, segments=(segment,), details={"model": "made up", "temperature": 0.7})


def played(count, *, tokens=0, keep_images=True, batch=4, **options):
    """Play some episodes, whose policy seeds are 1, 2, ..."""
    options = {"image_size": 48, "reveal": True, **options}
    specs = [EpisodeSpec("env", seed=seed, policy_seed=seed, keep_images=keep_images) for seed in range(1, count + 1)]
    makers = {"env": lambda: JigsawVisionEnv(**options)}
    return [transcript for _, transcript in play_episodes(Scripted(tokens), specs, makers, batch=batch)]


def made(number, *, size=8, tokens=4):
    """Make up an episode from its number."""
    rng = np.random.default_rng(number)
    images = tuple(rng.integers(0, 256, (3, size, size, 3), np.uint8))
    reward = {"accuracy": 1.0, "format": 1.0, "step": -0.05, "score": 1.0, "total": 0.95}
    turns = (
        Turn("look", "o: <image>", images[2:], ("Observe",), None, ("A", "B"), reward, 0.5, TurnUsage(1.5, 7, 3, 2)),
        Turn("done", "Received.", (), ("Answer",), None, ("A", "B"), reward, 0.25, TurnUsage(2.0)),
    )
    segment = Segment(
        rng.integers(0, 1000, tokens).astype(np.int32),
        np.ones(tokens, np.bool_),
        rng.normal(size=tokens).astype(np.float32),
        np.zeros(tokens, np.int16),
        (0, 1, 2),
        rng.normal(size=tokens).astype(np.float32),
    )
    return Transcript(
        id=f"episode-{number}",
        policy="made up",
        task={"grid": "1x2", "level": 0, "seed": number},
        prompt="Image A: <image>\nImage B: <image>",
        prompt_images=images[:2],
        turns=turns,
        solution=("B", "A"),
        solved=True,
        score=1.0,
        reward=reward,
        truncated=False,
        segments=(segment,),
    )


numbers = st.floats(width=64)
texts = st.text(st.characters(), max_size=20)  # lone surrogates too
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
mappings = st.dictionaries(texts, values, max_size=3)
rewards = st.fixed_dictionaries(dict.fromkeys(("accuracy", "format", "step", "score", "total"), numbers))


@st.composite
def images(draw):
    """Draw an image of an odd shape, in an odd memory layout."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    array = draw(hnp.arrays(np.uint8, (2 * height, 2 * width, 4)))
    layout = draw(st.sampled_from(["plain", "strided", "flipped", "transposed", "channels", "read-only"]))
    if layout == "plain":
        return array[:height, :width, :3].copy()
    if layout == "strided":
        return array[::2, ::2, :3]
    if layout == "flipped":
        return array[::-1, ::-1, :3]
    if layout == "transposed":
        return array[..., :3].transpose(1, 0, 2)
    if layout == "channels":
        return array[..., 2::-1]
    image = array[..., :3].copy()
    image.setflags(write=False)
    return image


@st.composite
def segments(draw):
    """Draw a segment."""
    length = draw(st.integers(0, 5))
    return Segment(
        ids=draw(hnp.arrays(np.int32, length)),
        loss_mask=draw(hnp.arrays(np.bool_, length)),
        logps=draw(hnp.arrays(np.float32, length)),
        turns=draw(hnp.arrays(np.int16, length)),
        images=tuple(draw(st.lists(st.integers(0, 9), max_size=3))),
        advantages=draw(st.none() | hnp.arrays(np.float32, length)),
    )


counts = st.none() | st.integers(0, 2**40)
states = st.lists(texts | st.tuples(texts, st.integers(0, 270)).map(list), max_size=4).map(tuple)
turns = st.builds(
    Turn,
    text=texts,
    feedback=texts,
    images=st.lists(images(), max_size=2).map(tuple),
    primitives=st.lists(texts, max_size=2).map(tuple),
    error=st.none() | texts,
    state=states,
    reward=rewards,
    env_seconds=numbers,
    usage=st.builds(TurnUsage, numbers, counts, counts, counts),
)
names = st.text("abcXYZ019-_.", min_size=1, max_size=12)
transcripts = st.builds(
    Transcript,
    id=names,
    policy=texts,
    task=mappings,
    prompt=texts,
    prompt_images=st.lists(images(), max_size=2).map(tuple),
    turns=st.lists(turns, max_size=2).map(tuple),
    solution=states,
    solved=st.booleans(),
    score=numbers,
    reward=rewards,
    truncated=st.booleans(),
    system=st.none() | texts,
    segments=st.lists(segments(), max_size=2).map(tuple),
    details=mappings,
)


def write(folder, episodes, **options):
    """Write episodes to a folder, each of them new."""
    with TranscriptWriter(folder, **options) as writer:
        for episode in episodes:
            assert writer.append(episode)


def ids(folder):
    """Return the ids of the episodes in a folder."""
    return [transcript.id for transcript in read_transcripts(folder)]


def files(folder):
    """Return the files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
