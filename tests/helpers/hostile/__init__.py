"""Hostile texts, by category. `TEXTS` holds them all but the huge ones; `every_text` makes those, too."""

from tests.helpers.hostile.makers import answer, call, code
from tests.helpers.hostile.markup import CHARACTERS, HUGE, INJECTIONS, TAGS, WARNINGS
from tests.helpers.hostile.operations import ALIASES, CHAINS, CROPS, NESTING, ZOOMS
from tests.helpers.hostile.programs import ESCAPES, NUMBERS, STATEMENTS
from tests.helpers.hostile.replies import ANSWERS, MANY_CALLS, TOOLS

GROUPS = {
    "escapes": [code(body) for body in ESCAPES],
    "statements": [code(body) for body in STATEMENTS],
    "numbers": [code(body) for body in NUMBERS],
    "zooms": [code(body) for body in ZOOMS],
    "crops": [code(body) for body in CROPS],
    "chains": [code(body) for body in CHAINS],
    "aliases": [code(body) for body in ALIASES],
    "nesting": [code(body) for body in NESTING] + [call(body) for body in NESTING[:60]],
    "characters": [code(body) for body in CHARACTERS] + [call(body) for body in CHARACTERS] + CHARACTERS,
    "warnings": [code(body) for body in WARNINGS],
    "injections": INJECTIONS,
    "tags": TAGS,
    "answers": [answer(body) for body in ANSWERS],
    "tools": [call(body) for body in TOOLS],
    "many_calls": [f"<think>Let me see.</think>\n{text}" for text in MANY_CALLS],
}
TEXTS = list(dict.fromkeys(text for group in GROUPS.values() for text in group))


def every_text():
    yield from TEXTS
    for make in HUGE:
        yield make()
