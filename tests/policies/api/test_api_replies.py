import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agile_gym.policies.api.replies import MalformedReplyError, end_text, read_reply

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
STOP = ("</code>", "</answer>", "</tool_call>")


def body(message, choice=None, **fields):
    return json.dumps({"choices": [{"message": message, **(choice or {})}], **fields}).encode()


@pytest.mark.parametrize(
    ("text", "finish", "reason", "expected"),
    [
        # The server says nothing of the stop text, as OpenAI's: it was the one that closes the tag opened last.
        ("<think>a</think><code>observe()", "stop", ..., "<think>a</think><code>observe()</code>"),
        ('<think>a</think><answer>["A"]', "stop", ..., '<think>a</think><answer>["A"]</answer>'),
        ("<tool_call>{}", "stop", ..., "<tool_call>{}</tool_call>"),
        ("<think>I could write <code> here</think><answer>[]", "stop", ..., None),
        ("no tags", "stop", ..., "no tags"),
        ("<think>a", "stop", ..., "<think>a"),
        # The server names it, as vLLM and SGLang do, or says that there was none.
        ("<code>x", "stop", "</code>", "<code>x</code>"),
        ("no tags", "stop", "</answer>", "no tags"),
        ("<think>a</think>b", "stop", "</code>", "<think>a</think>b"),
        ("<code>x", "stop", None, "<code>x"),
        ("<code>x", "stop", 151645, "<code>x"),
        ("<code>x", "stop", "###", "<code>x"),
        # The server leaves it in, as transformers serve does, or was not told of it.
        ("<code>x</code>", "stop", ..., "<code>x</code>"),
        ("<code>x</code> and more <answer>[]</answer>", "stop", ..., "<code>x</code>"),
        ("<code>x</code> and", "length", ..., "<code>x</code>"),
        ('<answer>["A"]</answer></code>', "stop", "</code>", '<answer>["A"]</answer>'),
        # Thoughts may hold it, be they opened by the chat template; it is put back nowhere but behind its own tag.
        ("<think>say <code>x</code> and </answer></think><answer>[]", "stop", ..., None),
        (
            "<think><code>x</code></think><code>y</code> more",
            "stop",
            ...,
            "<think><code>x</code></think><code>y</code>",
        ),
        ("say <code>x</code></think><code>y</code> more", "length", ..., "say <code>x</code></think><code>y</code>"),
        ("<think>say <code>x", "stop", "</code>", "<think>say <code>x"),
        ("<think>say <code>x", "stop", ..., "<think>say <code>x"),
        ("<think>say <code>x</code> and go on", "length", ..., "<think>say <code>x</code> and go on"),
        ("<think>a <answer></think>b", "stop", ..., "<think>a <answer></think>b"),
        ("<think>a</think><think><code></think>b", "stop", "</code>", "<think>a</think><think><code></think>b"),
        # It was cut for another reason: nothing is put back.
        ("<code>obser", "length", ..., "<code>obser"),
        ("<code>obser", "content_filter", ..., "<code>obser"),
        ("<code>obser", None, ..., "<code>obser"),
        ("", "stop", ..., ""),
    ],
)
def test_a_turn_ends_with_its_stop_text(text, finish, reason, expected):
    if expected is None:
        expected = f"{text}</answer>"
    assert end_text(text, STOP, finish=finish, reason=reason) == expected
    choice = {"finish_reason": finish} if reason is ... else {"finish_reason": finish, "stop_reason": reason}
    assert read_reply(body({"content": text}, choice), stop=STOP).text == expected


@CALM
@given(st.text(), st.sampled_from(["stop", "length"]))
def test_without_stop_texts_nothing_changes(text, finish):
    assert end_text(text, (), finish=finish) == text


@CALM
@given(st.text(alphabet="ab<>/", max_size=30))
def test_a_turn_is_never_longer_than_to_the_first_stop_text(text):
    ended = end_text(text, ("</a>", "</b>"), finish="length")
    assert text.startswith(ended)
    assert "</a>" not in ended[:-4]
    assert "</b>" not in ended[:-4]


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "x", "reasoning_content": "deep"}, "x", "deep"),
        ({"content": "x", "reasoning": "deep"}, "x", "deep"),
        ({"content": "x", "reasoning_content": None, "reasoning": " "}, "x", None),
        ({"content": None, "reasoning": "deep"}, "", "deep"),
        ({"content": [{"type": "thinking", "thinking": [{"text": "de"}, {"text": "ep"}]}, {"text": "x"}]}, "x", "deep"),
        ({"content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}, "xy", None),
        ({"content": None, "refusal": "I will not."}, "I will not.", None),
        ({"content": None}, "", None),
        ({"content": 3}, "", None),
    ],
)
def test_content_reasoning_and_refusals(message, text, reasoning):
    reply = read_reply(body(message, {"finish_reason": "stop"}))
    assert (reply.text, reply.reasoning) == (text, reasoning)
    assert reply.refusal == message.get("refusal")


def test_reasoning_can_be_put_back_as_think():
    message = {"content": "<code>observe()", "reasoning_content": "I <think>look</think>.\n"}
    plain = read_reply(body(message, {"finish_reason": "stop"}), stop=STOP)
    assert plain.text == "<code>observe()</code>"
    put = read_reply(body(message, {"finish_reason": "stop"}), stop=STOP, reasoning_as_think=True)
    assert put.text == "<think>I look.</think><code>observe()</code>"
    own = {"content": "<think>mine</think>", "reasoning_content": "other"}
    assert read_reply(body(own), reasoning_as_think=True).text == "<think>mine</think>"
    assert read_reply(body({"content": "x"}), reasoning_as_think=True).text == "x"


