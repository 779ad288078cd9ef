"""The report of a run: what it says agrees with the run's files."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import read_report
from agile_gym.evaluation.compare import LOOK_TITLES
from agile_gym.policies import make_policy
from agile_gym.reporting.curves import stage_times
from agile_gym.reporting.outcome import read_results, verdicts
from agile_gym.reporting.report import choose_pairs, write_report
from agile_gym.reporting.runlog import read_records
from agile_gym.transcripts import TranscriptWriter, read_transcripts
from agile_gym.transcripts.behaviours import BEHAVIOURS
from tests.helpers.evaluation_policies import Reader
from tests.helpers.run_samples import Looks, evaluate, log_run


class Outline(HTMLParser):
    """Reads a page: its tags, and its text."""

    VOID = frozenset(("meta", "link", "br"))

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.tags, self.parts, self.open, self.blocks = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.tags and self.tags[-1][1].get("type") == "application/json" and self.open[-1] == "script":
            self.blocks.append((self.tags[-1][1]["data-kind"], json.loads(data)))
        elif self.open and self.open[-1] not in ("script", "style", "title"):
            self.parts.append(data)

    def values(self, kind):
        return [value for name, value in self.blocks if name == kind]


def acc_of(run, name):
    return read_report(run / "evaluation" / f"{name}.json").summary["2x2"]["avg"]["acc"]


def test_the_outcome_is_that_of_the_evaluations(run, report):
    page = Outline(report)
    before, after = acc_of(run, "coldstart"), acc_of(run, "grpo")
    assert after["low"] > before["high"]
    said = next(text for text in page.parts if text.startswith("On 40 held-out puzzles (2x2), GRPO raised Acc: from"))
    for estimate in (before, after):
        value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
        assert f"{value:.1f}% ({low:.1f} to {high:.1f})" in said
    assert f"{100 * (after['value'] - before['value']):+.1f} points" in said
    assert said.endswith("The gain is outside of the 95% intervals: they do not overlap.")
    assert [attrs["class"] for tag, attrs in page.tags if "verdict" in attrs.get("class", "")] == ["verdict gain"]


@pytest.mark.parametrize(
    ("first", "second", "kind", "end"),
    [
        ("coldstart", "grpo", "gain", "outside of the 95% intervals: they do not overlap."),
        ("grpo", "coldstart", "loss", "The loss is outside of the 95% intervals: they do not overlap."),
        ("coldstart", "coldstart", "unclear", "not outside of the 95% intervals: they overlap."),
        ("untrained", "grpo", "gain", "they do not overlap."),
    ],
)
def test_verdicts(run, tmp_path, first, second, kind, end):
    for source, name in ((first, "coldstart"), (second, "grpo")):
        shutil.copy(run / "evaluation" / f"{source}.json", tmp_path / f"{name}.json")
    (verdict,) = verdicts(read_results(tmp_path))
    assert verdict.kind == kind
    assert verdict.text.endswith(end)
    assert ("paired" in verdict.text) == (first != "untrained")  # its puzzles are fewer


def test_tables_hold_each_stage_and_the_papers_rows(run, report):
    page = Outline(report)
    for name in ("untrained", "coldstart", "grpo"):
        for column in read_report(run / "evaluation" / f"{name}.json").summary["2x2"].values():
            for metric in ("acc", "score"):
                assert f" {100 * column[metric]['value']:.1f} " in page.text
    assert "Qwen2.5-VL-7B + cold start + RL (AGILE) 78.7 83.0 80.8 " in page.text  # the mean of the levels played
    assert "The paper: other models (Qwen2.5-VL-7B and larger), other photographs" in page.text
    assert page.text.count("Gemini-2.5-Pro") == 2


def test_curves_cover_what_was_logged(run, report):
    page = Outline(report)
    labels = {attrs["aria-label"].partition(":")[0]: attrs["aria-label"] for tag, attrs in page.tags
              if tag == "svg" and attrs.get("role") == "img"}  # fmt: skip
    last = read_records(run / "metrics.jsonl")[-1]
    assert labels["Acc"] == (
        f"Acc: training {100 * last['acc']:.1f}% at last; held out {100 * last['eval/acc']:.1f}% at last"
    )
    assert {"Return", "Turns an episode", "Valid turns", "Entropy (nats a token)", "Groups without variance",
            "Episodes that use", "Loss of supervised stages", "Episodes a second"} <= labels.keys()  # fmt: skip
    assert "KL to the reference (nats a token)" not in labels


def test_alarms_and_time_are_told(run, report):
    page = Outline(report)
    assert "GRPO, iterations 57 to 60 The entropy has fallen from 0.1" in page.text
    times = stage_times(read_records(run / "metrics.jsonl"))
    assert {stage: round(time["all"]) for stage, time in times.items() if stage != "grpo"} == {"vision": 480, "sft": 90}
    grpo = times["grpo"]
    assert grpo["rollout"] == pytest.approx(60 * 13)
    assert grpo["rollout"] + grpo["update"] + grpo["sync"] + grpo["other"] == pytest.approx(grpo["all"])
    assert "vision pretraining 120 8:00 4 s 0:00 7:12 0:00 0:48" in page.text
    assert "preset = " in page.text


def test_the_same_puzzles_are_shown_before_and_after(run, report):
    page = Outline(report)
    folders = [run / "evaluation" / f"{name}-transcripts" for name in ("coldstart", "grpo")]
    pairs = choose_pairs(*folders)
    assert len(pairs) == 10
    names = [f"2x2-L{level}-{number}" for level in (0, 1) for number in range(12)]
    assert [first.id for first, _ in pairs] == [names[place * 24 // 10] for place in range(10)]
    for first, second in pairs:
        assert (first.id, first.task["seed"], first.solution) == (second.id, second.task["seed"], second.solution)
    episodes = [episode for pair in pairs for episode in pair]
    assert [(record["id"], record["solved"], [turn["text"] for turn in record["turns"]])
            for record in page.values("episode")] == [
        (episode.id, episode.solved, [turn.text for turn in episode.turns]) for episode in episodes
    ]  # fmt: skip
    assert page.values("tokens") == []
    (titles,) = [attrs for _, attrs in page.tags if attrs.get("id") == "pairs"]
    assert (titles["data-before"], titles["data-after"]) == ("cold start", "GRPO")
    images = [file for block in page.values("images") for _, _, file in block]
    assert len(set(images)) == len(images) > 10


def test_pairs_are_of_the_same_puzzle_only(run, tmp_path):
    evaluate(tmp_path, "coldstart", make_policy("edge"), episodes=3, levels=(0,))
    evaluate(tmp_path, "grpo", make_policy("edge"), episodes=5, levels=(0,), image_size=112)
    folders = [tmp_path / "evaluation" / f"{name}-transcripts" for name in ("coldstart", "grpo")]
    assert [first.id for first, _ in choose_pairs(*folders)] == ["2x2-L0-0", "2x2-L0-1", "2x2-L0-2"]
    assert [first.id for first, _ in choose_pairs(*folders, 1)] == ["2x2-L0-0"]
    assert choose_pairs(folders[0], tmp_path / "missing") == []
    assert len(list(read_transcripts(folders[1]))) == 5


def test_a_pair_without_a_puzzle_becomes_a_note(run, tmp_path):
    shutil.copytree(run / "evaluation", tmp_path / "evaluation")
    for name in ("coldstart", "grpo"):
        folder = tmp_path / "evaluation" / f"{name}-transcripts"
        first, second, *_ = read_transcripts(folder)
        shutil.rmtree(folder)
        with TranscriptWriter(folder) as writer:
            writer.append(dataclasses.replace(first, task={**first.task, "names": ["A", "A", "<b>", "\u202e"]}))
            writer.append(second)
    page = Outline(write_report(tmp_path, tmp_path / "report.html"))
    assert [record["id"] for record in page.values("episode")] == [second.id] * 2
    assert f"The transcript {first.id!r} has the grid '2x2' and the names ['A', 'A', '<b>'," in page.text


def test_what_is_missing_is_left_out(run, tmp_path):
    log_run(tmp_path / "logged", iterations=3)
    text = Outline(write_report(tmp_path / "logged", tmp_path / "a.html", title="T")).text
    assert "No stage of this run has been evaluated" in text
    assert "Results on held-out puzzles" not in text
    assert "None was raised" in text
    shutil.copytree(run / "evaluation", tmp_path / "evaluated" / "evaluation")
    for path in (tmp_path / "evaluated" / "evaluation").glob("grpo*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Outline(write_report(tmp_path / "evaluated", tmp_path / "b.html")).text
    assert "After the stage cold start, Acc on 40 held-out puzzles (2x2) is" in text
    assert "Curves" not in text
    assert "Settings" not in text


def test_looks_are_told_of_each_stage_and_grid(tmp_path):
    evaluate(tmp_path, "untrained", make_policy("random"), grids=("2", "3"), levels=(0,), episodes=6)
    evaluate(tmp_path, "grpo", Reader(careless=True), levels=(0,), episodes=24, blanked=True)
    page = Outline(write_report(tmp_path, tmp_path / "report.html"))
    report = read_report(tmp_path / "evaluation" / "grpo.json")
    column, pair = report.summary["2x2"]["avg"], report.blank_looks["2x2"]["avg"]

    def cell(estimate):
        value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
        return f"{value:.1f} {low:.1f} to {high:.1f}"

    text = page.text[page.text.index("2x2: looks (%)") : page.text.index("3x3: looks (%)")]
    for label, wanted in (
        ("Acc", cell(column["acc"])),
        ("Acc, looks blanked", f"\u2013 {cell(pair['blanked']['acc'])}"),
        ("difference", f"\u2013 {100 * pair['acc']['difference']:+.1f} {100 * pair['acc']['low']:+.1f} to"),
        *(
            (title, f"\u2013 {cell(column['looks'][name])} of {column['looks'][name]['of']}")
            for name, title in LOOK_TITLES.items()
        ),
    ):
        row = text[text.index(f"{label} ") + len(label) :]
        assert wanted in row[:80], label
    assert pair["acc"]["difference"] > 0.5
    drawn = text[text.index("2x2: Acc by number of looks") :]
    assert "untrained 6" in drawn
    assert "GRPO 24" in drawn
    counts = [str(entry["of"]) for entry in column["looks"]["by_looks"].values()]
    assert len(counts) > 2
    assert re.search(rf" GRPO {' '.join(counts)} ", drawn)
    assert "blanked" not in page.text[page.text.index("3x3: looks (%)") :]


def test_behaviours_are_told_of_each_stage(run, tmp_path):
    evaluate(tmp_path, "untrained", make_policy("random"), levels=(0,), episodes=6)
    evaluate(tmp_path, "grpo", Reader(careless=True), levels=(0,), episodes=24)
    page = Outline(write_report(tmp_path, tmp_path / "report.html"))
    found = read_report(tmp_path / "evaluation" / "grpo.json").summary["2x2"]["avg"]["behaviours"]
    assert 0 < found["mend_mistake"]["count"] < found["check_answer"]["count"] <= 24
    text = page.text[page.text.index("2x2: episodes that ... (%)") :]
    for name, label in BEHAVIOURS.items():
        value, low, high = (f"{100 * found[name][key]:.1f}" for key in ("value", "low", "high"))
        row = text[text.index(f"{label} ") + len(label) :]
        assert row.startswith(f" 0.0 0.0 to 39.0 of 6 {value} {low} to {high} of 24"), label
    assert "untrained 6 GRPO 24" in text[text.index("2x2: episodes by behaviour") :]
    for row in (row for index in page.values("index") for row in index["rows"]):
        assert set(row["behaviours"]) == set(BEHAVIOURS)
    old = json.loads((run / "evaluation" / "grpo.json").read_text())
    del old["summary"]["2x2"]["avg"]["behaviours"]
    for name in ("grpo", "untrained"):
        (tmp_path / "evaluation" / f"{name}.json").write_text(json.dumps(old))
    assert "episodes by behaviour" not in Outline(write_report(tmp_path, tmp_path / "report.html")).text


def test_older_results_tell_nothing_of_looks(run, tmp_path):
    (tmp_path / "evaluation").mkdir()
    old = json.loads((run / "evaluation" / "grpo.json").read_text())
    del old["blank_looks"], old["summary"]["2x2"]["avg"]["looks"]
    (tmp_path / "evaluation" / "coldstart.json").write_text(json.dumps(old))
    assert "number of looks" not in Outline(write_report(tmp_path, tmp_path / "report.html")).text
    shutil.copy(run / "evaluation" / "grpo.json", tmp_path / "evaluation")
    text = Outline(write_report(tmp_path, tmp_path / "report.html")).text
    table = text[text.index("2x2: looks (%)") :]
    assert re.search(r"Acc, looks blanked \u2013 [\d.]+ [\d.]+ to [\d.]+ difference \u2013 \+0\.0 ", table)
    assert "cold start" not in table[table.index("2x2: Acc by number of looks") :][:60]


def test_several_grids_and_larger_boards(tmp_path):
    evaluate(tmp_path, "coldstart", make_policy("random"), grids=("3x3", "2x3"), episodes=4)
    evaluate(tmp_path, "grpo", Looks(), grids=("3x3", "2x3"), episodes=4)
    page = Outline(write_report(tmp_path, tmp_path / "report.html", pairs=3))
    assert [record["rows"] for record in page.values("episode")] == [2, 2, 2, 2, 3, 3]
    assert len([attrs for _, attrs in page.tags if attrs.get("class", "").startswith("verdict")]) == 2
    assert "3x3 Acc: puzzles with every piece right (%)" in page.text
    assert page.text.count("The paper: other models") == 2  # none of its rows is of 2x3


def test_bad_input_is_told(run, tmp_path):
    with pytest.raises(ConfigurationError, match="give the folder of a run"):
        write_report(tmp_path, tmp_path / "report.html")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_report(run, tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "grpo.json").write_text(json.dumps({"kind": "agile_gym.evaluation", "schema": 1}))
    with pytest.raises(ConfigurationError, match="is damaged"):
        write_report(tmp_path, tmp_path / "report.html")
    good = json.loads((run / "evaluation" / "grpo.json").read_text())
    by_looks = good["summary"]["2x2"]["avg"]["looks"]["by_looks"]
    number = next(iter(by_looks))
    for path, value in (
        (("summary", "2x2", "L0", "acc"), {"value": "<b>", "low": 0, "high": 1}),
        (("summary", "2x2", "L0", "uses"), {"Crop": "x"}),
        (("summary", "2x2", "L0", "turns"), None),
        (("summary", "2x2", "avg", "looks"), "x"),
        (("summary", "2x2", "avg", "looks"), {}),
        (("summary", "2x2", "avg", "looks", "by_looks"), {"x": by_looks[number]}),
        (("summary", "2x2", "avg", "looks", "by_looks"), {"-1": by_looks[number]}),
        (("summary", "2x2", "avg", "looks", "by_looks", number), {**by_looks[number], "of": 1e9}),
        (("summary", "2x2", "avg", "looks", "by_looks", number, "count"), 10**6),
        (("summary", "2x2", "avg", "looks", "noticed", "low"), "<script>"),
        (("summary", "2x2", "avg", "looks", "spoiled"), None),
        (("summary", "2x2", "avg", "behaviours"), "x"),
        (("summary", "2x2", "avg", "behaviours", "look_closer"), {}),
        (("summary", "2x2", "avg", "behaviours"), ["look_closer"]),
        (("summary", "2x2", "avg", "behaviours", "look_closer", "count"), -1),
        (("summary", "2x2", "avg", "behaviours", "look_closer", "high"), "<script>"),
        (("blank_looks", "2x2"), {}),
        (("blank_looks", "2x2", "avg", "acc", "p"), None),
        (("blank_looks", "2x2", "avg", "blanked", "acc"), {"value": 1}),
        (("blank_looks",), ["x"]),
    ):
        damaged = json.loads(json.dumps(good))
        place = damaged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (tmp_path / "evaluation" / "grpo.json").write_text(json.dumps(damaged))
        with pytest.raises(ConfigurationError, match=r"is damaged"):
            write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
