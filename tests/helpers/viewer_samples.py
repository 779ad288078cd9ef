"""Episodes for the tests of the viewer: really played, by policies that look, err and answer."""

import dataclasses
import json
from html.parser import HTMLParser

import numpy as np

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import Segment, TurnUsage

HOSTILE = (
    '</script><script>alert(1)</script><img src=x onerror="alert(2)"> <!-- <script> ]]> \u2028 \u2029 \x00 \ud800 '
    '<svg onload=alert(3)> <a href="javascript:alert(4)">x</a> {title} <image> \u202eabc &lt;b&gt; '
    "<img src='{address}/stolen.png'> <style>@import url({address}/stolen.css)</style> "
)


class Script:
    """Plays the texts of a script, turn by turn; the same in every slot. "{solution}" becomes the right answer."""

    def __init__(self, *texts):
        self.texts = texts

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        solutions = [str(info.get("solution")).replace("'", '"') for info in infos]
        return [
            self.texts[min(info["turn"], len(self.texts) - 1)].replace("{solution}", solution)
            for info, solution in zip(infos, solutions, strict=True)
        ]


LOOKS = Script(
    "<think>I look at the board first.\nThe sky seems to be at the bottom.</think>"
    "<code>observation_image_1 = observation(state)</code>",
    "<think>A and C should change places.</think>"
    "<code># swap, then look\nstate[0], state[2] = state[2], state[0]\nobservation_image_2 = observation(state)</code>",
    "<think>Is the edge of B straight?</think><code>crop_image_1 = crop(image_list[1], [0.5, 0.0, 1.0, 0.5])</code>",
    "<think>Closer.</think><code>zoom_image_1 = zoom(crop_image_1, 2.5)</code>",
    "<think>Now it fits.</think><answer>{solution}</answer>",
)
ERRS = Script(
    "I forgot the tags.",
    '<think>Files, perhaps.</think><code>open("/etc/passwd").read()</code>',
    "<think>This box is empty.</think><code>crop(image_list[0], [0.9, 0.9, 0.1, 0.1])</code>",
    '<think>I guess.</think><answer>["A", "B"]</answer>',
)
NEVER = Script("<think>Once more.</think><code>swap(0, 1)</code>")


def play(policy, seeds, *, name="scripted", level=0, keep_images=True, prefix="", **options):
    """Play an episode a seed, and return the transcripts in this order."""
    grid = JigsawVisionEnv(**options).rules
    specs = [
        EpisodeSpec(
            "env", seed, {"level": level}, seed, f"{prefix}{grid.rows}x{grid.cols}-L{level}-{seed}", keep_images
        )
        for seed in seeds
    ]
    makers = {"env": lambda: JigsawVisionEnv(reveal=True, **options)}
    played = {spec.seed: transcript for spec, transcript in play_episodes(policy, specs, makers, policy_name=name)}
    return [played[seed] for seed in seeds]


def with_tokens(transcript, *, seed=0, advantage=0.7, image_token=99, pieces=4):
    """Return a transcript with made-up tokens: a prompt with images, then turns and feedback, in two segments."""
    rng = np.random.default_rng(seed)
    segments = []
    for number in range(2):
        ids, mask, turns = [*range(1, 20)], [0] * 19, [-1] * 19
        for _ in range(pieces):
            ids, mask, turns = [*ids, 5, *[image_token] * 64, 6], [*mask, *[0] * 66], [*turns, *[-1] * 66]
        for turn in range(number, len(transcript.turns)):
            words = rng.integers(10, 60, 25).tolist()
            ids, mask, turns = [*ids, *words, 7, 8], [*mask, *[1] * 25, 0, 0], [*turns, *[turn] * 25, -1, -1]
        written = np.array(mask, bool)
        logps = np.where(written, -rng.exponential(1.2, len(ids)), 0).astype(np.float32)
        advantages = np.where(written, advantage if number == 0 else -advantage / 2, 0).astype(np.float32)
        segments.append(
            Segment(
                np.array(ids, np.int32), written, logps, np.array(turns, np.int16), tuple(range(pieces)), advantages
            )
        )
    usage = TurnUsage(1.25, context_tokens=312, computed_tokens=40, new_tokens=25)
    turns = tuple(dataclasses.replace(turn, usage=usage) for turn in transcript.turns)
    return dataclasses.replace(transcript, segments=tuple(segments), turns=turns)


class Blocks(HTMLParser):
    """Reads a page as a browser would: its blocks of JSON, its scripts and styles, and its other tags.

    Attributes:
        data: (kind, attributes, value) of each block of JSON, in order.
        sources: Texts of the scripts and styles, by tag.
        tags: (tag, attributes) of everything else.
    """

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.data, self.sources, self.tags = [], {"script": [], "style": []}, []
        self._open = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self._open = (tag, dict(attrs))
        if tag not in self.sources:
            self.tags.append(self._open)

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        tag, attributes = self._open or (None, {})
        if attributes.get("type") == "application/json":
            self.data.append((attributes["data-kind"], attributes, json.loads(data)))
        elif tag in self.sources:
            self.sources[tag].append(data)

    def values(self, kind):
        return [value for name, _, value in self.data if name == kind]

    @property
    def policy(self):
        return next(attributes["content"] for tag, attributes in self.tags if "http-equiv" in attributes)


def decode(token):
    """Return the text of a made-up token; some are hostile or empty."""
    words = {
        7: "\n",
        8: "",
        5: "<|vision_start|>",
        6: "<|vision_end|>",
        99: "<|image_pad|>",
        11: "</script>",
        12: "<b>",
    }
    return words.get(token, f" word{token}")
