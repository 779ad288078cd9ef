"""Reads what an expert says, sentence by sentence, and checks it against the solution. It knows nothing of the expert.

Every sentence must be one of those listed here, so that none goes unchecked.
"""

import re

import numpy as np

WAYS = {"to the right of": "right", "right of": "right", "right": "right", "below": "below", "bottom": "below",
        "to the right": "right", "downwards": "below"}  # fmt: skip
CORNERS = {"top left": 0, "top right": 1, "bottom left": 2, "bottom right": 3}
BORDER, WAY, P = r"(?P<way>right|bottom) border", r"(?P<way>to the right of|below)", r"[A-Z]{1,2}"
A, B = rf"(?P<a>{P})", rf"(?P<b>{P})"
COLOUR = r"(?P<colour>[a-z]+)"

FITS = (
    rf"The {BORDER} of {A} continues in {B}",
    rf"The {BORDER} of {A} seems to continue in {B}",
    rf"{B} seems to fit {WAY} {A}, although there is little to see at this border",
    rf"{B} fits {WAY} {A}: lines and colours run on across the border",
    rf"What is cut off at the {BORDER} of {A} goes on in {B}",
    rf"{B} continues {A} (?P<way>to the right|downwards)",
    rf"The {COLOUR} at the {BORDER} of {A} goes on in {B}",
    rf"{A} ends in {COLOUR} at its {BORDER}, and {B} goes on in (?P=colour)",
    rf"{B} (?P<way>right of|below) {A}",
)
MISFITS = (
    rf"The {BORDER} of {A} does not continue in {B}",
    rf"{B} does not fit {WAY} {A}: the picture breaks off between them",
    rf"Between {A} and {B} lines and colours break off, so (?P=b) does not belong {WAY} (?P=a)",
    rf"{B} does not fit {WAY} {A}: {COLOUR} meets (?P<other>[a-z]+) there",
    rf"{A} is {COLOUR} at its {BORDER} and {B} is (?P<other>[a-z]+) there, so (?P=b) does not belong "
    rf"(?:to the right of|below) (?P=a)",
    rf"{B} not (?P<way>right of|below) {A}",
)
WRONG = (
    rf"Swapping {A} and {B} was wrong: neither of them is in its place",
    rf"That was a mistake: neither {A} nor {B} is in its place now",
)
WHOLE = (
    "Now every border fits and the picture is whole",
    "All pieces fit together now",
    "The board shows one whole picture: every piece is in its place",
    "All fit",
)
SWAPS = (rf"(?:I swap|Swap) (?P<pairs>{P} and {P}(?:, then {P} and {P})*)", rf"Swap (?P<pairs>{P} {P})")
NEUTRAL = (
    "First I look at the board as it lies|I begin with a look at the whole board|I look at the board again",
    "Let me see the board as it is now|Let me see how the pieces lie now|Next I look at the whole board|Look",
    rf"The seam between {P} and {P} does not tell enough|From this seam I cannot tell whether {P} and {P} fit",
    rf"I look closer at the seam between {P} and {P}|Do {P} and {P} fit\? I cut out the seam between them",
    rf"Let me check the border between {P} and {P}|Look {P} {P}|Look {P} (?:left|right|top|bottom)",
    rf"I look closer at the (?:left|right|top|bottom) border of {P}",
    rf"What is cut off at the (?:left|right|top|bottom) border of {P}\? I crop it",
    rf"That is small, so I enlarge it|I enlarge the crop to see it better|Zoom|Zoom {P}",
    rf"I enlarge {P} to see its borders better|Let me see {P} in a larger size",
    "I lay the pieces out in a new order|I write the new order of the pieces at once|Order",
    rf"Perhaps {P} and {P} have changed places\. I swap them and check",
    rf"I am not sure about {P} and {P}\. I try them the other way round",
    rf"Would it be better with {P} and {P} swapped\? I try it",
    rf"I swap {P} and {P} back|I take that back: {P} and {P} change places again",
    r"My box was empty: x1 must be below x2, and y1 below y2\. I correct it",
    r"That would have been too large\. I take a smaller factor",
    r"There is no image of that name\. I use one that exists",
    rf"I turn {P}(?:, {P})*(?: and {P})? upright|Turn(?: {P})+|No",
    "This is my answer|I give this order as the answer",
)
TURNED = (
    rf"To stand upright, (?P<angles>{P} by \d+ degrees(?:(?:, | and ){P} by \d+ degrees)*) must be turned clockwise"
)
PLACE = r"the (?P<corner>top left|top right|bottom left|bottom right) corner|row (?P<row>\d+), column (?P<col>\d+)"
BELONG = rf"(?P<who>{P}) belongs in (?:{PLACE})"
BARE = re.sub(r"\?P<\w+>", "?:", BELONG)
BELONGS = rf"(?:So|That means that) (?P<all>{BARE}(?:(?:, | and ){BARE})*)"
ROWS = r"Put together, (?P<rows>row 1 is .*)"


