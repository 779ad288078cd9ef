"""Figures, tables, files of results, comparisons and pictures."""

import importlib
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.stats import binomtest

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import (
    EpisodeResult,
    EvaluationPlan,
    SuiteEntry,
    bootstrap_mean,
    choose_entries,
    compare_reports,
    evaluate,
    find_overlap,
    format_comparison,
    format_cost,
    format_tables,
    pass_at_k,
    prepare_plan,
    read_report,
    reference_rows,
    summarize,
    summarize_cost,
    wilson,
    write_report,
)
from agile_gym.images import open_images
from agile_gym.learner import MissingDependencyError
from agile_gym.reporting.curves import plot_summary
from tests.helpers import ROOT
from tests.helpers.evaluation_policies import Wanderer

FAST = {"image_size": 32}


def result(level, episode, right, *, sample=0, turns=1, errors=None, uses=None, grid="2x2", image="p", **more):
    pieces = int(grid[0]) * int(grid[2])
    return EpisodeResult(
        grid,
        level,
        episode,
        sample,
        100 * level + episode,
        image,
        right == pieces,
        right / pieces,
        turns,
        errors or {},
        uses or {"Answer": 1},
        {"accuracy": float(right == pieces), "format": 1.0, "step": -0.1, "score": right / pieces, "total": 0.5},
        {"policy": 0.2, "env": 0.1},
        more.get("tokens", {"context": None, "computed": None, "new": None}),
        None if right == 0 else list("ABCD"),
    )


def test_the_papers_tables():
    rows = {row.model: row for row in reference_rows("3x3", "acc")}
    assert rows["Qwen2.5-VL-7B + cold start + RL (AGILE)"].levels == (5, 7, 11, 14, 17.7, 25.3, 38, 48)
    assert rows["Qwen2.5-VL-7B + cold start + RL (AGILE)"].average == 20.8
    assert len(rows) == 10
    for grid in ("2x2", "3x3"):
        for metric in ("acc", "score"):
            for row in reference_rows(grid, metric):
                assert np.mean(row.levels) == pytest.approx(row.average, abs=0.11)
    assert reference_rows("4x4", "acc") == ()


BY_HAND = [
    result(0, 0, 4, turns=1),
    result(0, 1, 2, turns=3, errors={"syntax": 1}, uses={"Swap": 2, "Answer": 1}, image="q"),
    result(2, 0, 0, turns=4, errors={"syntax": 1, "bad_box": 1}, uses={"Observe": 2}),
    result(2, 1, 4, turns=2, uses={"Crop": 1, "Answer": 1}, image="q"),
]


def test_summary_and_table_by_hand():
    summary = summarize(reversed(BY_HAND))
    assert list(summary) == ["2x2"]
    assert list(summary["2x2"]) == ["L0", "L2", "avg"]
    first, everything = summary["2x2"]["L0"], summary["2x2"]["avg"]
    assert first["acc"] == wilson(1, 2)._asdict()
    assert everything["score"] == bootstrap_mean([1, 0.5, 0, 1])._asdict()
    assert everything["score_by_photograph"] == bootstrap_mean([1, 0.5, 0, 1], ["p", "q", "p", "q"])._asdict()
    assert (everything["episodes"], everything["puzzles"], everything["photographs"]) == (4, 4, 2)
    assert (everything["turns"], everything["turn_counts"]) == (2.5, {"1": 1, "2": 1, "3": 1, "4": 1})
    assert (everything["valid"], everything["errors"]) == (0.7, {"bad_box": 1, "syntax": 2})
    assert everything["uses"] == {"Answer": 0.75, "Crop": 0.25, "Observe": 0.5, "Swap": 0.5}
    assert (everything["answered"], everything["reward"]) == (0.75, 0.5)
    assert everything["reward_parts"]["accuracy"] == 0.5
    assert everything["pass"] == {}
    json.dumps(summary)
    lines = format_tables(summary, "mine").splitlines()
    assert lines[3].split() == ["mine", "50.0", "50.0", "50.0"]
    agile = next(line for line in lines if "cold start + RL" in line)
    assert agile.split()[-3:] == ["78.7", "86.7", "82.7"]  # L0, L2 and their mean
    whole = format_tables(summarize([*BY_HAND, result(1, 0, 4)]), "mine").splitlines()
    agile = next(line for line in whole if "cold start + RL" in line)
    assert agile.split()[-4:] == ["78.7", "83.0", "86.7", "82.8"]  # all levels and the paper's average
    table = {line[:28].strip(): line[28:].split() for line in lines}
    assert table["episodes of 3 (%)"] == ["50.0", "0.0", "25.0"]
    assert table["syntax (%)"] == ["25.0", "16.7", "20.0"]
    assert table["Swap an episode"] == ["1.00", "0.00", "0.50"]
    assert "Wilson's" in lines[-1]


