import argparse
import dataclasses
import json

import pytest
from PIL import Image

from agile_gym.commands.view import add_view_command
from agile_gym.errors import ConfigurationError, ModelError, TranscriptError
from agile_gym.reporting.record import load_token_texts
from agile_gym.transcripts import TranscriptWriter
from tests.helpers.viewer_samples import ERRS, LOOKS, NEVER, Blocks, play, with_tokens


def view(*words):
    parser = argparse.ArgumentParser()
    add_view_command(parser.add_subparsers(required=True))
    options = parser.parse_args(["view", *map(str, words)])
    return options.run(options)


@pytest.fixture(scope="module")
def transcripts():
    played = [
        *play(LOOKS, [0, 1], image_size=64),
        *play(ERRS, [0], level=1, max_turns=4, image_size=64),
        *play(NEVER, [0], level=2, max_turns=2, image_size=64),
    ]
    return [with_tokens(played[0]), *played[1:]]


@pytest.fixture
def run(tmp_path, transcripts):
    folder = tmp_path / "first-run"
    with TranscriptWriter(folder) as writer:
        for transcript in transcripts:
            writer.append(transcript)
    return folder


def ids(path):
    (index,) = Blocks(path).values("index")
    return [row["id"] for row in index["rows"]]


def test_a_run_becomes_a_page(run, transcripts, capsys):
    assert view(run) == 0
    page = run / "page.html"
    assert ids(page) == [transcript.id for transcript in transcripts]
    blocks = Blocks(page)
    assert "first-run" in page.read_text()[:40_000]
    assert len(blocks.values("tokens")) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"Written: {page} (4 episodes, ")
    assert told.rstrip().endswith("MB)")


def test_the_folder_one_is_in_is_a_run_too(run, monkeypatch):
    monkeypatch.chdir(run)
    assert view(".") == 0
    assert len(ids(run / "page.html")) == 4


def test_a_page_of_some_episodes(run, tmp_path):
    output = tmp_path / "some.html"
    chosen = {
        ("--only", "solved"): ["2x2-L0-0", "2x2-L0-1"],
        ("--only", "unsolved"): ["2x2-L1-0", "2x2-L2-0"],
        ("--only", "errors"): ["2x2-L1-0"],
        ("--only", "truncated"): ["2x2-L2-0"],
        ("--limit", "3"): ["2x2-L0-0", "2x2-L0-1", "2x2-L1-0"],
        ("--only", "unsolved", "--limit", "1"): ["2x2-L1-0"],
    }
    for words, expected in chosen.items():
        assert view(run, "--output", output, *words) == 0
        assert ids(output) == expected
    assert view(run / "episodes.jsonl", "--output", output, "--image-side", "16") == 0
    assert len(ids(output)) == 4


def test_the_results_of_an_evaluation_lead_to_its_transcripts(run, tmp_path):
    run.rename(tmp_path / "mine-transcripts")
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "mine.jsonl").write_text("{}\n")
    for name in ("mine.json", "mine.jsonl"):
        assert view(tmp_path / name) == 0
        assert len(ids(tmp_path / "mine-transcripts" / "page.html")) == 4
        (tmp_path / "mine-transcripts" / "page.html").unlink()
    with pytest.raises(TranscriptError, match=r"no transcripts of .*other.json"):
        view(tmp_path / "other.json")


@pytest.mark.slow
def test_gifs(run, tmp_path, capsys):
    assert view(run, "--gif", "2x2-L1-0") == 0
    with Image.open(run / "2x2-L1-0.gif") as gif:
        assert gif.n_frames == 6
    assert capsys.readouterr().out == f"Written: {run / '2x2-L1-0.gif'} (6 frames)\n"
    assert view(run, "--only", "truncated", "--output", tmp_path / "a.gif", "--gif") == 0
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4


