"""The journal and the transcripts: whatever happens, they agree, and nothing is lost or played twice."""

import contextlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from agile_gym.errors import AgileGymError, ConfigurationError
from agile_gym.evaluation import (
    EpisodeResult,
    EvaluationPlan,
    Journal,
    SuiteEntry,
    choose_entries,
    evaluate,
    format_cost,
    format_tables,
    prepare_plan,
    read_journal,
    summarize,
    summarize_cost,
)
from agile_gym.evaluation.journal import Session
from agile_gym.policies import EdgePolicy
from agile_gym.transcripts import read_transcripts
from tests.helpers.evaluation_policies import Failing, Wanderer

FAST = {"image_size": 32}
PLAN = EvaluationPlan("edge", choose_entries([2], episodes=4), options=FAST)


def play(path, plan=PLAN, **options):
    journal = Journal(path, plan, **options)
    done = [result.key for result in journal.results]
    with contextlib.closing(journal):
        evaluate(EdgePolicy(), plan, done=done, on_result=journal.add)
    return journal


@pytest.mark.slow
def test_a_journal_that_was_cut_at_any_byte_resumes_to_the_same_table(tmp_path):
    whole = play(tmp_path / "whole.jsonl")
    data = whole.path.read_bytes()
    expected = format_tables(summarize(whole.results), "edge")
    part = tmp_path / "part.jsonl"
    for cut in [0, 5, data.index(b"\n"), *np.random.default_rng(0).integers(0, len(data), 12)]:
        part.write_bytes(data[:cut])
        complete = max(data[:cut].count(b"\n") - 1, 0)
        journal = play(part, resume=True)
        assert format_tables(summarize(journal.results), "edge") == expected
        assert part.read_bytes().startswith(data[: data[:cut].rfind(b"\n") + 1])
        header, results = read_journal(part)
        assert header["plan"]["policy"] == "edge"
        assert Counter(result.key for result in results) == Counter(task.key for task in PLAN.tasks())
        assert results[:complete] == whole.results[:complete]


def test_a_line_that_was_damaged_costs_its_own_episode_alone(tmp_path):
    journal = play(tmp_path / "journal.jsonl")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * 40 + b"\n"
    lines[5] = lines[5].replace(b'"turns":1', b'"turns":"1"')
    lines.insert(7, lines[8])
    journal.path.write_bytes(b"".join(lines))
    again = Journal(journal.path, PLAN, resume=True)
    again.close()
    lost = {journal.results[2].key, journal.results[4].key}
    keys = [result.key for result in again.results]
    assert len(set(keys)) == len(keys) == 10
    assert {task.key for task in PLAN.tasks()} - set(keys) == lost
    resumed = play(journal.path, resume=True)
    assert format_tables(summarize(resumed.results), "e") == format_tables(summarize(journal.results), "e")


ODD = (None, True, -1, 10**400, 1e308, float("nan"), float("inf"), "", "1", [], [1], {}, {"a": None}, {"\x1b[2J": 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EpisodeResult.__annotations__))
def test_lines_that_no_episode_has_written_are_played_again(tmp_path, name):
    journal = play(tmp_path / "journal.jsonl")
    header, first, *rest = journal.path.read_text().splitlines()
    for value in (*ODD, json.loads("[" * 500 + "]" * 500), json.loads('{"a":' * 500 + "1" + "}" * 500)):
        values = json.loads(first)
        for changed in (value, {**values[name], "total": value} if isinstance(values.get(name), dict) else value):
            journal.path.write_text("\n".join([header, json.dumps({**values, name: changed}), *rest, ""]))
            with contextlib.closing(Journal(journal.path, PLAN, resume=True)) as again:
                assert again.results[-11:] == journal.results[1:]
                text = format_tables(summarize(again.results), "e") + format_cost(summarize_cost(again.results))
            assert all(line.isprintable() for line in text.splitlines())
    journal.path.write_text("\n".join([header, "[" * 100_000, '{"a":' * 100_000, *rest, ""]))
    with contextlib.closing(Journal(journal.path, PLAN, resume=True)) as again:
        assert again.results == journal.results[1:]