def test_tables_say_what_intervals_are_over():
    summary = summarize(BY_HAND)
    text = format_tables(summary, "mine", interval="photograph")
    assert (
        text.splitlines()[-1] == "Intervals are over the 2 photographs, by the bootstrap. So few make them too narrow."
    )
    low = 100 * summary["2x2"]["avg"]["acc_by_photograph"]["low"]
    assert text.splitlines()[4].split()[-1] == f"{low:.1f}"
    with pytest.raises(ConfigurationError, match="Did you mean 'photograph'"):
        format_tables(summary, "mine", interval="photo")
    path = "hf:/somewhere/very/far/away/in/a/deep/folder/of/checkpoints/step-000100"
    assert "...p/folder/of/checkpoints/step-000100" not in text
    (line,) = {
        line for line in format_tables(summary, path).splitlines() if "step-000100" in line and "50.0" in line[60:]
    } or {""}
    assert line.startswith("...")


def test_repeated_puzzles_give_pass_at_k_and_intervals_over_puzzles():
    solved = [(4, 4, 4, 4), (4, 0, 4, 0), (0, 0, 0, 4), (0, 0, 0, 0)]
    results = [result(0, e, right, sample=s) for e, row in enumerate(solved) for s, right in enumerate(row)]
    column = summarize(results)["2x2"]["L0"]
    assert (column["episodes"], column["puzzles"]) == (16, 4)
    assert list(column["pass"]) == ["1", "2", "4"]
    for k in (1, 2, 4):
        assert column["pass"][str(k)]["value"] == pytest.approx(np.mean([pass_at_k(4, c, k) for c in (4, 2, 1, 0)]))
    assert column["pass"]["1"]["value"] == column["acc"]["value"] == 7 / 16
    single = wilson(7, 16)
    assert column["acc"]["high"] - column["acc"]["low"] > 1.2 * (single.high - single.low)
    text = format_tables(summarize(results), "mine")
    assert "pass@k" in text
    assert "Intervals are over puzzles: by the bootstrap." in text


def test_cost_is_the_mean_and_unknown_where_an_episode_does_not_tell():
    tokens = {"context": 100, "computed": 40, "new": 7}
    results = [result(0, 0, 4, tokens=tokens), result(0, 1, 4, tokens={**tokens, "new": 9})]
    cost = summarize_cost(results)["2x2"]
    assert cost == {
        "policy_seconds": 0.2,
        "env_seconds": 0.1,
        "context_tokens": 100,
        "computed_tokens": 40,
        "new_tokens": 8,
    }
    assert "of them computed" in format_cost({"2x2": cost})
    mixed = summarize_cost([*results, result(0, 2, 0)])
    assert mixed["2x2"]["new_tokens"] is None
    assert "tokens" not in format_cost(mixed)


def save(path, results, policy="mine", **plan):
    results = list(results)
    settings = EvaluationPlan(policy, [SuiteEntry("2x2", None, 2)], **plan).to_json()
    write_report(path, results, plan=settings, photographs={"count": 2})
    return read_report(path)


