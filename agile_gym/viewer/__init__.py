"""The viewer: one self-contained HTML page, or an animated GIF, of episodes that were played."""

from agile_gym.viewer.gif import write_gif
from agile_gym.viewer.page import PageInfo, write_page

__all__ = ["PageInfo", "write_gif", "write_page"]
