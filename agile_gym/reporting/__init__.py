"""Presentation of results: the live table and the log of a run, its report, pages and GIFs of episodes."""

from agile_gym.reporting.gif import write_gif
from agile_gym.reporting.viewer import PageInfo, write_page

__all__ = ["PageInfo", "write_gif", "write_page"]
