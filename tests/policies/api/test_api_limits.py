"""Concurrency, rates, cost and interruption."""

import asyncio
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import BudgetError, ConfigurationError
from agile_gym.policies.api.limits import RateLimiter, backoff_seconds, read_retry_after
from agile_gym.rollout import EpisodeSpec, play_episodes
from tests.helpers.faulty_server import Answer, FaultyServer, completion, say

TEXT = '<think>x</think><answer>["A", "B", "C", "D"]</answer>'
LOOK = "<think>x</think><code>observation_image_{} = observation(state)</code>"


@pytest.mark.slow
def test_requests_are_side_by_side_and_not_too_many(serve, connect, start):
    server = serve(lambda *_: Answer(body=completion(TEXT), delay=0.3))
    _, observations, infos = start(12)
    policy = connect(server, max_concurrency=6)
    policy.act(observations[:1], infos[:1])  # so that the client is there
    began = time.monotonic()
    assert policy.act(observations, infos) == [TEXT] * 12
    seconds = time.monotonic() - began
    assert server.peak == 6
    assert 0.6 <= seconds < 3  # one after the other it would be 3.6
    server.peak = 0
    connect(server, max_concurrency=1).act(observations[:3], infos[:3])
    assert server.peak == 1


def test_requests_a_minute(serve, connect, start):
    server = serve(lambda *_: say(TEXT))
    _, observations, infos = start(6)
    policy = connect(server, requests_per_minute=600)
    policy.act(observations[:1], infos[:1])  # so that the client is there
    policy.reset()
    policy.act(observations, infos)
    times = sorted(request.time for request in server.seen[1:])
    assert 5 * 0.1 - 0.1 <= times[-1] - times[0] < 3


@pytest.mark.slow
def test_tokens_a_minute_are_corrected_by_what_was_taken(serve, connect, start):
    """Each answer takes 5,000 tokens, more than one would think, so that 600,000 a minute are two requests a second."""
    server = serve(lambda *_: Answer(body=completion(TEXT, usage=(4900, 100))))
    _, observations, infos = start(1)
    policy = connect(server, tokens_per_minute=600_000)
    for _ in range(4):
        policy.reset()
        policy.act(observations, infos)
    times = [request.time for request in server.seen]
    assert 3 * 0.5 - 0.2 <= times[-1] - times[0] < 4


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.floats(1, 1000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5000)), min_size=1, max_size=40),
    st.floats(100, 1e6),
)
def test_no_minute_holds_more_than_is_allowed(requests, arrivals, tokens):
    limiter, now, sent = RateLimiter(requests, tokens), 0.0, []
    for gap, cost in arrivals:
        now += gap
        sent.append((limiter.reserve(now, cost), cost))
        assert sent[-1][0] >= now
    for time_, _ in sent:
        inside = [(when, cost) for when, cost in sent if time_ <= when < time_ + 60 - 1e-6]
        assert len(inside) <= requests + 1
        assert sum(cost for _, cost in inside[:-1]) <= tokens + 1e-3
    free = RateLimiter()
    assert [free.reserve(1.0, 10**9), free.reserve(1.0, 1)] == [1.0, 1.0]


def test_pauses_between_attempts():
    pauses = [backoff_seconds(attempt, 0.5, 8.0, random.Random(3)) for attempt in range(1, 12)]
    chance = 1 - random.Random(3).random() / 2
    assert pauses == pytest.approx([chance * min(8.0, 0.5 * 2**n) for n in range(11)])
    draws = [backoff_seconds(1, 1.0, 8.0, random.Random(seed)) for seed in range(300)]
    assert 0.5 <= min(draws) < 0.52
    assert 0.98 < max(draws) <= 1.0
    assert backoff_seconds(10**6, 1.0, 30.0, random.Random(0)) <= 30


