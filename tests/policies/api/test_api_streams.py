"""Answers that come as streams of events, asked for or not."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.errors import EndpointError
from agile_gym.policies.api.failures import MAX_BODY
from agile_gym.policies.api.replies import MalformedReplyError, is_stream, read_reply
from tests.helpers.faulty_server import Answer, completion, refuse, say

TEXT = '<think>höre</think><answer>["A", "B", "C", "D"]</answer>'
STOP = ("</code>", "</answer>", "</tool_call>")
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def event(delta=None, **choice):
    fields = {"index": 0, "delta": delta or {}, "finish_reason": None, **choice}
    return {"id": "c", "object": "chat.completion.chunk", "model": "served-model", "choices": [fields]}


def stream(*chunks, end="data: [DONE]\n\n", line="\n"):
    """Return a body of events as servers send it, with a comment that keeps the line open."""
    lines = [f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks]
    return (": ping\n\n" + "".join(lines) + end).replace("\n", line).encode()


def pieces(text, size=5, finish="stop", usage=USAGE):
    parts = [text[place : place + size] for place in range(0, len(text), size)]
    yield event({"role": "assistant", "content": ""})
    yield from (event({"content": part}) for part in parts)
    yield event(finish_reason=finish)
    yield {"id": "c", "model": "served-model", "choices": [], "usage": usage}


def sent(body, content_type="text/event-stream", **options):
    return Answer(body=body, content_type=content_type, **options)


@pytest.mark.parametrize(
    "answer",
    [
        sent(stream(*pieces(TEXT))),
        sent(stream(*pieces(TEXT), line="\r\n")),
        sent(stream(*pieces(TEXT), end="")),  # without a word of the end
        sent(stream(*pieces(TEXT)), content_type="application/json"),
        sent(stream(*pieces(TEXT)), no_length=True),
        sent(b"\xef\xbb\xbf" + stream(*pieces(TEXT, size=1))),
        sent(stream(*({**chunk, "usage": chunk.get("usage")} for chunk in pieces(TEXT)))),
    ],
)
def test_a_stream_that_was_not_asked_for_is_read(serve, connect, start, answer):
    server = serve(lambda *_: answer)
    policy = connect(server)
    _, observations, infos = start()
    assert policy.act(observations, infos) == [TEXT]
    assert len(server.seen) == 1
    assert "stream" not in server.seen[0].body
    record = policy.finish(0)
    assert (record.usage[0].context_tokens, record.usage[0].new_tokens) == (100, 10)
    assert record.details["turns"] == [{"finish": "stop", "attempts": 1, "served": "served-model"}]


def test_streams_are_asked_for_where_the_server_sends_no_others(serve, connect, start):
    def script(_, body):
        if not body.get("stream"):
            return refuse(400, "This model only support stream mode, please enable the stream parameter.")
        return sent(stream(*pieces(TEXT)))

    server = serve(script)
    policy = connect(server, max_concurrency=1, max_retries=0)
    _, observations, infos = start(3)
    assert policy.act(observations, infos) == [TEXT] * 3
    assert [request.body.get("stream") for request in server.seen] == [None, True, True, True]
    assert server.seen[1].body["stream_options"] == {"include_usage": True}
    server = serve(script)
    assert connect(server, stream=True).act(observations, infos) == [TEXT] * 3
    assert all(request.body["stream"] for request in server.seen)
    (text, *_) = connect(serve(script), stream=False).act(observations, infos)
    assert text.kind == "request_refused"


@pytest.mark.parametrize("words", ["stream must be true", "'stream' is required", "Non-streaming is not supported"])
def test_words_for_streams_only(serve, connect, start, words):
    server = serve(lambda _, body: sent(stream(*pieces(TEXT))) if body.get("stream") else refuse(422, words))
    _, observations, infos = start()
    assert connect(server).act(observations, infos) == [TEXT]


BROKEN = {
    "cut in an event": sent(stream(*pieces(TEXT))[:-300], no_length=True),
    "cut between events": sent(stream(*list(pieces(TEXT))[:4], end=""), no_length=True),
    "cut on the line": sent(stream(*pieces(TEXT)), cut=150),
    "an event that is no JSON": sent(stream(event({"content": "x"}), "{broken", *pieces(TEXT))),
    "an event that is no object": sent(stream("[1]", *pieces(TEXT))),
    "an error in the middle": sent(
        stream(*list(pieces(TEXT))[:3], {"error": {"code": 503, "message": "overloaded"}}, end="")
    ),
    "an error as a text": sent(stream({"error": "CUDA out of memory"})),
    "nothing but comments": sent(b": ping\n\n: ping\n\n"),
    "nothing but its end": sent(stream()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_is_asked_for_again(serve, connect, start, name):
    server = serve(lambda number, _: BROKEN[name] if number < 2 else sent(stream(*pieces(TEXT))))
    policy = connect(server)
    _, observations, infos = start()
    assert policy.act(observations, infos) == [TEXT]
    assert len(server.seen) == 3
    assert len(policy.finish(0).details["turns"][0]["problems"]) == 2


def test_an_error_in_a_stream_keeps_its_status(serve, connect, start):
    server = serve(lambda *_: sent(stream({"error": {"code": 401, "message": "bad key"}}, end="")))
    _, observations, infos = start()
    with pytest.raises(EndpointError, match="HTTP 401"):
        connect(server).act(observations, infos)
    assert len(server.seen) == 1


def test_limits_of_time_and_size_hold_for_streams(serve, connect, start):
    _, observations, infos = start()
    server = serve(lambda *_: sent(stream(*pieces(TEXT)), drip=0.02))
    began = time.monotonic()
    with pytest.raises(EndpointError, match="no whole answer in time"):
        connect(server, request_timeout=0.3, max_retries=1).act(observations, infos)
    assert time.monotonic() - began < 3.5
    body = stream(*[event({"content": "x" * 1_000_000})] * (MAX_BODY // 1_000_000 + 1))
    with pytest.raises(EndpointError, match="more than 16,777,216 bytes"):
        connect(serve(lambda *_: sent(body, no_length=True))).act(observations, infos)


def test_reasoning_refusals_and_tool_calls_are_put_together():
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "swap", "arguments": ""}}
    deltas = [
        {"role": "assistant", "content": None, "reasoning_content": "de"},
        {"reasoning_content": "ep", "tool_calls": []},
        {"content": "<think>a</think>"},
        {"tool_calls": [call]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"first": "A",'}}]},
        {"tool_calls": [{"index": 1, "function": {"name": "observe", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": None, "arguments": ' "second": "B"}'}}]},
    ]
    reply = read_reply(stream(*map(event, deltas), event(finish_reason="tool_calls"), {"choices": [], "usage": USAGE}))
    assert reply.reasoning == "deep"
    assert reply.finish == "tool_calls"
    first, second = reply.text.removeprefix("<think>a</think>").removesuffix("</tool_call>").split("</tool_call>")
    assert json.loads(first.removeprefix("<tool_call>")) == {
        "name": "swap",
        "arguments": {"first": "A", "second": "B"},
    }
    assert json.loads(second.removeprefix("<tool_call>")) == {"name": "observe", "arguments": {}}
    reply = read_reply(stream(event({"refusal": "I "}), event({"refusal": "won't."}), event(finish_reason="stop")))
    assert (reply.text, reply.refusal) == ("I won't.", "I won't.")
    whole = {"choices": [{"index": 0, "message": {"content": "xy"}, "finish_reason": "stop"}]}
    assert read_reply(stream(event({"content": "x"}), event({"content": "y"}), whole)).text == "xy"
    other = event({"content": "no"}, index=1)
    assert read_reply(stream(event({"content": "x"}), other, event(finish_reason="stop"))).text == "x"


@pytest.mark.slow
@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("reason", [..., None, "</answer>"])
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_stream_is_read_as_the_same_answer_at_once(finish, reason, data):
    text = data.draw(st.text(alphabet="ab</>é日\n", max_size=30)) + data.draw(st.sampled_from(["", "<answer>[1", TEXT]))
    size = data.draw(st.integers(1, 9))
    choice = {} if reason is ... else {"stop_reason": reason}
    chunks = list(pieces(text, size=size, finish=finish))
    chunks[-2]["choices"][0].update(choice)
    one = read_reply(stream(*chunks), stop=STOP)
    assert one == read_reply(completion(text, finish=finish, choice=choice), stop=STOP)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.binary().map(lambda body: b"data: " + body) | st.text().map(lambda text: f"data: {json.dumps(text)}".encode())
)
def test_any_bytes_are_an_answer_or_malformed(body):
    assert is_stream(body)
    with pytest.raises(MalformedReplyError) as caught:
        read_reply(body)
    assert len(str(caught.value)) < 600


def test_json_is_no_stream():
    assert not is_stream(completion(TEXT))
    assert not is_stream(b"")
    assert read_reply(say(TEXT).body).text == TEXT