def test_tool_calls_that_a_parser_took_out_are_written_back():
    calls = [
        {"type": "function", "function": {"name": "swap", "arguments": '{"first": "A", "second": "B"}'}},
        {"type": "function", "function": {"name": "observe", "arguments": ""}},
        {"type": "function", "function": {"name": "crop", "arguments": "{broken"}},
    ]
    text = read_reply(body({"content": "<think>a</think>", "tool_calls": calls}, {"finish_reason": "tool_calls"})).text
    written = text.removeprefix("<think>a</think>").removesuffix("</tool_call>").split("</tool_call>")
    assert [part.startswith("<tool_call>") for part in written] == [True] * 3
    read = [json.loads(part.removeprefix("<tool_call>")) for part in written]
    assert read[0] == {"name": "swap", "arguments": {"first": "A", "second": "B"}}
    assert read[1] == {"name": "observe", "arguments": {}}
    assert read[2] == {"name": "crop", "arguments": "{broken"}
    thought = read_reply(body({"content": "<think>a <tool_call></think>", "tool_calls": calls[1:2]}))
    assert thought.text.endswith('</think><tool_call>{"name": "observe", "arguments": {}}</tool_call>')
    already = {"content": '<tool_call>{"name": "observe"}</tool_call>', "tool_calls": calls}
    assert read_reply(body(already)).text == already["content"]


SWAP = {"first": "A", "second": "B"}


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"function": {"name": "swap", "arguments": json.dumps(SWAP)}}]},
        {"tool_calls": [{"function": {"name": "swap", "arguments": json.dumps(json.dumps(SWAP))}}]},
        {"tool_calls": [{"function": {"name": "swap", "arguments": SWAP}}]},
        {"tool_calls": [{"function": {"name": "swap", "parameters": SWAP}}]},
        {"tool_calls": [{"function": {"name": "swap", "arguments": None, "parameters": json.dumps(SWAP)}}]},
        {"tool_calls": [{"name": "swap", "arguments": json.dumps(SWAP)}]},
        {"tool_calls": [{"type": "tool_use", "name": "swap", "input": SWAP}]},
        {"tool_calls": None, "function_call": {"name": "swap", "arguments": json.dumps(SWAP)}},
    ],
)
def test_a_tool_call_is_read_in_every_form_that_servers_send(message):
    text = read_reply(body({"content": "<think>a</think>", **message}, {"finish_reason": "tool_calls"})).text
    call = text.removeprefix("<think>a</think><tool_call>").removesuffix("</tool_call>")
    assert json.loads(call) == {"name": "swap", "arguments": SWAP}


@pytest.mark.parametrize("arguments", [None, "", "null", "{}", {}])
def test_a_tool_call_without_arguments(arguments):
    message = {"content": None, "tool_calls": [{"function": {"name": "observe", "arguments": arguments}}]}
    assert read_reply(body(message)).text == '<tool_call>{"name": "observe", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}, (10, None, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}, (10, 8, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": None}, (10, None, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 54}, (10, None, 44)),  # reasoning in the total
        ({"prompt_tokens": -1, "completion_tokens": "4"}, (None, None, None)),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, (None, None, None)),
        (None, (None, None, None)),
        ("many", (None, None, None)),
    ],
)
def test_tokens(usage, tokens):
    reply = read_reply(body({"content": "x"}, usage=usage))
    assert (reply.prompt_tokens, reply.cached_tokens, reply.new_tokens) == tokens


def test_halves_of_surrogates_become_question_marks():
    raw = b'{"choices": [{"message": {"content": "a\\ud83dz", "reasoning": "\\udc00"}, "finish_reason": "\\ud800"}]}'
    reply = read_reply(raw, reasoning_as_think=True)
    assert reply.text == "<think>?</think>a?z"
    json.dumps(reply.details(), ensure_ascii=False).encode("utf-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "content",
    "reasoning_content",
    "reasoning",
    "refusal",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "parameters",
    "text",
)
MESSAGE = JSON | st.dictionaries(st.sampled_from(NAMES), JSON | st.lists(st.dictionaries(st.sampled_from(NAMES), JSON)))
CHOICE = JSON | st.fixed_dictionaries(
    {}, optional={"message": MESSAGE, "finish_reason": JSON, "stop_reason": JSON, "matched_stop": JSON}
)
COMPLETION = st.fixed_dictionaries(
    {}, optional={"choices": JSON | st.lists(CHOICE, max_size=2), "usage": JSON, "error": JSON, "model": JSON}
)


def outcome(raw):
    try:
        return read_reply(raw, stop=STOP, reasoning_as_think=True)
    except MalformedReplyError as error:
        return error


@pytest.mark.slow
@CALM
@given(st.binary() | (JSON | COMPLETION).map(lambda data: json.dumps(data).encode()))
@example(b"[" * 100_000)
@example(b'{"choices": [{"message": {"content": ' + b"[" * 900 + b"]" * 900 + b"}}]}")
@example(b'{"error": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}")
@example(b'{"choices": [{"message": {"tool_calls": [{"function": {"arguments": "' + b"[" * 9999 + b'"}}]}}]}')
@example(b"1" * 5000)
def test_any_bytes_are_an_answer_or_malformed(raw):
    reply = outcome(raw)
    if isinstance(reply, MalformedReplyError):
        assert len(str(reply).encode("utf-8")) < 3000
        return
    reply.text.encode("utf-8")
    json.dumps(reply.details(), ensure_ascii=False).encode("utf-8")
