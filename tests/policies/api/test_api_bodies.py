"""Bodies that servers send instead of answers: too much, packed, in odd letters, with commands to the terminal."""

import gzip
import json
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agile_gym.errors import EndpointError
from agile_gym.policies.api.failures import classify
from agile_gym.policies.api.limits import read_retry_after
from agile_gym.policies.api.replies import read_reply
from tests.helpers.faulty_server import Answer, completion, refuse, say

TEXT = '<think>x</think><answer>["A", "B", "C", "D"]</answer>'
ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe"
SEEN = r"\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe"
MEGABYTE = 1024 * 1024
DATES = st.datetimes().map("{:%a, %d %b %Y %H:%M:%S GMT}".format)


def ask(policy, start):
    _, observations, infos = start()
    return policy.act(observations, infos)


def blanks(megabytes):
    """Return blanks, packed by a factor of a thousand."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(b" " * MEGABYTE) for _ in range(megabytes)]
    return b"".join(parts) + packer.flush()


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_given_up(serve, connect, start, status, packed):
    answer = Answer(status, blanks(400), {"Content-Encoding": "gzip"}) if packed else Answer(status, bytes(400 << 20))
    server = serve(lambda *_: answer)
    policy = connect(server)
    tracemalloc.start()
    try:
        with pytest.raises(EndpointError, match=r"^the answer has more than 16,777,216 bytes\. Request: "):
            ask(policy, start)
        assert tracemalloc.get_traced_memory()[1] < 100 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert len(server.seen) == 1  # it would be no shorter the next time


def test_packed_answers_are_read(serve, connect, start):
    server = serve(lambda *_: Answer(body=gzip.compress(completion(TEXT)), headers={"Content-Encoding": "gzip"}))
    assert ask(connect(server), start) == [TEXT]
    assert server.seen[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("packing", "message"),
    [
        ("gzip", "not packed as its header declares"),
        ("br", "packed as 'br', which was not requested"),
        ("gzip, gzip", "packed as"),
    ],
)
def test_other_packings_are_refused(serve, connect, start, packing, message):
    server = serve(lambda *_: Answer(body=completion(TEXT), headers={"Content-Encoding": packing}))
    with pytest.raises(EndpointError, match=message):
        ask(connect(server), start)


@pytest.mark.parametrize("charset", ["hex", "rot13", "zlib", "idna", "undefined", "utf-16", "unicode_escape"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_header_cannot_choose_how_letters_are_read(serve, connect, start, charset, status):
    kind = f"application/json; charset={charset}"
    refused = refuse(400, "no such thing: \xe4").body
    server = serve(lambda *_: Answer(status, completion(TEXT) if status == 200 else refused, content_type=kind))
    if status == 200:
        assert ask(connect(server), start) == [TEXT]
    else:
        (text,) = ask(connect(server), start)
        assert "HTTP 400: no such thing: \xe4" in text.reason


@pytest.mark.parametrize(
    "answer",
    [
        refuse(402, ESCAPES),
        refuse(401, "no", code=ESCAPES),
        Answer(503, ESCAPES.encode(), content_type="text/plain"),
        Answer(body=json.dumps({"error": ESCAPES}, ensure_ascii=False).encode()),
        refuse(404, "no"),
    ],
)
def test_what_a_server_says_cannot_command_the_terminal(serve, connect, start, caplog, answer):
    server = serve(lambda *_: answer, models=[ESCAPES])
    with pytest.raises(EndpointError) as caught:
        ask(connect(server, max_retries=1), start)
    assert SEEN in str(caught.value)
    assert str(caught.value).isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records if "agile_gym" in record.name)


def test_the_reason_of_a_refusal_cannot_command_the_terminal(serve, connect, start, caplog):
    (text,) = ask(connect(serve(lambda *_: refuse(400, ESCAPES))), start)
    assert SEEN in text.reason
    assert text.reason.isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records if "agile_gym" in record.name)


def test_errors_without_words_are_called_by_their_names():
    openai = pytest.importorskip("openai")
    error = openai.APIConnectionError(request=None)
    error.__cause__ = ConnectionResetError()
    assert classify(error, openai, "").message == "ConnectionResetError"
    assert classify(ConnectionResetError(), openai, "").message == "ConnectionResetError"
    assert classify(ConnectionResetError("why"), openai, "").message == "ConnectionResetError: why"


def test_texts_of_any_length_become_records_of_a_bounded_one():
    long = "x" * 1_000_000
    fields = {"reasoning_content": long, "refusal": long, "tool_calls": [{"function": {"name": long}}]}
    body = completion(long, finish=long, **fields).replace(b"served-model", long.encode())
    for as_think in (False, True):
        reply = read_reply(body, reasoning_as_think=as_think)
        assert len(reply.text) <= 200_100
        assert len(json.dumps(reply.details())) <= 201_000
    assert read_reply(completion("y" * 40_000)).text == "y" * 40_000  # longer than any environment takes


@pytest.mark.parametrize("code", [True, 0, -1, 10**30])
def test_an_error_in_a_body_of_status_200_has_a_status_only_if_it_is_one(serve, connect, start, code):
    server = serve(lambda *_: Answer(body=json.dumps({"error": {"code": code, "message": "upstream"}}).encode()))
    with pytest.raises(EndpointError, match=r"^the body holds an error") as caught:
        ask(connect(server, max_retries=0), start)
    assert caught.value.status is None


@given(st.text() | st.floats().map(str) | st.integers().map(str) | DATES)
def test_a_server_cannot_ask_for_a_pause_beyond_a_week(text):
    for wait in (read_retry_after(text, None, 1.7e9), read_retry_after(None, text, 1.7e9)):
        assert wait is None or 0 <= wait <= 7 * 86_400


def test_a_server_that_asks_for_ages_is_not_waited_for(serve, connect, start):
    server = serve(lambda *_: refuse(429, "later", headers={"Retry-After": "1e300"}))
    with pytest.raises(EndpointError, match=r"in 604800\.0 s, would be beyond turn_timeout"):
        ask(connect(server), start)
    assert len(server.seen) == 1
    assert ask(connect(serve(lambda *_: say(TEXT))), start) == [TEXT]
