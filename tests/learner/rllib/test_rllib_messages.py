"""Answers of runners, fetched while others still play."""

import os
import time
from types import SimpleNamespace

import pytest
import ray

from agile_gym.learner.messages import gather, send_groups


@ray.remote(num_cpus=0.01, max_concurrency=20)
class Player:
    """Plays each group for as many seconds as it says; a negative number kills its process."""

    def sample_groups(self, seconds):
        if seconds < 0:
            os._exit(1)
        time.sleep(seconds)
        return seconds


@pytest.fixture(scope="module")
def runners():
    """Return two processes that play for 21 runners; the last one has a process of its own."""
    first, last = Player.remote(), Player.remote()
    actors = dict.fromkeys(range(1, 21), first) | {21: last}
    ray.get([first.sample_groups.remote(0), last.sample_groups.remote(0)])
    return SimpleNamespace(_worker_manager=SimpleNamespace(actors=lambda: actors))


def test_answers_deaths_and_silence_are_told_apart(runners):
    seconds = {number: 0.01 * (number % 7) for number in range(1, 19)} | {19: 60.0, 20: 60.0, 21: -1.0}
    requests = send_groups(runners, seconds)
    assert sorted(requests.values()) == list(range(1, 22))
    start = time.monotonic()
    answers = gather(requests, 3.0)
    assert 2.9 < time.monotonic() - start < 10
    assert sorted(answers.replies) == sorted(0.01 * (number % 7) for number in range(1, 19))
    assert answers.dead == [21]
    assert sorted(answers.silent) == [19, 20]
    assert gather({}, 3.0).replies == []


def test_the_first_answers_are_fetched_while_others_still_play(runners, monkeypatch):
    fetched, get = [], ray.get

    def watched(references):
        fetched.append((len(references), time.monotonic()))
        return get(references)

    monkeypatch.setattr(ray, "get", watched)
    requests = send_groups(runners, {number: 0.0 if number < 20 else 2.0 for number in range(1, 21)})
    assert sorted(gather(requests, 60.0).replies) == [0.0] * 19 + [2.0]
    assert [count for count, _ in fetched] == [5, 4, 3, 2, 2, 1, 1, 1, 1]  # a quarter of 20, 15, 11, 8, 6, 4, 3, 2, 1
    assert fetched[-1][1] - fetched[0][1] > 1
