"""Training images among the pictures of benchmarks: planted copies are found, and nothing else is."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from agile_gym.cli import main
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.benchmarks import plan_benchmark, score_benchmark
from agile_gym.evaluation.contamination import find_training_pictures, read_overlaps, write_overlaps
from agile_gym.evaluation.run import evaluate
from agile_gym.images.folder import PHOTOGRAPHS
from agile_gym.images.opening import open_images
from agile_gym.policies.base import as_policy
from tests.helpers.benchmark_files import tsv_rows, write_parquet, write_tsv

PATHS = sorted(Path(PHOTOGRAPHS).rglob("*.jpg"))


def again(path, scale=1.0, **options):
    """Encode a photograph again, in another size."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize([round(scale * side) for side in image.size], Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, **options)
    return out.getvalue()


def write_questions(folder, benchmark, paths):
    """Write a TSV whose questions show photographs."""
    rows = list(tsv_rows(benchmark))[: len(paths)]
    for row, path in zip(rows, paths, strict=True):
        row["image"] = base64.b64encode(path.read_bytes()).decode()
    return write_tsv(folder, benchmark, rows)


@pytest.fixture
def planted(tmp_path):
    """Write three benchmarks, and a training set with copies of pictures of two of them."""
    training = tmp_path / "train"
    training.mkdir()
    files = {
        "vstar": write_questions(tmp_path, "vstar", PATHS[:3]),
        "mmvp": write_questions(tmp_path, "mmvp", [PATHS[3], PATHS[3], PATHS[4], PATHS[5]]),
        "mmmu": write_parquet(tmp_path, "mmmu"),
    }
    (training / "same.jpg").write_bytes(PATHS[0].read_bytes())
    (training / "small.jpg").write_bytes(again(PATHS[1], 0.5, format="JPEG", quality=40))
    (training / "again.webp").write_bytes(again(PATHS[3], 1.25, format="WEBP", quality=60))
    (training / "second.png").write_bytes(again(PATHS[3], 0.7, format="PNG"))
    for path in PATHS[6:]:
        (training / path.name).write_bytes(path.read_bytes())
    return files, training


def test_copies_are_found_and_nothing_else(planted):
    files, training = planted
    found = find_training_pictures(files, open_images(str(training)))
    names = {key: [(one.training_name, one.kind, one.questions) for one in found[key].matches] for key in found}
    assert names == {
        "vstar": [("same.jpg", "same", ("0",)), ("small.jpg", "copy", ("1",))],
        "mmvp": [("again.webp", "copy", ("1", "2")), ("second.png", "copy", ("1", "2"))],
        "mmmu": [],
    }
    assert {key: one.affected for key, one in found.items()} == {"vstar": ("0", "1"), "mmvp": ("1", "2"), "mmmu": ()}
    assert [(one.pictures, one.questions, one.found) for one in found.values()] == [(3, 3, 2), (3, 4, 2), (4, 3, 0)]
    assert {one.training_images for one in found.values()} == {len(PATHS) - 2}


def test_no_false_alarm_between_different_photographs(tmp_path):
    half = len(PATHS) // 2
    rows = list(tsv_rows("vstar"))
    rows = [
        {**rows[0], "index": str(number), "image": base64.b64encode(path.read_bytes()).decode()}
        for number, path in enumerate(PATHS[:half])
    ]
    training = tmp_path / "train"
    training.mkdir()
    for path in PATHS[half:]:
        (training / path.name).write_bytes(path.read_bytes())
    found = find_training_pictures({"vstar": write_tsv(tmp_path, "vstar", rows)}, open_images(str(training)))
    assert (found["vstar"].pictures, found["vstar"].training_images) == (half, len(PATHS) - half)
    assert half > 10
    assert found["vstar"].matches == ()


def test_figures_of_the_questions_that_show_none(planted):
    files, training = planted
    overlaps = find_training_pictures(files, open_images(str(training)))
    replies = iter(["C", "wrong", "B"])  # right, wrong, right; the first two show training images
    plan = plan_benchmark("vstar", files["vstar"], "x")
    results = evaluate(as_policy(lambda _: next(replies)), plan, batch=1)
    found = score_benchmark(plan, results, "any", overlaps["vstar"])
    assert (found.figure, found.unseen) == (pytest.approx(2 / 3), 1.0)
    assert score_benchmark(plan, results, "any").unseen is None


def test_the_command_reports_them(planted, tmp_path, monkeypatch, capsys):
    files, _ = planted
    monkeypatch.chdir(tmp_path)
    (tmp_path / "always.py").write_text("def a(observation):\n    return 'A'\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    given = [f"{key}={path}" for key, path in files.items()]
    words = ["eval", "--policy", "always:a", "--training-images", "train", "--benchmark", *given]
    assert main(words) == 0
    printed, count = capsys.readouterr().out, len(PATHS) - 2
    assert re.search(r"^  show training images +2 +2 +0$", printed, re.MULTILINE)
    assert re.search(r"^  right, of the others +0\.0 +50\.0 +66\.7$", printed, re.MULTILINE)
    assert f"V*: 2 of the {count} training images are among its pictures; 2 of 3 questions show one:" in printed
    assert "  same.jpg (same): the image of row 0, questions: 0" in printed
    assert f"MMMU: none of the {count} training images is among its pictures." in printed
    scores = json.loads((tmp_path / "agile-eval.json").read_text("utf-8"))["benchmarks"]
    assert [one["overlap"]["affected"] for one in scores] == [["0", "1"], ["1", "2"], []]
    report = json.loads((tmp_path / "agile-eval-vstar.json").read_text("utf-8"))
    assert [one["training_name"] for one in report["training_overlap"]["matches"]] == ["same.jpg", "small.jpg"]


def test_it_is_read_as_it_was_written(planted, tmp_path):
    files, training = planted
    found = find_training_pictures(files, open_images(str(training)))
    path = tmp_path / "found.json"
    write_overlaps(path, found)
    assert read_overlaps(path) == found
    for text in ("{", "[1]", "{}x", '[{"benchmark": "mmvp"}]', path.read_text("utf-8").replace('"vstar"', '"other"')):
        path.write_text(text, "utf-8")
        with pytest.raises(ConfigurationError, match="Remove it"):
            read_overlaps(path)