def test_a_file_of_results_is_read_as_it_was_written(tmp_path):
    report = save(tmp_path / "new" / "r.json", BY_HAND)
    assert report.policy == "mine"
    assert report.summary == summarize(BY_HAND)
    assert [row.key for row in report.rows] == [r.key for r in BY_HAND]
    assert [(row.image_id, row.solved, row.score, row.seed) for row in report.rows] == [
        (r.image_id, r.solved, r.score, r.seed) for r in BY_HAND
    ]
    assert [path.name for path in report.path.parent.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-30], "is not JSON"),
        (lambda text: "[1, 2]", "does not hold the results"),
        (lambda text: text.replace("agile_gym.evaluation", "other"), "does not hold the results"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema 2"),
        (lambda text: text.replace('"rows"', '"row"'), "damaged"),
        (lambda text: text.replace("[\n    [", "[\n    [7, "), "damaged"),
    ],
)
def test_broken_files_of_results_are_refused(tmp_path, change, message):
    path = save(tmp_path / "r.json", BY_HAND).path
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigurationError, match=message):
        read_report(path)


ODD = (None, True, -1, 10**400, 1e308, float("nan"), float("inf"), "", "1", "0x0", "11x11", [], [1], {}, {"a": 1})


@pytest.mark.parametrize("column", range(8))
def test_rows_that_no_evaluation_has_written_are_refused(tmp_path, column):
    path = save(tmp_path / "r.json", BY_HAND).path
    values = json.loads(path.read_text())
    for value in (*ODD, json.loads("[" * 500 + "]" * 500)):
        rows = [list(row) for row in values["rows"]]
        rows[1][column] = value
        path.write_text(json.dumps({**values, "rows": rows}))
        if column == 6 and value is True:  # may be solved
            continue
        with pytest.raises(ConfigurationError, match=r"is damaged: .*Evaluate again"):
            read_report(path)


@pytest.mark.parametrize("part", ["plan", "summary", "rows", "images", "schema"])
@pytest.mark.parametrize("value", [*ODD, "x" * 10**6], ids=lambda value: repr(value)[:20])
def test_parts_that_no_evaluation_has_written_are_refused(tmp_path, part, value):
    path = save(tmp_path / "r.json", BY_HAND).path
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    if (part, value) in [("schema", True), *((part, empty) for part in ("summary", "rows") for empty in ({}, [], ""))]:
        return
    if part == "summary" and isinstance(value, dict):
        return
    with pytest.raises(ConfigurationError) as caught:
        read_report(path)
    assert len(str(caught.value)) < 800


def test_files_that_are_nested_without_end_or_too_large_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "r.json", BY_HAND).path
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigurationError, match="is not JSON"):
        read_report(path)
    with path.open("r+b") as file:
        file.truncate(2**40)  # a hole of a terabyte
    with pytest.raises(ConfigurationError, match="has more than 134,217,728 bytes"):
        read_report(path)


def test_what_a_file_of_results_says_cannot_command_the_terminal(tmp_path):
    escape = "\x1b[2J\x07"
    first = save(tmp_path / "a.json", BY_HAND, escape, options={escape: 1, "x": escape})
    second = save(tmp_path / "b.json", BY_HAND, f"\n{escape}" + "x" * 10**6, options={"x": ["y" * 10**6]})
    text = format_comparison(compare_reports(first, second), first, second)
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text) < 10_000
    assert r"First: \x1b[2J\x07 (" in text


