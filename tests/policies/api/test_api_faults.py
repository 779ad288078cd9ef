"""Faults of endpoints, played by a server that has them."""

import json
import pickle
import time

import pytest

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import AgileGymError, EndpointError
from agile_gym.policies import GivenUp
from agile_gym.rollout import EpisodeSpec, play_episodes
from tests.helpers.faulty_server import KEY, Answer, completion, free_port, refuse, say

TEXT = '<think>x</think><answer>["A", "B", "C", "D"]</answer>'


def first_fails(*answers):
    """Answer with each of these, then with a text."""
    return lambda number, _: answers[number] if number < len(answers) else say(TEXT)


def fail(policy, start):
    """Ask once, and return the error, which shows no key anywhere."""
    _, observations, infos = start()
    with pytest.raises(EndpointError) as caught:
        policy.act(observations, infos)
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status) == (str(error), error.status)
    assert KEY not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None  # the client's exceptions hold the request, and so the key
    assert policy.options.url in str(error)
    return error


BROKEN = {
    "rate limit": refuse(429, "slow down", headers={"Retry-After": "0"}),
    "time-out of the server": refuse(408),
    "conflict": refuse(409),
    "internal error": refuse(500, "oops"),
    "bad gateway": Answer(502, b"<html>Bad gateway</html>", content_type="text/html"),
    "overloaded": refuse(503),
    "own status": refuse(529),
    "connection cut in the body": Answer(body=completion(TEXT), cut=40),
    "connection cut before the body": Answer(body=completion(TEXT), cut=0),
    "connection closed at once": Answer(slam=True),
    "malformed JSON": Answer(body=completion(TEXT)[:-20]),
    "no JSON at all": Answer(body=b"hello"),
    "an empty body": Answer(),
    "another page": Answer(body=b"<!doctype html><title>Hi</title>", content_type="text/html"),
    "not UTF-8": Answer(body=b'{"choices": "\xff\xfe"}'),
    "nested too deep": Answer(body=b"[" * 100_000),
    "a list": Answer(body=b"[1, 2]"),
    "no choices": Answer(body=b'{"object": "chat.completion"}'),
    "an error with status 200": Answer(body=b'{"error": {"code": 502, "message": "upstream"}}'),
    "choices of another type": Answer(body=b'{"choices": {"0": 1}}'),
    "an empty list of choices": Answer(body=b'{"choices": []}'),
    "an answer without a message": Answer(body=b'{"choices": [{"index": 0, "finish_reason": "error"}]}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_what_passes_is_tried_again(serve, connect, start, name):
    server = serve(first_fails(BROKEN[name], BROKEN[name]))
    policy = connect(server)
    _, observations, infos = start()
    assert policy.act(observations, infos) == [TEXT]
    assert len(server.seen) == 3
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.seen)
    assert len({request.raw for request in server.seen}) == 1  # the same request each time
    record = policy.finish(0)
    assert record.details["turns"][0]["attempts"] == 3
    assert len(record.details["turns"][0]["problems"]) == 2
    assert KEY not in str(record)
    assert policy.usage.requests == 3
    assert policy.usage.answers == 1


EMPTY = ("an empty list of choices", "an answer without a message")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BROKEN if name not in EMPTY])
def test_what_does_not_pass_is_an_error_at_last(serve, connect, start, name):
    server = serve(lambda *_: BROKEN[name])
    error = fail(connect(server, max_retries=2), start)
    assert len(server.seen) == 3
    assert "3 attempts" in str(error)
    assert f"POST {server.url}/chat/completions (model 'some-model', 1 message, 4 images)" in str(error)


