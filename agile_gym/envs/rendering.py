"""Shows images to people: as coloured text in a terminal, or in a window."""

from __future__ import annotations

import cv2
import gymnasium
import numpy as np
from numpy.typing import NDArray

from agile_gym.puzzle.photo import resize

__all__ = ["ansi_text", "close_window", "show_window"]


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


def show_window(title: str, image: NDArray[np.uint8]) -> None:
    """Show an image in a window of the desktop.

    Args:
        title: Title of the window.
        image: (H, W, 3) uint8, RGB.

    Raises:
        gymnasium.error.DependencyNotInstalled: If this machine or build of OpenCV cannot open windows.
    """
    try:
        cv2.imshow(title, np.ascontiguousarray(image[..., ::-1]))
        cv2.waitKey(1)
    except cv2.error as error:
        raise gymnasium.error.DependencyNotInstalled(
            "OpenCV cannot open a window here. Use render_mode='rgb_array' or 'ansi', or install opencv-python (not "
            "-headless) on a machine with a screen."
        ) from error


def close_window(title: str) -> None:
    """Close a window if it is open."""
    try:
        cv2.destroyWindow(title)
    except cv2.error:  # it was never opened, or there are no windows on this machine
        return