def test_comparing_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    ours = [result(level, e, int(rng.choice([0, 2, 4]))) for level in (0, 1) for e in range(60)]
    theirs = [replace(r, solved=True, score=1.0) if rng.random() < 0.3 else r for r in ours]
    first, second = save(tmp_path / "a.json", ours), save(tmp_path / "b.json", theirs, "other")
    comparison = compare_reports(first, second)
    assert list(comparison["2x2"]) == ["L0", "L1", "avg"]
    column = comparison["2x2"]["avg"]
    only_second = sum(b.solved and not a.solved for a, b in zip(ours, theirs, strict=True))
    assert (column["puzzles"], column["only_first"], column["only_second"]) == (120, 0, only_second)
    assert column["acc"]["p"] == pytest.approx(binomtest(0, only_second, 0.5).pvalue)
    for metric, get in (("acc", lambda r: r.solved), ("score", lambda r: r.score)):
        values = [np.mean([get(r) for r in side]) for side in (ours, theirs)]
        assert (column[metric]["first"], column[metric]["second"]) == pytest.approx(values)
        assert column[metric]["difference"] == pytest.approx(values[1] - values[0])
        assert 0 < column[metric]["low"] < column[metric]["difference"] < column[metric]["high"]
        assert column[metric]["p"] < 1e-5
    back = compare_reports(second, first)["2x2"]["avg"]
    assert back["score"]["difference"] == -column["score"]["difference"]
    assert back["score"]["p"] == column["score"]["p"]
    text = format_comparison(comparison, first, second)
    assert "better in the second alone" in text
    assert "not corrected" in text
    assert "Acc (%), p by McNemar's exact test" in text
    assert "Score (%), p by the sign-flip" in text
    same = compare_reports(first, first)["2x2"]["avg"]
    assert (same["acc"]["p"], same["score"]["p"], same["acc"]["difference"]) == (1, 1, 0)
    assert str(first.path.name) in format_comparison(compare_reports(first, first), first, first)


def test_comparing_samples_takes_each_puzzle_once(tmp_path):
    many = [result(0, e, 4 * ((e + s) % 3 == 0), sample=s) for e in range(20) for s in range(3)]
    one = [result(0, e, 0) for e in range(20)]
    first, second = save(tmp_path / "a.json", one), save(tmp_path / "b.json", many)
    column = compare_reports(first, second)["2x2"]["L0"]
    assert column["puzzles"] == column["only_second"] == 20
    assert column["acc"]["second"] == pytest.approx(1 / 3)
    assert column["acc"]["p"] == pytest.approx(2 / 2**20)
    assert "McNemar" not in format_comparison(compare_reports(first, second), first, second)


def test_comparing_other_puzzles_is_refused(tmp_path):
    first = save(tmp_path / "a.json", BY_HAND)
    others = {
        "of which 3 are called the same": BY_HAND[:3],
        "4 of 4 have another seed.*--seed": [replace(r, seed=r.seed + 1) for r in BY_HAND],
        "1 of 4 have another image_id.*--images": [replace(BY_HAND[0], image_id="z"), *BY_HAND[1:]],
    }
    for message, results in others.items():
        with pytest.raises(ConfigurationError, match=f"do not hold the same puzzles: .*{message}"):
            compare_reports(first, save(tmp_path / "b.json", results))
    changed = save(tmp_path / "b.json", BY_HAND, options={"max_turns": 8})
    text = format_comparison(compare_reports(first, changed), first, changed)
    assert "differ in max_turns: 'default' and 8" in text