@pytest.mark.parametrize(
    ("value", "milliseconds", "seconds"),
    [
        ("2", None, 2.0),
        ("0.5", None, 0.5),
        ("2", "150", 0.15),
        (None, "x", None),
        (None, None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("Thu, 01 Jan 1970 00:20:00 GMT", None, 200.0),
        ("Thu, 01 Jan 1970 00:10:00 GMT", None, 0.0),
        ("Thu, 99 Jan 1970 00:10:00 GMT", None, None),
    ],
)
def test_retry_after(value, milliseconds, seconds):
    assert read_retry_after(value, milliseconds, 1000.0) == seconds


def test_tokens_and_cost_of_episodes_and_of_the_run(serve, connect):
    def script(number, body):
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        data = json.loads(completion(TEXT if turns == 2 else LOOK.format(turns + 1), usage=(1000 + turns, 20)))
        data["usage"]["prompt_tokens_details"] = {"cached_tokens": 400 * turns}
        return Answer(body=json.dumps(data).encode())

    server = serve(script)
    policy = connect(server, price_in=2.0, price_cached=0.5, price_out=8.0, temperature=0.7, system="Be good.")
    specs = [EpisodeSpec("jigsaw", seed, policy_seed=seed) for seed in range(3)]
    transcripts = [t for _, t in play_episodes(policy, specs, {"jigsaw": lambda: JigsawVisionEnv(image_size=64)})]
    cost = (1000 * 2 + 601 * 2 + 400 * 0.5 + 202 * 2 + 800 * 0.5 + 60 * 8) / 1e6
    for transcript in transcripts:
        assert [t.usage.context_tokens for t in transcript.turns] == [1000, 1001, 1002]
        assert [t.usage.computed_tokens for t in transcript.turns] == [1000, 601, 202]
        assert [t.usage.new_tokens for t in transcript.turns] == [20] * 3
        assert all(0 < t.usage.seconds < 20 for t in transcript.turns)
        details = transcript.details
        assert details["cost"] == pytest.approx(cost)
        assert details["tokens"] == {"read": 3003, "cached": 1200, "written": 60}
        assert details["model"] == "some-model"
        assert details["base_url"] == server.url
        assert details["sampling"]["temperature"] == 0.7
        assert details["sampling"]["seed"] == transcript.task["policy_seed"]
        assert [turn["finish"] for turn in details["turns"]] == ["stop"] * 3
        assert details["turns"][0]["served"] == "served-model"
        assert transcript.system == "Be good."
        json.dumps(details)
    spent = policy.usage
    assert (spent.requests, spent.answers, spent.uncounted) == (9, 9, 0)
    assert (spent.prompt_tokens, spent.cached_tokens, spent.new_tokens) == (9009, 3600, 180)
    assert spent.cost == pytest.approx(3 * cost)


def test_without_prices_or_usage_the_cost_is_not_known(serve, connect, start):
    server = serve(lambda *_: Answer(body=completion(TEXT, usage=None)))
    _, observations, infos = start()
    for options in ({}, {"price_in": 1.0, "price_out": 1.0}):
        policy = connect(server, **options)
        policy.act(observations, infos)
        record = policy.finish(0)
        assert record.details["cost"] is None
        assert record.usage[0].context_tokens is None
        assert policy.usage.uncounted == 1


def test_the_run_stops_when_the_budget_is_spent(serve, connect):
    server = serve(lambda *_: Answer(body=completion(TEXT, usage=(1_000_000, 0))))
    policy = connect(server, price_in=1.0, price_out=1.0, max_cost=4.5, max_concurrency=1)
    specs = [EpisodeSpec("jigsaw", seed) for seed in range(10)]
    finished = []

    def play(policy):
        for _, transcript in play_episodes(policy, specs, {"jigsaw": lambda: JigsawVisionEnv(image_size=64)}, batch=2):
            finished.append(transcript)

    with pytest.raises(BudgetError, match=r"5 of max_cost=4\.5, for 5 answers"):
        play(policy)
    assert len(server.seen) == 5
    assert len(finished) == 4  # the fifth answer came, but its batch was not played
    blind = connect(
        serve(lambda *_: Answer(body=completion(TEXT, usage=None))), price_in=1.0, price_out=1.0, max_cost=9
    )
    with pytest.raises(BudgetError, match="did not report the tokens"):
        play(blind)


def test_refusals_and_cut_texts_are_counted_and_played(serve, connect):
    answers = [
        completion("<think>I was in the middle of", finish="length"),
        completion("", finish="content_filter"),
        completion(None, refusal="I cannot look at this."),
        completion(None, finish="stop"),
    ]
    server = serve(lambda number, _: Answer(body=answers[number]))
    policy = connect(server)
    spec = EpisodeSpec("jigsaw", 0)
    (pair,) = play_episodes(policy, [spec], {"jigsaw": lambda: JigsawVisionEnv(image_size=64, max_turns=4)})
    transcript = pair[1]
    assert [turn.text for turn in transcript.turns] == [
        "<think>I was in the middle of",
        "",
        "I cannot look at this.",
        "",
    ]
    assert all(turn.error is not None for turn in transcript.turns)
    assert transcript.truncated
    turns = transcript.details["turns"]
    assert [turn["finish"] for turn in turns] == ["length", "content_filter", "stop", "stop"]
    assert turns[2]["refusal"] == "I cannot look at this."
    assert (policy.usage.cut, policy.usage.withheld) == (1, 2)


def seeds_sent(server):
    return [request.body.get("seed") for request in server.seen]


def test_seeds_follow_from_episode_and_turn(serve, connect):
    def play(batch, seeds=range(3), **options):
        server = serve(
            lambda _, body: say(TEXT if sum(m["role"] == "assistant" for m in body["messages"]) else LOOK.format(1))
        )
        policy = connect(server, **options)
        specs = [EpisodeSpec("jigsaw", seed, policy_seed=seed) for seed in seeds]
        list(play_episodes(policy, specs, {"jigsaw": lambda: JigsawVisionEnv(image_size=64)}, batch=batch))
        return sorted(seeds_sent(server), key=str)

    one = play(1)
    assert one == play(3)
    assert len(set(one)) == 6
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in one)
    assert not set(play(1, range(10, 13))) & set(one)
    assert play(1, temperature=0.0) == [None] * 6
    assert play(1, send_seed=False) == [None] * 6