@pytest.mark.parametrize("name", EMPTY)
def test_an_answer_without_a_text_is_an_empty_text_at_last(serve, connect, start, name):
    server = serve(lambda *_: BROKEN[name])
    policy = connect(server, max_retries=2)
    _, observations, infos = start()
    assert policy.act(observations, infos) == [""]
    assert len(server.seen) == 3
    assert policy.finish(0).details["turns"][0]["finish"] == "no_choices"
    assert policy.usage.withheld == 1


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8", "", "application/octet-stream"])
def test_json_with_another_content_type_is_read(serve, connect, start, content_type):
    server = serve(lambda *_: Answer(body=completion(TEXT), content_type=content_type))
    _, observations, infos = start()
    assert connect(server).act(observations, infos) == [TEXT]
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (refuse(401, f"Incorrect API key provided: {KEY}."), 401, ["TEST_API_KEY", "api_key_env", "***"]),
        (refuse(403, "no access"), 403, ["TEST_API_KEY", "no access"]),
        (refuse(404, "The model `some-model` does not exist"), 404, ["base_url", "The endpoint has: one, two"]),
        (refuse(400, "Use 'max_completion_tokens' instead of max_tokens."), 400, ["max_tokens_name"]),
        (refuse(400, "Unsupported value: 'temperature' must be 1"), 400, ["leave out temperature"]),
        (refuse(400, "'stop' is not supported with this model"), 400, ["send_stop=False"]),
        (Answer(400, b'[{"error": {"message": "Unknown name \\"seed\\""}}]'), 400, ["send_seed=False", "seed"]),
        (refuse(402, "pay"), 402, ["pay"]),
        (refuse(429, "You exceeded your quota", code="insufficient_quota"), 429, ["no credit left"]),
        (Answer(body=b'{"error": {"code": 401, "message": "bad key"}}'), 401, ["TEST_API_KEY", "bad key"]),
    ],
)
def test_what_will_not_pass_is_an_error_at_once(serve, connect, start, answer, status, words):
    server = serve(lambda *_: answer, models=["one", "two"])
    error = fail(connect(server), start)
    assert len(server.seen) == 1
    assert error.status == status
    for word in [*words, server.url, "some-model", "4 images"]:
        assert word in str(error)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refuse(400, "This model does not support image input"), "image_refused", ["choose a model that takes images"]),
        (refuse(400, "maximum context length is 8192 tokens", code="context_length_exceeded"), "context_length",
         ["window", "8192"]),
        (refuse(400, "'max_tokens' is too large: 9000. This model's maximum context length is 8192 tokens"),
         "context_length", ["window"]),
        (refuse(413, "payload too large"), "context_length", ["image_format='jpeg'"]),
        (Answer(413, b"<html>Request Entity Too Large</html>", content_type="text/html"), "context_length", ["413"]),
        (Answer(422, b'{"detail": [{"loc": ["body"], "msg": "Unexpected fields"}]}'), "request_refused",
         ["Unexpected fields"]),
        (refuse(400, "The response was filtered due to the prompt triggering Azure OpenAI's content management policy"),
         "content_filter", ["filtered"]),
        (refuse(400, "Your request was rejected as a result of our safety system."), "content_filter", ["rejected"]),
        (refuse(400, "Input data may contain inappropriate content.", code="data_inspection_failed"), "content_filter",
         ["data_inspection_failed"]),
        (refuse(400, "absolute aspect ratio must be smaller than 200, got 448.0"), "image_refused", ["448"]),
        (Answer(body=b'{"error": {"code": 400, "message": "Provider returned error"}}'), "request_refused", ["400"]),
        (Answer(400), "request_refused", ["no text"]),
    ],
)  # fmt: skip
def test_a_conversation_that_is_refused_is_given_up(serve, connect, start, answer, kind, words):
    server = serve(lambda number, _: answer if number == 0 else say(TEXT))
    policy = connect(server, max_concurrency=1)
    environments, observations, infos = start(2)
    first, second = policy.act(observations, infos)
    assert (first, second) == ("", TEXT)
    assert isinstance(first, GivenUp)
    assert first.kind == kind
    for word in [*words, server.url, "some-model", "4 images"]:
        assert word in first.reason
    assert KEY not in first.reason
    assert "\n" not in first.reason
    observation, *_, info = environments[0].step(first)
    (again,) = policy.act([observation], [info])
    assert (again.kind, again.reason) == (kind, first.reason)
    assert len(server.seen) == 2
    assert (policy.usage.refused, policy.usage.answers) == (1, 1)
    assert policy.finish(0).usage == ()
    observation, info = environments[0].reset(seed=5)
    assert policy.act([observation], [info]) == [TEXT]