def encoded(pixels, size=1.0, **options):
    image = Image.fromarray(pixels)
    image = image.resize((round(image.width * size), round(image.height * size)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.slow
def test_photographs_of_a_training_set_are_found(tmp_path):
    """Real photographs: the same file, copies of little quality, and others."""
    ours = {"cat": skimage.data.chelsea(), "coffee": skimage.data.coffee(), "astronaut": skimage.data.astronaut()}
    folder = tmp_path / "test"
    folder.mkdir()
    for name, pixels in ours.items():
        (folder / f"{name}.png").write_bytes(encoded(pixels, format="PNG"))
    Image.new("RGB", (300, 200), (200, 30, 30)).save(folder / "red.png")
    options = {**FAST, "equal_pieces": "names"}  # so that the plain one is drawn as well
    plan = EvaluationPlan("x", [SuiteEntry("1x2", (0,), 24)], images=str(folder), options=options)
    prepared = prepare_plan(plan)
    results = evaluate(Wanderer(), plan, prepared=prepared)
    training = tmp_path / "train"
    training.mkdir()
    others = [skimage.data.rocket(), *skimage.data.stereo_motorcycle()[:2], ours["cat"][:, ::-1], ours["coffee"][100:]]
    for number, pixels in enumerate(others):
        (training / f"other{number}.jpg").write_bytes(encoded(pixels, format="JPEG"))
    Image.new("RGB", (300, 200), (30, 30, 200)).save(training / "blue.png")
    nothing = find_overlap(prepared.source, open_images(str(training)), results)
    assert (nothing.matches, nothing.episodes, nothing.photographs, nothing.total) == ((), 0, 4, 24)
    assert "None of the 4 photographs is among the 6 training images" in nothing.text()
    (training / "same.png").write_bytes((folder / "coffee.png").read_bytes())
    (training / "small.jpg").write_bytes(encoded(ours["astronaut"], 0.4, format="JPEG", quality=15))
    (training / "again.webp").write_bytes(encoded(ours["cat"], 1.5, format="WEBP", quality=40))
    overlap = find_overlap(prepared.source, open_images(str(training)), results)
    assert [(match.name, match.training_name, match.kind) for match in overlap.matches] == [
        ("astronaut.png", "small.jpg", "copy"),
        ("cat.png", "again.webp", "copy"),
        ("coffee.png", "same.png", "same"),
    ]
    ids = {match.image_id for match in overlap.matches}
    assert overlap.episodes == sum(r.image_id in ids for r in results) > 10
    assert "3 of 4 photographs" in overlap.text()
    json.dumps(overlap.to_json())


@pytest.mark.slow
def test_pictures_show_every_level_and_interval(tmp_path):
    pytest.importorskip("matplotlib")
    plan = EvaluationPlan("x", choose_entries(["2x2", "1x4"], episodes=4), options=FAST)
    summary = summarize(evaluate(Wanderer(), plan))
    figure = plot_summary(summary, "wanderer", interval="photograph")
    panes = figure.axes
    assert [pane.get_title(loc="left") for pane in panes] == [
        f"{grid}: {what}" for grid in ("1x4", "2x2") for what in ("puzzles with every piece right", "pieces right")
    ]
    pane = panes[3]  # 2x2, Score
    assert [label.get_text() for label in pane.get_xticklabels()] == ["L0", "L1", "L2"]
    (own,) = pane.containers
    columns = [summary["2x2"][f"L{level}"]["score_by_photograph"] for level in range(3)]
    assert own.lines[0].get_ydata() == pytest.approx([100 * column["value"] for column in columns])
    ends = [segment[:, 1] for segment in own.lines[2][0].get_segments()]
    assert ends == [pytest.approx([100 * column["low"], 100 * column["high"]]) for column in columns]
    agile = next(line for line in pane.lines if "AGILE" in line.get_label())
    assert list(agile.get_ydata()) == [86.4, 88.7, 91.9]
    assert len(panes[0].lines) == len(panes[2].lines) - 5, "the paper has no rows of 1x4"
    path = tmp_path / "picture.png"
    figure.savefig(path)
    with Image.open(path) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50


def test_pictures_need_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'agile-gym\[plots\]'"):
        plot_summary(summarize(BY_HAND), "mine")


@pytest.mark.slow
def test_the_picture_of_the_documentation_is_what_the_script_draws(monkeypatch):
    pytest.importorskip("matplotlib")
    docs = ROOT / "docs"
    monkeypatch.syspath_prepend(docs)
    drawn = importlib.import_module("make_evaluation_picture").evaluation_picture(episodes=2)
    with Image.open(docs / "evaluation.png") as kept:
        assert kept.size == drawn.size
    assert (docs / "evaluation.png").stat().st_size < 150_000
