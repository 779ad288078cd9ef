"""Display of images: as coloured text in a terminal, or in a window."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from agile_gym.puzzle.pixels import resize

__all__ = ["ansi_text", "close_window", "render_text", "show"]


def ansi_text(image: NDArray[np.uint8], columns: int = 72) -> str:
    """Draw an image with 24-bit colour escapes, two pixels a character (an upper half block).

    Args:
        image: (H, W, 3) uint8.
        columns: Width in characters; the image is scaled to it, or kept if it is narrower.

    Returns:
        Lines of text, each ended by a reset of the colours and a line break.
    """
    height, width = image.shape[:2]
    columns = min(columns, width)
    rows = max(round(height * columns / width / 2), 1)
    small = resize(image, 2 * rows, columns)
    lines: list[str] = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        cells = [
            f"\x1b[38;2;{u[0]};{u[1]};{u[2]}m\x1b[48;2;{d[0]};{d[1]};{d[2]}m\u2580"
            for u, d in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def render_text(canvas: NDArray[np.uint8], size: Sequence[int] | NDArray[np.int64], text: str) -> str:
    """Draw an observation as coloured text.

    Args:
        canvas: (H, W, 3) uint8, with the image at its top left.
        size: Height and width of the image, in pixels; (0, 0) if there is none.
        text: The text of the observation.

    Returns:
        The image, if there is one, and the text below it.
    """
    height, width = size
    return f"{ansi_text(canvas[:height, :width]) if height and width else ''}{text}\n"


def show(title: str, image: NDArray[np.uint8], text: str) -> None:
    """Show an image to a person: in a window where there is a screen, else as coloured text on the terminal.

    Args:
        title: Title of the window.
        image: (H, W, 3) uint8, RGB.
        text: Text below the picture on a terminal.
    """
    if _has_screen():
        try:
            cv2.imshow(title, np.ascontiguousarray(image[..., ::-1]))
            cv2.waitKey(1)
            return
        except cv2.error:  # a build of OpenCV without windows
            pass
    print(f"{ansi_text(image)}{text}", flush=True)


def close_window(title: str) -> None:
    """Close a window if it is open."""
    if not _has_screen():
        return
    try:
        cv2.destroyWindow(title)
    except cv2.error:  # it was never opened, or this build of OpenCV has no windows
        return


def _has_screen() -> bool:
    """Return whether windows can be opened: OpenCV ends the whole process where that fails."""
    if not sys.platform.startswith("linux"):
        return True
    match = re.fullmatch(r"([^:]*):(\d+)(?:\.\d+)?", os.environ.get("DISPLAY", ""))
    if match is None:
        return False
    host, number = match[1], int(match[2])
    local = host in ("", "unix")
    kind = socket.AF_UNIX if local else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(f"/tmp/.X11-unix/X{number}" if local else (host, 6000 + number))
        except OSError:
            return False
    return True