@pytest.mark.parametrize("part", ["schema", "plan", "photographs"])
@pytest.mark.parametrize("value", [*ODD, "x" * 10**6, "\x1b[2J"], ids=lambda value: repr(value)[:20])
def test_headers_that_no_evaluation_has_written_are_refused(tmp_path, part, value):
    journal = play(tmp_path / "journal.jsonl")
    header, *rest = journal.path.read_text().splitlines()
    journal.path.write_text("\n".join([json.dumps({**json.loads(header), part: value}), *rest, ""]))
    before = journal.path.read_bytes()
    if (part, value) != ("photographs", {}):
        with pytest.raises(ConfigurationError) as caught:
            Journal(journal.path, PLAN, resume=True)
        assert len(str(caught.value)) < 1500
        assert str(caught.value).isprintable()
    assert journal.path.read_bytes() == before
    journal.path.write_text("\n".join(["[" * 100_000, *rest, ""]))
    with pytest.raises(ConfigurationError, match="is not the journal"):
        Journal(journal.path, PLAN, resume=True)


def test_finished_puzzles_are_not_thrown_away(tmp_path):
    path = play(tmp_path / "journal.jsonl").path
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="holds 12 finished puzzles already"):
        Journal(path, PLAN)
    others = {
        "entries": EvaluationPlan("edge", choose_entries([2], episodes=5), options=FAST),
        "policy: 'edge' there, 'random' now": EvaluationPlan("random", PLAN.entries, options=FAST),
        "options": EvaluationPlan("edge", PLAN.entries, options={"image_size": 48}),
        "samples": EvaluationPlan("edge", PLAN.entries, options=FAST, samples=2),
    }
    for name, plan in others.items():
        with pytest.raises(ConfigurationError, match=f"other settings.*{name}"):
            Journal(path, plan, resume=True)
    with pytest.raises(ConfigurationError, match="other photographs"):
        Journal(path, PLAN, photographs={"count": 3, "sha256": "0"}, resume=True)
    assert path.read_bytes() == before
    Journal(path, others["entries"], overwrite=True).close()
    assert read_journal(path)[1] == []


@pytest.mark.parametrize("schema", [2, 3])
def test_a_journal_without_looks_or_behaviours_is_resumed(tmp_path, schema):
    whole = play(tmp_path / "whole.jsonl")
    assert all(result.looks["images"] == 0 for result in whole.results)
    path = tmp_path / "old.jsonl"
    header, *lines = (json.loads(line) for line in whole.path.read_text().splitlines())
    assert header["schema"] == 4
    assert "blank_looks" not in header["plan"]
    for line in lines:
        del line["behaviours"]
        if schema == 2:
            del line["looks"]
    path.write_text("".join(json.dumps(line) + "\n" for line in [{**header, "schema": schema}, *lines[:5]]))
    with contextlib.closing(Journal(path, PLAN, resume=True)) as journal:
        assert (len(journal.results), journal.unread) == (5, 0)
        assert all((result.looks is None) == (schema == 2) for result in journal.results)
        assert {result.behaviours for result in journal.results} == {None}
        for result in whole.results[5:]:
            journal.add(result)
    settings, results = read_journal(path)
    assert settings["schema"] == schema
    assert len(results) == 12
    column = summarize(results)["2x2"]["avg"]
    assert column["looks"]["episodes"] == (7 if schema == 2 else 12)
    assert column["behaviours"]["look_closer"]["of"] == 7
    assert summarize(results)["2x2"]["avg"]["acc"] == summarize(whole.results)["2x2"]["avg"]["acc"]
    with pytest.raises(ConfigurationError, match=r"other settings.*blank_looks: None there, True now"):
        Journal(path, replace(PLAN, blank_looks=True), resume=True)


def test_a_journal_of_an_older_version_is_refused_with_a_word(tmp_path):
    path = tmp_path / "old.jsonl"
    old = {"policy": "edge", "grids": ["2x2"], "levels": None, "episodes": 3, "seed": 0, "images": None, "options": {}}
    result = {"grid": "2x2", "level": 0, "episode": 0, "seed": 1, "image_id": "", "solved": True, "score": 1.0}
    path.write_text(f"{json.dumps(old, sort_keys=True)}\n{json.dumps(result)}\n")
    before = path.read_bytes()
    for options in ({"resume": True}, {}):
        with pytest.raises(ConfigurationError, match="older version" if options else "finished puzzles"):
            Journal(path, PLAN, **options)
    path.write_text("a\nb\n")
    with pytest.raises(ConfigurationError, match="is not the journal"):
        Journal(path, PLAN, resume=True)
    path.write_text('{"schema": 99}\nb\n')
    with pytest.raises(ConfigurationError, match="schema 99"):
        Journal(path, PLAN, resume=True)
    path.write_bytes(before)
    Journal(path, PLAN, overwrite=True).close()


