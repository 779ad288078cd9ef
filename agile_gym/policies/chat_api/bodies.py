"""Takes in the bodies of answers, whatever a server sends: so many bytes and no more, read as UTF-8."""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["MAX_BODY", "BodyError", "make_http_client"]

MAX_BODY = 16 * 1024 * 1024
"""Most bytes of an answer, once unpacked: some hundred times what the longest turns take."""
_PACKED = ("gzip", "x-gzip")
_GZIP = 16 + zlib.MAX_WBITS


class BodyError(Exception):
    """A body is longer than is read, or packed in a way that was not asked for."""


def make_http_client(openai: Any, limit: int = MAX_BODY) -> Any:  # noqa: ANN401 -- a module, an httpx.AsyncClient
    """Make the client that `openai.AsyncOpenAI` sends its requests with.

    It is openai's own, with its proxies and defaults, but a body is given up where it passes a limit, be it by its
    length or by what is packed in it, and its letters are read as UTF-8: a header may name a codec that is none of
    texts.

    Args:
        openai: The package.
        limit: Most bytes of a body, once unpacked.

    Returns:
        The client. Its requests raise what openai makes of a `BodyError`.
    """

    async def take(response: Any) -> None:  # noqa: ANN401 -- an httpx.Response
        response.encoding = "utf-8"
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        if packing not in (*_PACKED, "identity", ""):
            raise BodyError(f"the answer is packed as {packing!r:.60}, which was not asked for")
        response.headers.pop("content-encoding", None)
        # httpx, or what openai has in its place: the stream must be of its kind
        kind = sys.modules[type(response).__module__.partition(".")[0]].AsyncByteStream
        response.stream = _limited(kind, response.stream, limit, packed=packing in _PACKED)

    return openai.DefaultAsyncHttpxClient(event_hooks={"response": [take]})


def _limited(kind: Any, stream: Any, limit: int, *, packed: bool) -> Any:  # noqa: ANN401 -- a class and two of its kind
    """Return a stream of what is in another one, which ends with an error at a limit."""

    class Limited(kind):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            unpack = zlib.decompressobj(_GZIP) if packed else None
            left = limit
            async for data in stream:
                chunk = data
                if unpack is not None:
                    try:
                        chunk = unpack.decompress(data, left + 1)
                    except zlib.error as error:
                        raise BodyError(f"the answer is not packed as it says ({error})") from None
                left -= len(chunk)
                if left < 0:
                    raise BodyError(f"the answer has more than {limit:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Limited()