def test_without_an_episodes_seed_the_policys_counts(serve, connect, start):
    server = serve(lambda *_: say(TEXT))
    policy = connect(server)
    _, observations, infos = start(2)
    for seed in (None, 5, 5, 6):
        policy.reset(seed)
        policy.act(observations, infos)
    sent = [sorted(seeds_sent(server)[place : place + 2], key=str) for place in (0, 2, 4, 6)]
    assert sent[0] == [None, None]
    assert sent[1] == sent[2] != sent[3]
    assert sent[1][0] != sent[1][1]


def test_extra_fields_and_reasoning(serve, connect, start):
    server = serve(lambda *_: Answer(body=completion("<code>observe()", reasoning_content="Deep.")))
    _, observations, infos = start()
    policy = connect(server, extra_body={"top_k": 20, "chat_template_kwargs": {"enable_thinking": True}})
    assert policy.act(observations, infos) == ["<code>observe()</code>"]
    assert server.seen[0].body["top_k"] == 20
    assert server.seen[0].body["chat_template_kwargs"] == {"enable_thinking": True}
    details = policy.finish(0).details
    assert details["turns"][0]["reasoning"] == "Deep."
    assert details["sampling"]["extra_body"]["top_k"] == 20
    policy = connect(server, reasoning_as_think=True)
    assert policy.act(observations, infos) == ["<think>Deep.</think><code>observe()</code>"]


def test_misuse_is_said(serve, connect, start):
    server = serve(lambda *_: say(LOOK.format(1)))
    policy = connect(server)
    environments, observations, infos = start(2)
    assert policy.act([], []) == []
    with pytest.raises(ConfigurationError, match="No episode was played in slot 0"):
        policy.finish(0)
    for info in infos:
        info["slot"] = 7
    with pytest.raises(ConfigurationError, match="Slot 7 is in the batch twice"):
        policy.act(observations, infos)
    policy.act(observations[:1], infos[:1])
    observation, _, _, _, info = environments[0].step(LOOK.format(1))
    info["slot"] = 8
    with pytest.raises(ConfigurationError, match="after turn 1 of its episode, but ChatAPIPolicy played 0 there"):
        policy.act([observation], [info])
    info["slot"] = 7
    policy.act([observation], [info])
    with pytest.raises(ConfigurationError, match=r"after turn 1 .* played 2 there"):
        policy.act([observation], [info])
    assert len(policy.finish(7).usage) == 2


