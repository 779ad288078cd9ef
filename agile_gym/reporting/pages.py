"""HTML pages that need nothing else: no network, no server, no other file.

Templates escape what they are given, and a policy (Content-Security-Policy) allows a page its own scripts and styles,
by their hash, and no connection to anywhere. Scripts insert all text as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from agile_gym.files import write_text
from agile_gym.reporting.charts import STAGE_TITLES, duration

__all__ = ["write_html"]

_FOLDER = files("agile_gym.reporting")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def write_html(path: Path, template: str, styles: Sequence[str], scripts: Sequence[str], **values: object) -> None:
    """Write a page from a template, as ASCII.

    Args:
        path: The file; it is replaced only when the page is complete.
        template: Name of the template, in the package.
        styles: Names of its style sheets, in their order.
        scripts: Names of its scripts, in the order in which they run.
        **values: What the template shows. Iterators are read as the page is written.
    """
    style = "\n".join(map(_source, styles))
    page = _environment().get_template(template).generate(
        style=Markup(style), scripts=[Markup(_source(name)) for name in scripts], **values
    )  # fmt: skip
    with write_text(path) as file:
        file.writelines(part.encode("ascii", "xmlcharrefreplace").decode("ascii") for part in page)


def _source(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="ascii")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_seen(lambda code: code),
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(_source),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "duration": duration,
        "readable": _seen(lambda code: f'<span class="unseen">{code}</span>'),
        "sha256": _sha256,
        "stage_title": _stage_title,
    }
    return environment


def _sha256(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _stage_title(stage: str) -> str:
    return STAGE_TITLES.get(stage, stage)


def _seen(shown: Callable[[str], str]) -> Callable[[Any], Any]:
    """Return a function that gives texts in which characters that cannot be seen, or reorder others, are numbers."""

    def replace(value: Any) -> Any:  # noqa: ANN401 -- whatever a template shows
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return Markup(_UNSEEN.sub(lambda found: shown(f"U+{ord(found[0]):04X}"), escape(value)))

    return replace