def test_once_the_endpoint_has_answered_what_it_refuses_is_one_conversation(serve, connect, start):
    answer = refuse(400, "Unsupported value: 'temperature' must be 1")
    policy = connect(serve(lambda number, _: say(TEXT) if number == 0 else answer), max_concurrency=1)
    _, observations, infos = start(2)
    texts = policy.act(observations, infos)
    assert texts == [TEXT, ""]
    assert texts[1].kind == "request_refused"
    assert "leave out temperature" in texts[1].reason


def test_what_a_server_says_is_shown_shortened_and_without_key_and_images(serve, connect, start):
    def echo(_, body):
        said = f"{KEY} Authorization: Bearer {KEY} {json.dumps(body)}" + "x" * 10_000
        return refuse(400, said)

    _, observations, infos = start()
    (text,) = connect(serve(echo)).act(observations, infos)
    assert "Bearer ***" in text.reason
    assert "base64" not in text.reason
    assert KEY not in text.reason
    assert len(text.reason) < 1000


def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_record(serve, connect, start):
    server = serve(first_fails(refuse(500, f"your key {KEY} broke me"), Answer(body=f"key {KEY}".encode())))
    policy = connect(server)
    _, observations, infos = start()
    policy.act(observations, infos)
    problems = policy.finish(0).details["turns"][0]["problems"]
    assert problems[0] == "HTTP 500: your key *** broke me"
    assert KEY not in problems[1]


def test_an_endpoint_that_is_down_is_named(connect, start):
    url = f"http://127.0.0.1:{free_port()}/v1"
    error = fail(connect(url, max_retries=2), start)
    assert "3 attempts" in str(error)
    assert f"Check that a server runs at {url}" in str(error)
    assert error.status is None


def test_an_endpoint_without_a_name_is_an_error(connect, start):
    error = fail(connect("http://nowhere.invalid/v1", max_retries=1), start)
    assert "http://nowhere.invalid/v1" in str(error)


@pytest.mark.parametrize("slow", [Answer(body=completion(TEXT), delay=3), Answer(body=completion(TEXT), drip=0.02)])
def test_the_time_limit_holds_for_the_whole_request(serve, connect, start, slow):
    """The second server sends a byte every 20 ms, so that no single read takes long."""
    server = serve(lambda *_: slow)
    began = time.monotonic()
    error = fail(connect(server, request_timeout=0.3, max_retries=1), start)
    assert 0.6 <= time.monotonic() - began < 3.5
    assert len(server.seen) == 2
    assert "no whole answer in time" in str(error)
    assert "request_timeout" in str(error)


def test_a_slow_answer_is_asked_for_again(serve, connect, start):
    server = serve(lambda number, _: Answer(body=completion(TEXT), delay=2 if number == 0 else 0))
    _, observations, infos = start()
    assert connect(server, request_timeout=0.3).act(observations, infos) == [TEXT]
    assert len(server.seen) == 2


def test_retry_after_is_honoured(serve, connect, start):
    server = serve(first_fails(refuse(429, headers={"Retry-After": "1"})))
    policy = connect(server, max_concurrency=1)
    _, observations, infos = start(3)
    assert policy.act(observations, infos) == [TEXT] * 3
    times = [request.time for request in server.seen]
    assert len(times) == 4
    assert 1.0 <= times[1] - times[0] < 3


def test_retry_after_holds_back_requests_that_were_not_refused(serve, connect, start):
    answers = [refuse(429, headers={"Retry-After": "1"}), Answer(body=completion(TEXT), delay=0.2)]
    server = serve(first_fails(*answers))
    _, observations, infos = start(3)
    assert connect(server, max_concurrency=2).act(observations, infos) == [TEXT] * 3
    times = [request.time for request in server.seen]
    assert times[1] - times[0] < 0.9
    assert times[2] - times[0] >= 1.0


def test_retry_after_in_milliseconds_is_honoured(serve, connect, start):
    policy = connect(serve(first_fails(refuse(503, headers={"retry-after-ms": "400"}))))
    _, observations, infos = start(3)
    began = time.monotonic()
    policy.act(observations, infos)
    assert 0.4 <= time.monotonic() - began < 3