def test_a_policy_can_be_pickled_in_the_middle_of_an_episode(serve, connect, start):
    server = serve(lambda _, body: say(LOOK.format(len(body["messages"]))))
    policy = connect(server)
    (env,), observations, infos = start()
    (text,) = policy.act(observations, infos)
    observation, _, _, _, info = env.step(text)
    with pickle.loads(pickle.dumps(policy)) as copy:
        assert copy.act([observation], [info]) == policy.act([observation], [info])
        assert server.seen[1].raw == server.seen[2].raw
        assert copy.usage.answers == 2
        assert len(copy.finish(0).usage) == 2


def _act_in_child(policy, observations, infos, queue):
    queue.put(policy.act(observations, infos))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_policy_lives_on_in_a_forked_process(serve, connect, start):
    server = serve(lambda *_: say(TEXT))
    policy = connect(server)
    _, observations, infos = start()
    policy.act(observations, infos)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_act_in_child, args=(policy, observations, infos, queue))
    child.start()
    assert queue.get(timeout=30) == [TEXT]
    child.join(30)
    assert child.exitcode == 0
    policy.reset()
    assert policy.act(observations, infos) == [TEXT]


def test_it_works_inside_a_running_event_loop(serve, connect, start):
    server = serve(lambda *_: say(TEXT))
    policy = connect(server)
    _, observations, infos = start()

    async def notebook():
        return policy.act(observations, infos)

    assert asyncio.run(notebook()) == [TEXT]
    policy.close()
    policy.close()
    policy.reset()
    assert policy.act(observations, infos) == [TEXT]  # it opens a connection again


INTERRUPTED = """
import sys, time
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.policies.api import ChatAPIPolicy
env = JigsawVisionEnv(image_size=64)
observation, info = env.reset(seed=0)
policy = ChatAPIPolicy("m", base_url=sys.argv[1], api_key_env=None)
print("ready", flush=True)
try:
    policy.act([observation], [info])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_is_felt_at_once(serve):
    server = serve(lambda *_: Answer(body=completion(TEXT), delay=60))
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        while not server.seen:
            time.sleep(0.02)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert time.monotonic() - began < 10
    assert out == "interrupted\n"
    assert child.returncode == 0
    assert errors == ""


def test_after_an_interruption_the_same_call_can_be_repeated(serve, connect, start, monkeypatch):
    from agile_gym.policies.api import limits as background

    def script(number, body):
        return Answer(body=completion(f"turn {number}"), delay=0.5 if number == 1 else 0.0)

    server = serve(script)
    policy = connect(server, max_concurrency=1)
    _, observations, infos = start(3)
    original = background.wait_for_futures

    def interrupted(futures, timeout):
        if len(server.seen) == 2:
            raise KeyboardInterrupt
        return original(futures, timeout=0.02)

    monkeypatch.setattr(background, "wait_for_futures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        policy.act(observations, infos)
    monkeypatch.setattr(background, "wait_for_futures", original)
    time.sleep(0.8)
    assert len(server.seen) == 2  # what had not been sent is not sent any more
    texts = policy.act(observations, infos)
    assert len(server.seen) == 4
    assert texts == ["turn 0", "turn 2", "turn 3"]


def test_the_server_closing_an_idle_connection_does_no_harm(connect, start):
    """Between two turns of an environment a server may drop the connection, or be started anew."""
    (env,), observations, infos = start()
    with FaultyServer(lambda *_: say(LOOK.format(1))) as server:
        policy = connect(server)
        port = server._server.server_port
        (text,) = policy.act(observations, infos)
    observation, _, _, _, info = env.step(text)
    with FaultyServer(lambda *_: say(TEXT), port=port):
        assert policy.act([observation], [info]) == [TEXT]
