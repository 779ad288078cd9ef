"""Spool of encoded pictures: a temporary file from which each can be read on its own."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from threading import Lock

from agile_gym.errors import ConfigurationError, ImageError, reason_of

__all__ = ["Spool"]

Place = tuple[int, int]
"""Offset and size of a picture, in bytes."""


class Spool:
    """Pictures in a temporary file without a name, which ends with this object; equal ones are kept once."""

    def __init__(self) -> None:
        """Start without a picture; the file is made for the first one."""
        self._file = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115 -- open as long as the pictures
        weakref.finalize(self, self._file.close)
        self._places: dict[bytes, Place] = {}
        self._lock = Lock()
        self._end = 0

    def add(self, data: bytes) -> Place:
        """Write a picture, unless it is there, and return its place.

        Raises:
            ConfigurationError: If the file cannot be written.
        """
        key = hashlib.sha256(data).digest()
        if key in self._places:
            return self._places[key]
        try:
            with self._lock:
                self._file.seek(self._end)
                self._file.write(data)
        except OSError as error:
            raise ConfigurationError(
                f"The pictures of a Parquet file cannot be copied to {tempfile.gettempdir()}: {reason_of(error)}. Set "
                "the environment variable TMPDIR to a folder with room for them, or give the benchmark's TSV."
            ) from error
        place = self._places[key] = (self._end, len(data))
        self._end += len(data)
        return place

    def read(self, place: Place) -> bytes:
        """Return the picture at a place.

        Raises:
            ImageError: If it cannot be read.
        """
        try:
            with self._lock:
                self._file.seek(place[0])
                data = self._file.read(place[1])
        except OSError as error:
            raise ImageError(f"a picture cannot be read from its temporary file ({reason_of(error)})") from error
        if len(data) != place[1]:
            raise ImageError("a picture is not whole in its temporary file")
        return data