def test_a_pause_beyond_the_deadline_is_not_waited_for(serve, connect, start):
    server = serve(lambda *_: refuse(429, "come back tomorrow", headers={"Retry-After": "86400"}))
    began = time.monotonic()
    error = fail(connect(server, turn_timeout=5), start)
    assert time.monotonic() - began < 2
    assert "86400.0 s, would be beyond turn_timeout=5" in str(error)
    assert len(server.seen) == 1


def test_a_turn_has_a_deadline_over_all_attempts(serve, connect, start):
    server = serve(lambda *_: refuse(500))
    began = time.monotonic()
    fail(connect(server, turn_timeout=0.8, backoff=0.2, max_backoff=0.2, max_retries=100), start)
    assert time.monotonic() - began < 4
    assert 2 <= len(server.seen) <= 9


def test_pauses_grow_and_depend_on_the_seed_only(serve, connect, start, caplog):
    def pauses(seed):
        server = serve(first_fails(*[refuse(500)] * 4))
        policy = connect(server, backoff=0.02)
        policy.reset(seed)
        _, observations, infos = start()
        caplog.clear()
        policy.act(observations, infos)
        told = [record.args[2] for record in caplog.records if record.name == "agile_gym.policies.api.policy"]
        times = [request.time for request in server.seen]
        for pause, earlier, later in zip(told, times[:-1], times[1:], strict=True):
            assert later - earlier >= pause
        return told

    one, same, other = pauses(1), pauses(1), pauses(2)
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert all(0.01 * 2**number <= pause <= 0.02 * 2**number for number, pause in enumerate(one))


def test_a_failed_batch_keeps_what_came_and_asks_for_the_rest_only(serve, connect, start):
    broken = True

    def script(number, body):
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        if turns == 1 and number == 5 and broken:
            return Answer(401, b"no", delay=0.5)
        return say(f"<think>{number}</think><code>observation_image_{turns + 1} = observation(state)</code>")

    server = serve(script)
    policy = connect(server)
    environments, observations, infos = start(3)
    texts = policy.act(observations, infos)
    stepped = [env.step(text) for env, text in zip(environments, texts, strict=True)]
    observations, infos = [s[0] for s in stepped], [s[4] for s in stepped]
    with pytest.raises(EndpointError, match="HTTP 401"):
        policy.act(observations, infos)
    assert len(server.seen) == 6
    paid = policy.usage.answers
    assert paid == 5
    broken = False
    texts = policy.act(observations, infos)  # the same call again
    assert len(server.seen) == 7
    assert (
        sorted(texts)[:2]
        == sorted(f"<think>{n}</think><code>observation_image_2 = observation(state)</code>" for n in (3, 4, 6))[:2]
    )
    stepped = [env.step(text) for env, text in zip(environments, texts, strict=True)]
    policy.act([s[0] for s in stepped], [s[4] for s in stepped])
    last = [request.body["messages"] for request in server.seen[-3:]]
    assert all([m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"] for messages in last)
    assert {messages[3]["content"] for messages in last} == set(texts)
    for slot in range(3):
        assert len(policy.finish(slot).usage) == 3


def test_finished_episodes_are_not_lost(serve, connect):
    """A generator of episodes hands over what is finished before the endpoint fails for good."""
    server = serve(lambda number, _: say(TEXT) if number < 4 else refuse(500))
    policy = connect(server, max_retries=1, max_concurrency=2)
    specs = [EpisodeSpec("jigsaw", seed) for seed in range(6)]
    finished = []

    def play():
        for _, transcript in play_episodes(policy, specs, {"jigsaw": lambda: JigsawVisionEnv(image_size=64)}, batch=2):
            finished.append(transcript)

    with pytest.raises(AgileGymError, match="HTTP 500"):
        play()
    assert len(finished) == 4
    assert all(transcript.turns[0].text == TEXT for transcript in finished)


def test_a_programming_error_is_not_taken_for_the_endpoints(serve, connect, start, monkeypatch):
    from agile_gym.policies.api import asking

    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(asking, "read_reply", broken)
    server = serve(lambda *_: say(TEXT))
    _, observations, infos = start()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        connect(server).act(observations, infos)
    assert len(server.seen) == 1
