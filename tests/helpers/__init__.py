"""Shared parts of tests: samples, players, servers, browsers. Programs that tests start have `ROOT` on their path."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
