"""Exported episodes, checked field by field against what LLaMA-Factory, TRL and verl read."""

import argparse
import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from agile_gym.commands.view import add_export_command
from agile_gym.errors import ConfigurationError, TranscriptError
from agile_gym.transcripts import TranscriptWriter, export_sharegpt, export_trl, export_verl
from agile_gym.transcripts.export import conversation
from tests.helpers.made_transcripts import made, played

EXPORTERS = [export_sharegpt, export_trl, export_verl]
MARKS = ("<image>", "<video>", "<audio>")


@pytest.fixture(scope="module")
def episodes():
    return played(4, tokens=5)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load files with the datasets package, whose cache is kept apart."""
    datasets = pytest.importorskip("datasets")

    def load(kind, *files):
        return datasets.load_dataset(
            kind, data_files=[str(file) for file in files], split="train", cache_dir=str(tmp_path / "cache")
        )

    return load


def pixels(image):
    if isinstance(image, dict):
        image = Image.open(io.BytesIO(image["bytes"]))
    assert image.mode == "RGB"
    return np.asarray(image)


def all_equal(images, arrays):
    return len(images) == len(arrays) and all(np.array_equal(pixels(a), b) for a, b in zip(images, arrays, strict=True))


# ------------------------------------------------------------------------------------------------------ LLaMA-Factory


def check_llama_factory(folder, name):
    """Read a data set as LLaMA-Factory does, with its rules, and return its rows."""
    info = json.loads((folder / "dataset_info.json").read_text())[name]
    assert info == {
        "file_name": f"{name}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    rows = json.loads((folder / info["file_name"]).read_text())
    for row in rows:
        assert set(row) == {"messages", "images"}
        messages = row["messages"]
        assert all(set(message) == {"role", "content"} for message in messages)
        if messages[0]["role"] == "system":
            messages = messages[1:]
        assert len(messages) % 2 == 0
        assert len(messages) > 0
        assert all(message["role"] == ("user", "assistant")[place % 2] for place, message in enumerate(messages))
        counts = [sum(message["content"].count(mark) for message in row["messages"]) for mark in MARKS]
        assert counts == [len(row["images"]), 0, 0]
        for path in row["images"]:
            assert ".." not in path
            assert (folder / path).is_file()  # joined with media_dir, which is the data set's folder by default
    return rows


def test_sharegpt_has_what_llama_factory_reads(tmp_path, episodes):
    assert export_sharegpt(iter(episodes), tmp_path, name="jigsaw") == 4
    rows = check_llama_factory(tmp_path, "jigsaw")
    assert len(rows) == 4
    for row, episode in zip(rows, episodes, strict=True):
        said = [(message["role"], message["content"]) for message in row["messages"]]
        assert said == [(message.role, message.text) for message in episode.messages()]
        assert all_equal([Image.open(tmp_path / path) for path in row["images"]], episode.images)


def test_the_system_prompt_comes_first(tmp_path, episodes):
    export_sharegpt([replace(episodes[0], system="Be good.")], tmp_path, name="a")
    (row,) = check_llama_factory(tmp_path, "a")
    assert row["messages"][0] == {"role": "system", "content": "Be good."}


def test_data_sets_share_a_folder(tmp_path, episodes):
    (tmp_path / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    export_sharegpt(episodes, tmp_path, name="first")
    count = sum(1 for path in tmp_path.rglob("*.png"))
    export_sharegpt(episodes[:2], tmp_path, name="second")
    export_sharegpt(episodes[:1], tmp_path, name="first")
    assert list(json.loads((tmp_path / "dataset_info.json").read_text())) == ["other", "first", "second"]
    assert len(check_llama_factory(tmp_path, "first")) == 1
    assert len(check_llama_factory(tmp_path, "second")) == 2
    assert sum(1 for path in tmp_path.rglob("*.png")) == count


@pytest.mark.parametrize("content", ["{broken", "[]", "\ufeff"])
def test_a_broken_dataset_info_is_not_overwritten(tmp_path, episodes, content):
    path = tmp_path / "dataset_info.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"dataset_info.json .*Mend it, or give another folder"):
        export_sharegpt(episodes, tmp_path)
    assert path.read_text(encoding="utf-8") == content
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_info.json"]


def test_sharegpt_loads_as_a_dataset(tmp_path, episodes, load):
    export_sharegpt(episodes, tmp_path)
    rows = load("json", tmp_path / "agile_gym.json")
    assert rows.column_names == ["messages", "images"]
    assert [len(row["images"]) for row in rows] == [5, 5, 5, 5]
    assert rows[0]["messages"][1]["content"] == episodes[0].turns[0].text  # with its accents and emoji


# ----------------------------------------------------------------------------------------------------------------- TRL


def test_trl_has_typed_content_and_images(tmp_path, episodes, load):
    given = [replace(episodes[0], system="Be good."), *episodes[1:]]
    assert export_trl(iter(given), tmp_path) == 4
    rows = load("parquet", tmp_path / "train.parquet")
    assert rows.column_names == ["messages", "images"]
    for row, episode in zip(rows, given, strict=True):
        assert all(isinstance(image, Image.Image) for image in row["images"])
        assert all_equal(row["images"], episode.images)
        for message, said in zip(row["messages"], episode.messages(), strict=True):
            assert message["role"] == said.role
            for part in message["content"]:
                assert set(part) == {"type", "text"}
                assert (part["type"], part["text"]) == ("image", None) or (part["type"] == "text" and part["text"])
            assert "".join(part["text"] or "<image>" for part in message["content"]) == said.text
        placeholders = sum(part["type"] == "image" for message in row["messages"] for part in message["content"])
        assert placeholders == len(row["images"])


def test_trl_rows_render_with_a_chat_template(tmp_path, episodes, load):
    pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    export_trl(episodes[:1], tmp_path)
    (row,) = load("parquet", tmp_path / "train.parquet")
    template = (
        "{% for message in messages %}[{{ message.role }}]{% for part in message.content %}"
        "{% if part.type == 'image' %}<IMG>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    ((text,), _) = render_jinja_template([row["messages"]], chat_template=template)
    expected = "".join(
        f"[{message.role}]{message.text.replace('<image>', '<IMG>')}" for message in episodes[0].messages()
    )
    assert text == expected


# ---------------------------------------------------------------------------------------------------------------- verl


def test_verl_has_agiles_columns(tmp_path, episodes):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    assert export_verl(iter(episodes), tmp_path, name="puzzles") == 4
    table = pq.read_table(tmp_path / "puzzles.parquet")
    assert set(table.column_names) == {"prompt", "images", "reward_model", "data_source", "extra_info", "env_name"}
    types = {field.name: field.type for field in table.schema}
    assert types["images"] == pa.list_(pa.struct([("bytes", pa.binary())]))
    for index, (row, episode) in enumerate(zip(table.to_pylist(), episodes, strict=True)):
        assert row["prompt"] == [{"role": "user", "content": episode.prompt}]
        assert all_equal(row["images"], episode.prompt_images)
        assert row["prompt"][0]["content"].count("<image>") == len(row["images"])
        assert row["reward_model"]["style"] == "rule"
        assert json.loads(row["reward_model"]["ground_truth"]) == [[name, 0] for name in episode.solution]
        assert (row["data_source"], row["env_name"]) == ("puzzle", "puzzle_toolbox")
        assert row["extra_info"] == {"index": index}


def test_verl_keeps_angles_and_system_prompts(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    (episode,) = played(1, rotations=True)
    export_verl([replace(episode, system="Be good.")], tmp_path, data_source="mine", env_name="other")
    (row,) = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert json.loads(row["reward_model"]["ground_truth"]) == list(episode.solution)
    assert any(angle for _, angle in episode.solution)
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert (row["data_source"], row["env_name"]) == ("mine", "other")


def test_verl_has_a_puzzle_once_however_often_it_was_played(tmp_path, episodes):
    again = [replace(episode, id=f"again-{episode.id}", turns=episode.turns[:1]) for episode in episodes]
    assert export_verl([*episodes, *again], tmp_path) == 4
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2, 3]


def test_verl_loads_as_a_dataset(tmp_path, episodes, load):
    export_verl(episodes, tmp_path)
    rows = load("parquet", tmp_path / "train.parquet")
    assert all_equal(rows[0]["images"], episodes[0].prompt_images)


# ------------------------------------------------------------------------------------------------------------- in all


def test_what_a_model_writes_is_never_taken_for_an_image(tmp_path, episodes, load):
    turn = replace(episodes[0].turns[0], text="<think><image>\n<video> and <audio></think>\ud800")
    episode = replace(episodes[0], turns=(turn, *episodes[0].turns[1:]), system="An <image> is welcome.")
    messages = conversation(episode)
    assert messages[2].text == "<think>[image]\n[video] and [audio]</think>?"
    assert messages[0].text == "An [image] is welcome."
    export_sharegpt([episode], tmp_path, name="a")
    check_llama_factory(tmp_path, "a")
    export_trl([episode], tmp_path)
    (row,) = load("parquet", tmp_path / "train.parquet")
    assert sum(part["type"] == "image" for message in row["messages"] for part in message["content"]) == 5
    export_verl([episode], tmp_path, name="verl")


@pytest.mark.parametrize("export", EXPORTERS)
def test_nothing_is_left_behind_by_a_failure(tmp_path, episodes, export):
    export(episodes, tmp_path, name="train")
    older = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "images"}

    def failing():
        yield episodes[0]
        yield made(1)
        raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"):
        export(failing(), tmp_path, name="train")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "images"} == older


@pytest.mark.parametrize("export", EXPORTERS)
@pytest.mark.parametrize("content", [b"older", b'[{"messages": "mine"}]', b"PAR1 and no more"])
def test_files_that_no_export_wrote_are_not_replaced(tmp_path, episodes, export, content):
    for name in ("train.json", "train.parquet"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"train\.(json|parquet) is not what agile-gym export wrote"):
        export(episodes, tmp_path, name="train")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("train.json", "train.parquet"), content
    )


def test_the_table_of_another_trainer_is_not_replaced(tmp_path, episodes):
    export_trl(episodes, tmp_path)
    before = (tmp_path / "train.parquet").read_bytes()
    with pytest.raises(ConfigurationError, match="is not what agile-gym export wrote"):
        export_verl(episodes, tmp_path)
    assert (tmp_path / "train.parquet").read_bytes() == before
    export_trl(episodes[:1], tmp_path)
    assert (tmp_path / "train.parquet").read_bytes() != before


@pytest.mark.parametrize("export", EXPORTERS)
def test_what_cannot_be_exported_is_told(tmp_path, episodes, export):
    with pytest.raises(ConfigurationError, match="no episode to export"):
        export([], tmp_path)
    bare = played(1, keep_images=False)
    with pytest.raises(ConfigurationError, match=r"'2x2-L0-1' has a text with 4 image marks and 0 images.*keep_images"):
        export(bare, tmp_path)
    for name in ("../x", "", "a/b", ".hidden", "dataset_info"):
        with pytest.raises(ConfigurationError, match="cannot name a data set"):
            export(episodes, tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made a folder"):
        export(episodes, tmp_path / "file")
    with TranscriptWriter(tmp_path / "run") as writer:
        writer.append(episodes[0])
    with pytest.raises(ConfigurationError, match="holds transcripts"):
        export(episodes, tmp_path / "run")


@pytest.mark.parametrize("export", [export_sharegpt, export_trl])
def test_an_episode_without_turns_is_no_conversation(tmp_path, episodes, export):
    with pytest.raises(ConfigurationError, match="has no turns"):
        export([replace(episodes[0], turns=())], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("export", EXPORTERS)
def test_many_episodes_pass_through_one_by_one(tmp_path, export):
    alive = 0

    class Counted(type(made(0))):
        def __del__(self):
            nonlocal alive
            alive -= 1

    most = 0

    def stream():
        nonlocal alive, most
        for number in range(600):
            episode = made(number, size=4)
            counted = Counted(**{name: getattr(episode, name) for name in episode.__dataclass_fields__})
            alive += 1
            most = max(most, alive)
            yield counted
            del counted

    assert export(stream(), tmp_path) == 600
    assert most <= 4


# ------------------------------------------------------------------------------------------------------- command line


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_export_command(parser.add_subparsers(required=True))
    options = parser.parse_args([str(argument) for argument in arguments])
    return options.run(options)


def test_the_command_exports_what_was_chosen(tmp_path, episodes, capsys):
    pq = pytest.importorskip("pyarrow.parquet")
    store = tmp_path / "run"
    with TranscriptWriter(store) as writer:
        for episode in episodes:
            writer.append(episode)
    solved = [episode for episode in episodes if episode.solved]
    clean = [episode for episode in solved if not any(turn.error for turn in episode.turns)]
    assert 4 > len(solved) > len(clean) > 0
    command = ("export", store, "--output", tmp_path / "out")

    assert run(*command, "--to", "sharegpt", "--name", "mine") == 0
    assert "4 conversations from 4 episodes" in capsys.readouterr().out
    assert len(check_llama_factory(tmp_path / "out", "mine")) == 4
    assert run(*command, "--to", "sharegpt", "--solved") == 0
    assert f"{len(solved)} conversations from 4 episodes" in capsys.readouterr().out
    rows = check_llama_factory(tmp_path / "out", "agile_gym")
    assert [row["messages"][-1]["content"] for row in rows] == [episode.turns[-1].text for episode in solved]
    assert run(*command, "--to", "trl", "--solved", "--no-errors") == 0
    assert pq.read_table(tmp_path / "out/train.parquet").num_rows == len(clean)
    assert run(*command, "--to", "trl", "--name", "short", "--max-turns", "2") == 0
    assert pq.read_table(tmp_path / "out/short.parquet").num_rows == sum(len(e.turns) == 2 for e in episodes)
    assert run(*command, "--to", "verl", "--name", "two", "--limit", "2") == 0
    assert "2 puzzles" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out/two.parquet").num_rows == 2


def test_the_command_exports_the_transcripts_of_an_evaluation(tmp_path, episodes, capsys):
    with TranscriptWriter(tmp_path / "mine-transcripts") as writer:
        writer.append(episodes[0])
    assert run("export", tmp_path / "mine.json", "--to", "sharegpt", "--output", tmp_path / "out") == 0
    assert "1 conversations from 1 episodes" in capsys.readouterr().out
    with pytest.raises(TranscriptError, match=r"no transcripts of .*other.json: the folder .*other-transcripts does"):
        run("export", tmp_path / "other.json", "--to", "sharegpt", "--output", tmp_path / "out")


def test_the_command_says_what_is_wrong(tmp_path, episodes):
    with pytest.raises(TranscriptError, match="does not exist"):
        run("export", tmp_path / "nothing", "--to", "trl", "--output", tmp_path / "out")
    with TranscriptWriter(tmp_path / "run") as writer:
        writer.append(next(episode for episode in episodes if not episode.solved))
    for words, message in (
        (["--limit", "0"], "--limit 0 is not allowed"),
        (["--max-turns", "-1"], "--max-turns -1 is not allowed"),
        (["--solved"], "no episode to export"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run("export", tmp_path / "run", "--to", "sharegpt", "--output", tmp_path / "out", *words)


def test_rows_are_in_the_order_given(tmp_path, episodes):
    pq = pytest.importorskip("pyarrow.parquet")
    shuffled = [made(number) for number in range(300)]
    random.Random(0).shuffle(shuffled)
    export_verl(shuffled, tmp_path)
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert all(all_equal(row["images"], e.prompt_images) for row, e in zip(rows, shuffled, strict=True))
