"""Makes HTML and SVG. Every text is escaped, unless it is `Markup` that was made here."""

from __future__ import annotations

import html
import re

from agile_gym.terminal import printable

__all__ = ["Markup", "element", "join", "text"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
_VOID = frozenset(("br", "img", "meta", "path", "rect", "line", "circle", "use", "image", "polyline"))


class Markup(str):
    """Markup that is ready to stand in a page."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a text as markup; characters that cannot be seen, or that reorder others, stand as their numbers."""
    if isinstance(value, Markup):
        return value
    escaped = html.escape(str(value), quote=True)
    return Markup(_UNSEEN.sub(lambda found: f'<span class="unseen">U+{ord(found[0]):04X}</span>', escaped))


def element(name: str, *children: str | None, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: Its name, with classes after dots, such as ``"p.quiet"``.
        *children: What is in it; texts are escaped, None is left out.
        **attributes: Its attributes. A trailing ``_`` is dropped and other ``_`` become ``-``; True has no value, None
            and False are left out.
    """
    tag, *classes = name.split(".")
    parts = [tag]
    if classes:
        parts.append(f'class="{" ".join(classes)}"')
    for key, value in attributes.items():
        key = key.removesuffix("_").replace("_", "-").replace("viewbox", "viewBox")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{key}="{html.escape(printable(shown), quote=True)}"')
    head = " ".join(parts)
    if tag in _VOID:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{join(*children)}</{tag}>")


def join(*children: str | None) -> Markup:
    """Return markup of several parts, one after the other; texts are escaped, None is left out."""
    return Markup("".join(text(child) for child in children if child is not None))
