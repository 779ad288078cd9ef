"""Random programs, run by Python itself with stub functions and read by the library: the results must be the same.

The programs stay where the language means to be Python: lists of names, numbers and images, not lists in lists.
"""

import random
from collections import Counter

import pytest

from agile_gym.actions.dialects import get_dialect
from agile_gym.actions.primitives import Arrange, Crop, Observe, Rotate, RotatePiece, Swap, Zoom
from agile_gym.actions.syntax import ImageValue
from agile_gym.actions.workspace import Workspace
from agile_gym.puzzle import fixed_layout

EPISODES = 600
TURNS = 4


class Image:
    """An image of the stubs, known by the order in which it was made."""

    def __init__(self, key):
        self.key = key


class BadArgumentError(Exception):
    """Error of a stub for arguments that the library must refuse, too."""


class Truth:
    """Runs programs with `exec`."""

    def __init__(self, names, rotations):
        self.names, self.rotations = names, rotations
        self.images = [Image(("piece", name)) for name in names]
        state = [(name, 0) for name in names] if rotations else list(names)
        self.space = {"state": state}
        self.calls = []
        self.made = 0

    def run(self, program):
        """Return whether the turn stands; if not, nothing has changed."""
        keep = {id(image): image for image in self.images}
        saved, copies = {}, {}
        for name, value in self.space.items():
            if isinstance(value, list):
                copies.setdefault(id(value), list(value))
                saved[name] = copies[id(value)]
            else:
                saved[name] = value
        calls, made = list(self.calls), self.made
        space = dict(self.space)
        functions = {
            "__builtins__": {"list": list},
            "image_list": list(keep.values()),
            "observation": lambda *values: self.observe(space, values),
            "crop": self.crop,
            "zoom": self.zoom,
            "rotate": self.rotate,
        }
        space.update(functions)
        try:
            exec(program, space)
            self.check(space["state"])
        except (BadArgumentError, IndexError, NameError, TypeError, ValueError, ZeroDivisionError):
            self.space, self.calls, self.made = saved, calls, made
            return False
        self.space = {name: value for name, value in space.items() if name not in functions}
        return True

    def check(self, state):
        if not isinstance(state, list):
            raise BadArgumentError
        names = [entry[0] for entry in state] if self.rotations else state
        if not all(isinstance(name, str) for name in names) or sorted(names) != sorted(self.names):
            raise BadArgumentError

    def observe(self, space, values):
        state = values[0] if values else space["state"]
        self.check(state)
        return self.make("observe", tuple(state))

    def crop(self, image, box):
        return self.make("crop", image.key, tuple(box))

    def zoom(self, image, factor):
        return self.make("zoom", image.key, factor)

    def rotate(self, image, angle):
        return self.make("rotate", image.key, angle)

    def make(self, *call):
        self.calls.append(call)
        self.made += 1
        return Image(("made", self.made))