class Truth:
    """Facts of a puzzle, from its solution alone."""

    def __init__(self, transcript):
        self.rows, self.cols = map(int, transcript.task["grid"].split("x"))
        entries = [entry if isinstance(entry, list | tuple) else (entry, 0) for entry in transcript.solution]
        self.order = [name for name, _ in entries]
        self.angles = dict(entries)
        self.names = transcript.task["names"]
        self.pieces = {}
        if transcript.task["initial_view"] != "board":
            for name, image in zip(self.names, transcript.prompt_images, strict=False):
                self.pieces[name] = np.rot90(image, -self.angles[name] // 90)

    def neighbours(self, a, way, b):
        place = self.order.index(a)
        if way == "right":
            return place % self.cols < self.cols - 1 and self.order[place + 1] == b
        return place + self.cols < len(self.order) and self.order[place + self.cols] == b


def names_of(state):
    return [entry if isinstance(entry, str) else entry[0] for entry in state]


def side_by_side(state, a, way, b, cols):
    first, second = state.index(a), state.index(b)
    return second == first + 1 and second % cols if way == "right" else second == first + cols


def check_thought(thought, truth, before, after):
    """Check every sentence of a thought; return the kinds of what it says.

    ``before`` and ``after`` are the states before and after the turn.
    """
    kinds, rest = [], thought.strip()
    while rest:
        kind, end = check_sentence(rest, truth, names_of(before), names_of(after))
        kinds.append(kind)
        rest = rest[end:].removeprefix(".").lstrip()
    return kinds


def match_longest(patterns, text):
    found = [match for pattern in patterns if (match := re.match(rf"(?:{pattern})(?=\.|$)", text))]
    return max(found, key=lambda match: match.end()) if found else None


def check_sentence(text, truth, before, after):
    if match := match_longest(FITS, text):
        assert truth.neighbours(match["a"], WAYS[match["way"]], match["b"]), text
        return "fits", match.end()
    if match := match_longest(MISFITS, text):
        way = WAYS[match["way"]]
        assert not truth.neighbours(match["a"], way, match["b"]), text
        assert side_by_side(before, match["a"], way, match["b"], truth.cols), text
        return "misfits", match.end()
    if match := match_longest(WRONG, text):
        assert before.index(match["a"]) != truth.order.index(match["a"]), text
        assert before.index(match["b"]) != truth.order.index(match["b"]), text
        return "wrong", match.end()
    if match := match_longest(WHOLE, text):
        assert before == truth.order, text
        return "whole", match.end()
    if match := match_longest((TURNED,), text):
        for name, angle in re.findall(rf"({P}) by (\d+) degrees", match["angles"]):
            assert truth.angles[name] == int(angle) != 0, text
        return "turned", match.end()
    if match := match_longest((BELONGS,), text):
        for part in re.finditer(BELONG, match["all"]):
            place = CORNERS[part["corner"]] if part["corner"] else None
            place = (int(part["row"]) - 1) * truth.cols + int(part["col"]) - 1 if place is None else place
            assert truth.order[place] == part["who"], text
        return "belongs", match.end()
    if match := re.match(ROWS.replace(".*", r"[^.]*"), text):
        rows = [part.split(" is ")[1].split(", ") for part in match["rows"].split("; ")]
        assert [name for row in rows for name in row] == truth.order, text
        assert [len(row) for row in rows] == [truth.cols] * truth.rows
        return "rows", match.end()
    if match := match_longest(SWAPS, text):
        state = list(before)
        for pair in re.split(", then ", match["pairs"]):
            a, b = re.split(" and | ", pair)
            i, j = state.index(a), state.index(b)
            state[i], state[j] = state[j], state[i]
        return "swaps", match.end()
    match = match_longest(NEUTRAL, text)
    assert match, f"nobody knows whether this is so: {text!r}"
    return "neutral", match.end()


def think_of(text):
    return re.match(r"<think>(.*?)</think>", text, re.DOTALL)[1]


def check_transcript(transcript):
    """Check all thoughts of an episode; return what kinds of things are said, turn by turn."""
    truth = Truth(transcript)
    before = transcript.task["names"]
    said = []
    for turn in transcript.turns:
        said.append(check_thought(think_of(turn.text), truth, before, turn.state))
        before = list(turn.state)
    return said