def test_missing_episodes_are_told(run):
    with pytest.raises(ConfigurationError, match=r"no episode '2x2-L0-2' in .*first-run. Did you mean '2x2-L0-"):
        view(run, "--gif", "2x2-L0-2")
    with pytest.raises(ConfigurationError, match=r"no episode 'x' in .*Allowed: '2x2-L0-0'"):
        view(run, "--gif", "x")
    with pytest.raises(ConfigurationError, match="--limit 0 is not allowed"):
        view(run, "--limit", "0")
    lines = (run / "episodes.jsonl").read_text().splitlines(keepends=True)
    (run / "episodes.jsonl").write_text("".join(lines[:2]))
    for words in (["--only", "errors"], ["--only", "errors", "--gif"]):
        with pytest.raises(TranscriptError, match=r"No episode of .* is chosen by --only errors"):
            view(run, *words)
    assert not (run / "page.html").exists()


def test_many_ids_are_not_listed(tmp_path, transcripts):
    with TranscriptWriter(tmp_path / "run") as writer:
        for number in range(60):
            writer.append(dataclasses.replace(transcripts[3], id=f"episode-{number}"))
    with pytest.raises(ConfigurationError, match="There are 60, from 'episode-0' to 'episode-59'"):
        view(tmp_path / "run", "--gif", "x")


def test_runs_without_episodes_are_told(tmp_path):
    with pytest.raises(TranscriptError, match="missing does not exist"):
        view(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TranscriptError, match="holds no transcripts"):
        view(tmp_path / "empty")
    (tmp_path / "empty" / "episodes.jsonl").write_text("")
    for words in ([], ["--gif"]):
        with pytest.raises(TranscriptError, match=r"no episode in .*empty yet"):
            view(tmp_path / "empty", *words)
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["episodes.jsonl"]


def test_broken_files_are_told_and_leave_no_page(run):
    path = run / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "{broken\n", *lines[2:]]))
    with pytest.raises(TranscriptError, match="line 3"):
        view(run)
    record = json.loads(lines[1])
    del record["task"]
    path.write_text(lines[0] + json.dumps(record) + "\n" + lines[2])
    with pytest.raises(TranscriptError, match="line 2"):
        view(run)
    path.write_text("".join(lines))
    next((run / "images").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(TranscriptError, match="image"):
        view(run)
    assert not [entry for entry in run.iterdir() if "page" in entry.name]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of two tokenizers that write spaces in different ways; the second has an image token."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("models")
    text = ["state = [A, B], swap them and look; né \u4e16\u754c", "look at A and swap it with B"] * 3

    def save(name, tokenizer, trainer, **options):
        tokenizer.train_from_iterator(text, trainer)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder / name)

    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    byte_level = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    save("bytes", byte_level, trainer)
    words = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    words.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<image>"], show_progress=False)
    save("words", words, trainer, extra_special_tokens={"image_token": "<image>"})
    return folder


@pytest.mark.parametrize("name", ["bytes", "words"])
def test_texts_of_tokens_make_up_the_text(models, name):
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(models / name)
    told = load_token_texts(models / name)
    text = "look at B, swap A and look"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 4
    assert "".join(map(told.decode, ids)).lstrip(" ") == text
    assert told.decode(len(tokenizer)) == f"({len(tokenizer)})"
    assert told.decode(-1) == "(-1)"
    assert told.image_tokens == ({tokenizer.convert_tokens_to_ids("<image>")} if name == "words" else set())


def test_a_page_with_the_texts_of_tokens(run, models):
    assert view(run, "--tokenizer", models / "words") == 0
    (vocabulary,) = Blocks(run / "page.html").values("vocabulary")
    decode = load_token_texts(models / "words").decode
    assert len(vocabulary["texts"]) > 50
    assert vocabulary["texts"] == {token: decode(int(token)) for token in vocabulary["texts"]}
    assert vocabulary["image_tokens"] == [1]  # it occurs among the made-up tokens, too
    with pytest.raises(ModelError, match="There is no tokenizer at"):
        view(run, "--tokenizer", run)