class Library:
    """Reads programs with the code dialect and keeps what they do in the same form as `Truth`."""

    def __init__(self, names, rotations):
        layout = fixed_layout(2, len(names) // 2, 448, square=rotations)
        self.workspace = Workspace(layout, (600, 600), rotations=rotations)
        assert self.workspace.names == tuple(names)
        self.keys = {name: ("piece", name) for name in names}
        self.calls = []

    def run(self, program):
        workspace = self.workspace
        parsed = get_dialect("code").parse(f"<think>a</think><code>{program}</code>", workspace)
        if parsed.error is not None:
            return parsed.error
        order, turns = list(workspace.order), list(workspace.turns)
        workspace.execute(parsed.primitives)
        workspace.variables = parsed.variables
        for primitive in parsed.primitives:
            match primitive:
                case Swap(a, b):
                    order[a], order[b] = order[b], order[a]
                case Arrange(new, angles):
                    order, turns = list(new), list(angles or turns)
                case RotatePiece(place, angle):
                    turns[order[place]] = (turns[order[place]] + angle) % 360
                case Observe(key, other, angles):
                    self.make(key, "observe", tuple(self.named(other or order, angles or turns)))
                case Crop(image, box, key):
                    self.make(key, "crop", self.keys[image], box)
                case Zoom(image, factor, key):
                    self.make(key, "zoom", self.keys[image], factor)
                case Rotate(image, angle, key):
                    self.make(key, "rotate", self.keys[image], angle)
        assert (tuple(order), tuple(turns)) == (workspace.order, workspace.turns)
        return None

    def make(self, key, *call):
        assert key not in self.keys, "two images have one key"
        self.calls.append(call)
        self.keys[key] = ("made", len(self.calls))

    def named(self, order, turns):
        names = self.workspace.names
        return [(names[piece], turns[piece]) if self.workspace.rotations else names[piece] for piece in order]

    def value(self, name):
        """Meaning of a name in the next turn."""
        variables = self.workspace.variables
        return variables[name] if name in variables else ImageValue(name)

    def plain(self, value):
        if isinstance(value, ImageValue):
            return self.keys[value.key]
        if isinstance(value, list | tuple):
            return [self.plain(element) for element in value]
        return value


def plain(value):
    if isinstance(value, Image):
        return value.key
    if isinstance(value, list | tuple):
        return [plain(element) for element in value]
    return value


def groups(names, value):
    """The variables that name one list, together."""
    together = {}
    for name in names:
        if isinstance(value(name), list):
            together.setdefault(id(value(name)), set()).add(name)
    return sorted(map(sorted, together.values()))


class Writer:
    """Writes random programs that mostly make sense, and knows which variables hold what."""

    def __init__(self, rng, names, rotations):
        self.rng, self.names, self.rotations = rng, names, rotations
        self.lists, self.items, self.numbers = ["state"], [], []
        self.images = [f"image_list[{rng.choice((place, place - len(names)))}]" for place in range(len(names))]
        self.depths = dict.fromkeys(self.images, 0)

    def index(self):
        place = self.rng.randrange(len(self.names))
        return self.rng.choice(
            [
                str(place),
                str(place - len(self.names)),
                f"{place} + 1 - 1",
                f"-{len(self.names) - place}",
                f"2 * {place} - {place}",
            ]
        )

    def permutation(self):
        order = self.rng.sample(self.names, len(self.names))
        if self.rotations:
            return "[" + ", ".join(f"('{name}', {self.rng.choice((0, 90, 180, 270))})" for name in order) + "]"
        return self.rng.choice([str(order), str(tuple(order)).replace("(", "[").replace(")", "]")])

    def number(self, low, high):
        value = round(self.rng.uniform(low, high), 3)
        part = round(self.rng.uniform(0, 1), 3)
        return self.rng.choice(
            [
                f"{value}",
                f"{part} + {value} - {part}",
                f"{value} * 4 / 4",
                f"-(-{value})",
                f"+{value}",
                f"({value} / 2) * 2",
            ]
        )

    def image(self):
        usable = [name for name in self.images if self.depths[name] < 5]
        return self.rng.choice(usable)

    def box(self):
        sides = [self.number(0, 0.2), self.number(0, 0.2), self.number(0.8, 1), self.number(0.8, 1)]
        return f"[{', '.join(sides)}]"

    def made(self, call, depth):
        name = self.rng.choice(["view", "part", "x", "y", "observation_image_1", "zoom_image_1", *"pq"])
        self.forget(name)
        self.images.append(name)
        self.depths[name] = depth
        return f"{name} = {call}"

    def forget(self, name):
        for kind in (self.lists, self.items, self.numbers, self.images):
            if name in kind:
                kind.remove(name)

    def bind(self, kind, name):
        self.forget(name)
        kind.append(name)
        return name

    def statement(self):
        rng = self.rng
        a, b = rng.choice(self.lists), rng.choice(self.lists)
        i, j, k = self.index(), self.index(), self.index()
        name = rng.choice(["a", "b", "c", "d", "x", "view"])
        image = self.image()
        depth = self.depths[image] + 1
        choices = [
            lambda: f"{a}[{i}], {a}[{j}] = {a}[{j}], {a}[{i}]",
            lambda: f"{a}[{i}], {a}[{j}] = {a}[{j}], {a}[{i}]",
            lambda: f"{a}[{i}], {b}[{j}] = {b}[{j}], {a}[{i}]",
            lambda: f"{a}[{i}], {a}[{j}], {a}[{k}] = {a}[{k}], {a}[{i}], {a}[{j}]",
            lambda: f"t = {a}[{i}]\n{a}[{i}] = {a}[{j}]\n{a}[{j}] = t",
            lambda: f"t = {a}[{i}]\n{a}[{i}] = {a}[{j}]\nobservation({b})\n{a}[{j}] = t",
            lambda: f"{a}[{i}] = {b}[{j}]",
            lambda: f"{self.bind(self.lists, name)} = {a}",
            lambda: f"{self.bind(self.lists, name)} = list({a})",
            lambda: f"{self.bind(self.lists, name)} = {a}[:]",
            lambda: f"{self.bind(self.lists, name)} = {a}[::-1]",
            lambda: f"{self.bind(self.lists, name)} = {self.permutation()}",
            lambda: f"{self.bind(self.lists, 'e')} = {self.bind(self.lists, name)} = {a}",
            lambda: f"{self.bind(self.lists, 'e')}, {self.bind(self.lists, 'f')} = {a}, {b}",
            lambda: f"[{a}[{i}], {a}[{j}]] = [{a}[{j}], {a}[{i}]]",
            lambda: f"({a}[{i}], {a}[{j}]) = ({a}[{j}], {a}[{i}])",
            lambda: f"{self.bind(self.items, 'u')} = {a}[{i}]\n{a}[{i}] = u",
            lambda: f"{self.bind(self.numbers, 'n')} = {i}\nm = n + 0\n{a}[n], {a}[{j}] = {a}[{j}], {a}[m]",
            lambda: f"{a}[{i}] = {a}[{i}]",
            lambda: f"state = {a}",
            lambda: f"state = {a}[:]",
            lambda: (
                f"state = {a}[{rng.randrange(-3, 3)}:{rng.choice(('', 2, 9))}]"
                if rng.random() < 0.2
                else f"state = {b}"
            ),
            lambda: f"state = {self.permutation()}",
            lambda: (
                "state = ["
                + ", ".join(f"{a}[{place}]" for place in rng.sample(range(len(self.names)), len(self.names)))
                + "]"
            ),
            lambda: self.made(f"observation({rng.choice([a, b, 'state', ''])})", 0),
            lambda: self.made(f"crop({image}, {self.box()})", depth),
            lambda: self.made(f"zoom({image}, {self.number(0.8, 1)})", depth),
            lambda: self.made(f"rotate({image}, {rng.choice((90, 180, 270, -90))})", depth),
            lambda: f"observation({a})",
            lambda: f"pair = [{image}, {image}]\nzoom(pair[{rng.choice((0, 1, -1, -2))}], 1)",
            lambda: (
                f"p, q = {image}, {a}[{i}]\nzoom(p, 0.9)"
                if "p" not in self.images and "q" not in self.images
                else "n = 0"
            ),
            lambda: f"{a}[{rng.choice((9, -9, '0.5', 'zzz'))}] = {b}[{i}]" if rng.random() < 0.2 else "n = 1",
        ]
        return rng.choice(choices)()

    def program(self):
        return "\n".join(self.statement() for _ in range(self.rng.randint(1, 7)))


@pytest.mark.slow
@pytest.mark.parametrize(("names", "rotations"), [("ABCD", False), ("ABCDEF", False), ("ABCD", True)])
def test_programs_mean_what_they_mean_in_python(names, rotations):
    outcomes = Counter()
    for seed in range(EPISODES // 3):
        rng = random.Random(seed)
        truth, library = Truth(list(names), rotations), Library(list(names), rotations)
        for _ in range(TURNS):
            writer = Writer(rng, list(names), rotations)
            for name, value in truth.space.items():
                if isinstance(value, Image):
                    writer.images.append(name)
                    writer.depths[name] = 5  # not to be worked on further, since its depth is forgotten
                elif isinstance(value, list) and len(value) == len(names) and name not in writer.lists:
                    writer.lists.append(name)
            program = writer.program()
            stands, error = truth.run(program), library.run(program)
            assert stands == (error is None), f"{program}\n{error}"
            outcomes[stands] += 1
            assert plain(truth.space["state"]) == plain(library.named(library.workspace.order, library.workspace.turns))
            assert plain(truth.calls) == plain(library.calls), program
            if library.workspace.variables:
                known = {name: plain(value) for name, value in truth.space.items()}
                assert {name: library.plain(library.value(name)) for name in known} == known, program
                assert groups(known, truth.space.get) == groups(known, library.value), program
    assert outcomes[True] > 100
    assert outcomes[False] > 30


@pytest.mark.parametrize(
    "program",
    [
        "image_list[0] = image_list[1]",
        "image_list[0], image_list[1] = image_list[1], image_list[0]",
        "image_list[0][0] = 5",
        "image_list[-1] = observation(state)",
    ],
)
def test_an_assignment_without_effect_is_refused(program):
    # Each use of image_list is a new list here, so that an assignment to its elements would be lost without a word.
    assert Library(list("ABCD"), rotations=False).run(program) is not None


def test_turned_pieces_follow_their_own_angles():
    library = Library(list("ABCD"), rotations=True)
    assert library.run('turn("A", 90)\nswap(0, 1)\nstate[1] = ["A", 180]\nturn(1, -90)') is None
    assert library.workspace.order == (1, 0, 2, 3)
    assert library.workspace.turns == (90, 0, 0, 0)


@pytest.mark.parametrize("program", ["state = ['B', 'A', 'C', 'D']\nturn('A', 90)", "state[0] = 'A'\nturn(0, 90)"])
def test_a_piece_without_an_angle_can_be_turned(program):
    library = Library(list("ABCD"), rotations=True)
    assert library.run("turn('A', 90)") is None
    assert library.run(program) is None
    assert library.workspace.turns == (180, 0, 0, 0)


@pytest.mark.parametrize(
    "program",
    [
        "x = zoom(image_list[0], 1e-1)",
        "x = zoom(image_list[0], 5E-1)",
        "x = 1.\ny = .5\nz = 1_000\nw = 1.5e+3",
        "swap(0, 1)  # the 1st and the 2nd piece of the 2x2 board",
        "# 3rd turn: 4 or 5 are left\nswap(0, 1)",
    ],
)
def test_numbers_and_comments_are_not_mistaken_for_what_would_warn(program):
    assert Library(list("ABCD"), rotations=False).run(program) is None
