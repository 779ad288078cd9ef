"""Thoughts that speak of tags, on servers that end a text at a stop text wherever it stands."""

import pytest

from tests.helpers.faulty_server import Answer, completion

STOP = ("</code>", "</answer>", "</tool_call>")
THOUGHT = "<think>I could write <code>swap(0, 1)</code> or <answer>[]</answer>.</think>"
TURN = f"{THOUGHT}<code>observe()</code>"
MORE = "And the result will be"


def stopping(text, names, take_out=False, seen=None):
    """Answer as a server does that looks for stop texts in all that is written, thoughts included.

    Args:
        text: What its model writes, if nothing stops it.
        names: Whether it says which stop text it was, as vLLM and SGLang do.
        take_out: Whether it hands the thought over apart from the text.
    """

    def script(_, body):
        if seen is not None:
            seen.append(body.get("stop"))
        ends = [(text.index(stop), stop) for stop in body.get("stop", ()) if stop in text]
        place, stop = min(ends, default=(len(text), None))
        said, fields = text[:place], {}
        choice = {"stop_reason": stop} if names else {}
        if take_out:
            thought, _, said = said.partition("</think>")
            fields = {"reasoning_content": thought.removeprefix("<think>")}
        return Answer(body=completion(said or None, choice=choice, **fields))

    return script


@pytest.mark.parametrize("names", [True, False])
def test_a_turn_is_asked_for_again_and_stop_texts_are_sent_no_more(serve, connect, start, names):
    seen = []
    policy = connect(serve(stopping(TURN + MORE, names, seen=seen)), max_retries=0, max_concurrency=1)
    _, observations, infos = start(3)
    assert policy.act(observations, infos) == [TURN] * 3
    assert seen == [list(STOP), None, None, None]
    record = policy.finish(0)
    assert record.details["turns"][0]["attempts"] == 2
    assert record.details["turns"][0]["problems"] == ["a stop text ended the turn in the middle of a thought"]
    assert policy.usage.new_tokens == 4 * 10  # those of the text that was thrown away were paid, too


@pytest.mark.parametrize("names", [True, False])
def test_thoughts_that_the_server_takes_out(serve, connect, start, names):
    seen = []
    server = serve(stopping(TURN + MORE, names, take_out=True, seen=seen))
    policy = connect(server, reasoning_as_think=True)
    _, observations, infos = start()
    assert policy.act(observations, infos) == [TURN]
    assert seen == [list(STOP), None]


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("opened", [True, None])
def test_thoughts_that_the_template_opens(serve, connect, start, names, opened):
    """The server sends what the model wrote, which begins inside of the thought."""
    text, plain = TURN.removeprefix("<think>"), "Hm.</think><code>observe()</code>"
    seen = []
    long, short = (stopping(part + MORE, names, seen=seen) for part in (text, plain))
    server = serve(lambda number, body: (short if number == 0 and opened is None else long)(number, body))
    policy = connect(server, max_concurrency=1, thought_opened=opened)
    _, observations, infos = start(2)
    assert policy.act(observations, infos) == [plain if opened is None else text, text]
    assert seen == ([list(STOP), list(STOP), None] if opened is None else [list(STOP), None, None])


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("text", ["<code>observe()</code>", "<think>a</think><answer>[]</answer>"])
def test_turns_whose_thoughts_speak_of_no_tags_are_asked_for_once(serve, connect, start, names, text):
    seen = []
    policy = connect(serve(stopping(text + MORE, names, seen=seen)))
    _, observations, infos = start(2)
    assert policy.act(observations, infos) == [text] * 2
    assert seen == [list(STOP)] * 2


def test_a_thought_that_the_model_itself_does_not_end_is_left_open(serve, connect, start):
    seen = []
    policy = connect(serve(stopping("<think>I give up", True, seen=seen)))
    _, observations, infos = start()
    assert policy.act(observations, infos) == ["<think>I give up"]
    assert len(seen) == 1