def test_two_processes_cannot_write_to_one_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, PLAN)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigurationError, match="Another process"):
            Journal(path, PLAN, **options)
    journal.close()
    Journal(path, PLAN).close()


def test_settings_that_cannot_be_written_down_are_named(tmp_path):
    plan = EvaluationPlan("edge", PLAN.entries, options={"reward": object()})
    with pytest.raises(ConfigurationError, match="options: reward="):
        Journal(tmp_path / "journal.jsonl", plan)
    assert not list(tmp_path.iterdir())


def test_images_that_changed_between_runs_are_noticed(tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((40, 40), 90).save(folder / "one.png")
    plan = EvaluationPlan("edge", [SuiteEntry("1x2", None, 2)], images=str(folder), options=FAST)
    first = prepare_plan(plan).photographs()
    assert first["count"] == 1
    Image.effect_noise((40, 40), 60).save(folder / "two.png")
    second = prepare_plan(plan).photographs()
    assert second["count"] == 2
    assert first["sha256"] != second["sha256"]


def transcript_ids(session):
    return [transcript.id for transcript in read_transcripts(session.transcripts)]


def test_transcripts_agree_with_the_journal_after_an_interruption(tmp_path):
    plan = EvaluationPlan("x", choose_entries([2], episodes=5), options=FAST)
    prepared, output = prepare_plan(plan), tmp_path / "out" / "r.json"
    with Session(prepared, output) as session, pytest.raises(AgileGymError, match="is down"):
        list(session.play(Failing("foreseen", 4), batch=3))
    kept = len(session.journal.results)
    assert 0 < kept < 15
    assert len(transcript_ids(session)) == kept
    # As if killed between the transcript and the journal's line: the last line has gone, the transcript has not.
    lines = session.journal.path.read_bytes().splitlines(keepends=True)
    session.journal.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    with Session(prepared, output, resume=True) as session:
        assert len(session.journal.results) == len(transcript_ids(session)) == kept - 1
        list(session.play(Wanderer(), batch=4))
    names = [task.name for task in plan.tasks()]
    assert sorted(transcript_ids(session)) == sorted(names)
    whole = {result.key: result for result in evaluate(Wanderer(), plan)}
    for transcript in read_transcripts(session.transcripts):
        (result,) = [result for key, result in whole.items() if transcript.id == "{}-L{}-{}".format(*key[:3])]
        assert (transcript.solved, transcript.score, len(transcript.turns)) == (
            result.solved,
            result.score,
            result.turns,
        )
    with pytest.raises(ConfigurationError, match="--resume"):
        Session(prepared, output)
    with Session(prepared, output, keep=0, overwrite=True) as session:
        assert transcript_ids(session) == []


def interrupted(tmp_path, plan, episodes=6):
    """Play some of a plan, and return its output."""
    output = tmp_path / "out" / "r.json"
    with Session(prepare_plan(plan), output) as session:
        for number, _ in enumerate(session.play(Wanderer(), batch=1), 1):
            if number == episodes:
                break
    return output


@pytest.mark.parametrize("content", [b"", b'{"schema"', None, "header", "half"])
@pytest.mark.parametrize("write_results", [False, True])
def test_transcripts_are_not_dropped_for_a_journal_that_has_lost_lines(tmp_path, content, write_results):
    plan = EvaluationPlan("x", choose_entries([2], episodes=5), options=FAST)
    output = interrupted(tmp_path, plan)
    journal = output.with_suffix(".jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    if write_results:
        output.write_text('{"kind": "agile_gym.evaluation"}')
    if content is None:
        journal.unlink()
    else:
        journal.write_bytes({"header": lines[0], "half": b"".join(lines[:4])}.get(content, content))
    before = sorted(transcript.id for transcript in read_transcripts(tmp_path / "out" / "r-transcripts"))
    assert len(before) == 6
    with pytest.raises(ConfigurationError, match=r"lost lines|without the journal"):
        Session(prepare_plan(plan), output, resume=True)
    assert sorted(transcript.id for transcript in read_transcripts(tmp_path / "out" / "r-transcripts")) == before
    journal.write_bytes(b"".join(lines))
    with Session(prepare_plan(plan), output, resume=True) as session:
        assert len(session.journal.results) == 6


def test_lines_that_cannot_be_read_are_counted_and_played_again(tmp_path):
    plan = EvaluationPlan("x", choose_entries([2], episodes=5), options=FAST)
    output = interrupted(tmp_path, plan)
    journal = output.with_suffix(".jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b"\0\xff\n", lines[2], b"[]\n", *lines[4:]]))
    with Session(prepare_plan(plan), output, resume=True) as session:
        assert session.journal.unread == 2
        assert len(session.journal.results) == 4
        list(session.play(Wanderer()))
        assert len(session.journal.results) == len(plan)


def test_nothing_is_replaced_where_the_transcripts_are_somebody_elses(tmp_path):
    plan = EvaluationPlan("x", choose_entries([2], episodes=5), options=FAST)
    output = interrupted(tmp_path, plan)
    path = tmp_path / "out" / "r-transcripts" / "episodes.jsonl"
    path.write_text('{"text": "mine"}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match="no transcripts, and would be deleted"):
        Session(prepare_plan(plan), output, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def model_folder(folder, *, weights=b"w" * 3_000_000):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)


@pytest.fixture
def movable(tmp_path, monkeypatch):
    """Return what makes a plan of a folder with photographs, a model and a prompt, and an evaluation that has begun."""
    from PIL import Image

    from agile_gym.actions.prompt import _FOLDER

    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "a" / "model")
    (tmp_path / "a" / "photos").mkdir()
    (tmp_path / "a" / "prompt.txt").write_text((_FOLDER / "prompt_full.txt").read_text())
    for number in range(2):
        Image.effect_noise((60, 60), 50 + number).save(tmp_path / "a" / "photos" / f"{number}.png")

    def plan(root):
        return EvaluationPlan(
            f"hf:{root}/model", choose_entries([2], episodes=4), images=f"{root}/photos",
            options={**FAST, "prompt": f"{root}/prompt.txt"}, policy_options={"adapter": f"{root}/model"},
        )  # fmt: skip

    output = interrupted(tmp_path, plan("a"))
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "link").symlink_to("b")
    return plan, output


def test_an_evaluation_goes_on_where_photographs_model_and_prompt_have_moved(movable, tmp_path):
    plan, output = movable
    for root in ("b", "./b", str(tmp_path / "b"), "b/../b", "link"):
        with Session(prepare_plan(plan(root)), output, resume=True) as session:
            assert len(session.journal.results) == 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("prompt", r"They differ in options: .*prompt"),
        ("weights", r"They differ in policy: .*; policy_options"),
        ("photographs", r"photographs|images"),
    ],
)
def test_an_evaluation_does_not_go_on_with_what_has_changed(movable, tmp_path, changed, message):
    from PIL import Image

    plan, output = movable
    before = output.with_suffix(".jsonl").read_bytes()
    if changed == "prompt":
        with (tmp_path / "b" / "prompt.txt").open("a") as file:
            file.write("Be quick.")
    elif changed == "weights":
        weights = bytearray(b"w" * 3_000_000)
        weights[1_500_000:1_600_000] = b"v" * 100_000  # trained on
        (tmp_path / "b" / "model" / "model.safetensors").write_bytes(weights)
    else:
        Image.effect_noise((60, 60), 80).save(tmp_path / "b" / "photos" / "more.png")
    with pytest.raises(ConfigurationError, match=message):
        Session(prepare_plan(plan("b")), output, resume=True)
    assert output.with_suffix(".jsonl").read_bytes() == before


def test_a_model_that_was_trained_on_in_its_place_is_another_one(tmp_path):
    model_folder(tmp_path / "model")
    plan = EvaluationPlan(f"hf:{tmp_path / 'model'}", choose_entries([2], episodes=4), options=FAST)
    output = interrupted(tmp_path, plan)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"v" * 3_000_000)
    with pytest.raises(ConfigurationError, match=r"differ in policy: .*with other content"):
        Session(prepare_plan(plan), output, resume=True)
