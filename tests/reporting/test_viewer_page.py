import base64
import dataclasses
import hashlib
import io
import json
import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ConfigurationError
from agile_gym.reporting import write_page
from agile_gym.reporting.record import plain_json, puzzle_of, segment_record
from agile_gym.transcripts import Segment, TurnUsage
from tests.helpers.viewer_samples import ERRS, HOSTILE, LOOKS, NEVER, Blocks, Script, decode, play, with_tokens

TURNS_A_PIECE = Script(
    '<think>Turn.</think><code>turn("B", 90)\nobserve()</code>', "<think>Done.</think><answer>{solution}</answer>"
)


@pytest.fixture(scope="module")
def transcripts():
    return [
        *play(LOOKS, [0, 1]),
        *play(LOOKS, [0], grid="2x3", level=1, gap=0.1, initial_view="both", reference_image=True),
        *play(LOOKS, [0], initial_view="board", image_size=(160, 240), prefix="board-"),
        *play(ERRS, [0], level=2, max_turns=4),
        *play(NEVER, [2], max_turns=2),
        *play(LOOKS, [3], keep_images=False),
        *play(TURNS_A_PIECE, [0, 1], rotations=True, prefix="turned-"),
        *play(Script(HOSTILE, f"<think>{HOSTILE}</think><code>{HOSTILE}</code>"), [4], max_turns=2),
    ]


@pytest.fixture(scope="module")
def page(transcripts, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    info = write_page(iter(transcripts), path, title="Run </title><script>alert(0)</script> \U0001f600 \ud800")
    blocks = Blocks(path)
    assert info.episodes == len(transcripts)
    assert info.size == path.stat().st_size
    return blocks, info, path


def stored_images(blocks):
    images = {}
    for kind, attributes, value in blocks.data:
        if kind == "images":
            first = int(attributes["data-first"])
            assert first == len(images)
            images.update(enumerate(value, first))
    return images


def as_array(stored):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(stored[2]))).convert("RGB"))


def same_picture(stored, image, longest):
    """Return whether a stored file shows an image, scaled down to a longest side."""
    width, height, _ = stored
    assert (height, width) == image.shape[:2]
    small = as_array(stored)
    assert max(small.shape[:2]) == min(longest, max(image.shape[:2]))
    expected = Image.fromarray(image).resize(small.shape[1::-1], Image.Resampling.BOX)
    return np.abs(small.astype(int) - np.asarray(expected)).mean() < 6


def draw(reference, transcript):
    """Lay out a board as it is described, from the transcript's own pieces."""
    pieces = puzzle_of(transcript).pieces
    cols = int(transcript.task["grid"].partition("x")[2])
    (width, height), (gap_x, gap_y) = reference["size"], reference["gap"]
    out = np.full((height, width, 3), 255, np.uint8)
    for place, (piece, angle) in enumerate(reference["board"]):
        turned = np.asarray(Image.fromarray(pieces[piece]).rotate(-angle))  # Pillow turns the other way round
        y, x = place // cols * (turned.shape[0] + gap_y), place % cols * (turned.shape[1] + gap_x)
        out[y : y + turned.shape[0], x : x + turned.shape[1]] = turned
    return out


def test_page_holds_what_the_transcripts_hold(page, transcripts):
    records = page[0].values("episode")
    assert len(records) == len(transcripts)
    for record, transcript in zip(records, transcripts, strict=True):
        for name in ("id", "policy", "prompt", "system", "solved", "score", "truncated"):
            assert record[name] == getattr(transcript, name), name
        assert record["task"] == dict(transcript.task)
        assert record["reward"] == transcript.reward
        assert record["solution"] == [
            list(entry) if isinstance(entry, list) else entry for entry in transcript.solution
        ]
        for seen, turn in zip(record["turns"], transcript.turns, strict=True):
            assert (seen["text"], seen["feedback"], seen["error"]) == (turn.text, turn.feedback, turn.error)
            assert seen["primitives"] == list(turn.primitives)
            assert seen["state"] == list(turn.state)
            assert seen["reward"] == turn.reward
            assert seen["env_seconds"] == turn.env_seconds
            assert seen["usage"] == dataclasses.asdict(turn.usage)
            assert len(seen["images"]) == len(turn.images)


def test_images_of_the_page_are_those_of_the_transcripts(page, transcripts):
    stored = stored_images(page[0])
    assert len(stored) == page[1].images
    boards = single = 0
    of_pieces = set()
    for record, transcript in zip(page[0].values("episode"), transcripts, strict=True):
        references = [*record["prompt_images"], *(image for turn in record["turns"] for image in turn["images"])]
        for number, piece in zip(record["pieces"], puzzle_of(transcript).pieces, strict=True):
            of_pieces.add(number)
            assert same_picture(stored[number], piece, min(224, 448 // max(record["rows"], record["cols"])))
        for reference, image in zip(references, transcript.images, strict=True):
            if "board" in reference:
                boards += 1
                np.testing.assert_array_equal(draw(reference, transcript), image)
            elif reference["image"] not in of_pieces:
                single += 1
                assert same_picture(stored[reference["image"]], image, 224)
            else:
                assert any(np.array_equal(piece, image) for piece in puzzle_of(transcript).pieces)
    assert boards > 10
    assert single >= 8


def test_observations_of_boards_are_not_stored_as_images(page, transcripts):
    record, transcript = page[0].values("episode")[0], transcripts[0]
    kinds = [[next(iter(image)) for image in turn["images"]] for turn in record["turns"]]
    assert kinds == [["board"], ["board"], ["image"], ["image"], []]
    assert len({*record["pieces"]} | {image["image"] for image in record["prompt_images"]}) == 4
    assert record["turns"][1]["images"][0]["board"] == [[2, 0], [1, 0], [0, 0], [3, 0]]
    assert transcript.turns[1].state == ("C", "B", "A", "D")


def test_equal_images_are_stored_once(tmp_path, transcripts):
    first = write_page(transcripts[:1], tmp_path / "one.html")
    copies = [dataclasses.replace(transcripts[0], id=f"copy-{number}") for number in range(5)]
    many = write_page(copies, tmp_path / "many.html")
    assert many.images == first.images == 6


def test_index_sums_up_each_episode(page, transcripts):
    (index,) = page[0].values("index")
    assert [row["id"] for row in index["rows"]] == [transcript.id for transcript in transcripts]
    errs = index["rows"][4]
    assert (errs["grid"], errs["level"], errs["solved"], errs["turns"]) == ("2x2", 2, False, 4)
    assert errs["errors"] == {"no_action": 1, "not_allowed": 1, "bad_box": 1, "not_a_permutation": 1}
    assert errs["tokens"] is None
    assert index["rows"][5]["truncated"] is True
    for row, transcript in zip(index["rows"], transcripts, strict=True):
        assert row["reward"] == transcript.reward["total"]
        spent = sum(turn.usage.seconds + turn.env_seconds for turn in transcript.turns)
        assert row["seconds"] == pytest.approx(spent, abs=1e-6)


def test_sums_that_no_number_holds_become_text(tmp_path, transcripts):
    usages = [TurnUsage(1e308, new_tokens=2**62)] * 2, [TurnUsage(float("inf")), TurnUsage(float("-inf"))]
    turn = transcripts[0].turns[0]
    changed = [
        dataclasses.replace(
            transcripts[0], id=f"{number}", turns=tuple(dataclasses.replace(turn, usage=usage) for usage in two)
        )
        for number, two in enumerate(usages)
    ]
    write_page(changed, tmp_path / "page.html")
    (index,) = Blocks(tmp_path / "page.html").values("index")
    assert [(row["seconds"], row["tokens"]) for row in index["rows"]] == [("inf", str(2**63)), ("nan", None)]


def test_answers_are_boards_of_their_own(page):
    records = page[0].values("episode")
    solved, errs = records[0], records[4]
    assert solved["turns"][-1]["answer_tiles"] == solved["solution_tiles"]
    assert [turn["answer_tiles"] for turn in solved["turns"][:-1]] == [None] * 4
    assert errs["turns"][-1]["answer_tiles"] is None  # it names two of four pieces
    turned = records[7]
    assert turned["turns"][0]["tiles"] == [[0, 0], [1, 90], [2, 0], [3, 0]]
    assert turned["turns"][-1]["answer_tiles"] == turned["solution_tiles"]
    assert any(angle for _, angle in turned["solution_tiles"])


def test_nothing_of_the_data_can_be_markup(page):
    blocks, _, path = page
    source = path.read_bytes()
    assert source.isascii()
    data = re.findall(rb'<script type="application/json"[^>]*>(.*?)</script>', source)
    assert len(data) == len(blocks.data)
    assert not any(b"<" in block for block in data)
    assert [tag for tag, _ in blocks.tags if tag in ("img", "svg", "iframe", "object", "embed", "base")] == []
    assert [attributes for _, attributes in blocks.tags if {"src", "onerror", "onload"} & set(attributes)] == []
    assert b"alert(0)</script>" not in source


def test_policy_allows_the_own_scripts_only(page):
    blocks = page[0]
    rules = dict(rule.strip().split(" ", 1) for rule in blocks.policy.split(";"))
    assert rules["default-src"] == rules["connect-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, sources in (("script-src", blocks.sources["script"]), ("style-src", blocks.sources["style"])):
        hashes = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources]
        assert rules[name].split() == [f"'sha256-{digest}'" for digest in hashes]
    assert "unsafe" not in blocks.policy
    for source in blocks.sources["script"]:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?:", source)


@pytest.mark.parametrize("text", [HOSTILE, "</ScRiPt", "<!--", "]]>", "\u2028\u2029", "\ud800", "\x00\x1f\x7f", "é😀"])
def test_texts_of_blocks_read_back(text, tmp_path, transcripts):
    (turn, *rest) = transcripts[0].turns
    turns = (dataclasses.replace(turn, text=text, feedback=text), *rest)
    episode = dataclasses.replace(transcripts[0], turns=turns, policy=text, details={text: [text]})
    write_page([episode], tmp_path / "page.html", title=text)
    (record,) = Blocks(tmp_path / "page.html").values("episode")
    assert (record["turns"][0]["text"], record["turns"][0]["feedback"], record["policy"]) == (text, text, text)
    assert record["details"] == {text: [text]}


def test_values_that_browsers_cannot_read_become_text():
    strange = {
        "a": float("nan"),
        "b": [float("-inf")],
        3: 2**60,
        "c": np.float32(0.5),
        "d": np.int64(7),
        "e": {1},
        "f": True,
    }
    assert plain_json(strange) == {"a": "nan", "b": ["-inf"], "3": str(2**60), "c": 0.5, "d": 7, "e": "{1}", "f": True}
    assert json.dumps(plain_json(strange), allow_nan=False)


def expand(runs):
    return [value for value, count in runs for _ in range(count)]


def test_segments_read_back(transcripts):
    for segment in with_tokens(transcripts[0], seed=3).segments:
        record = segment_record(segment)
        ids = [entry if isinstance(entry, list) else [entry, 1] for entry in record["ids"]]
        assert expand(ids) == segment.ids.tolist()
        assert [token for token, count in ids if count > 1] == [99] * 4
        mask = np.zeros(record["length"], bool)
        for start, end in record["mask"]:
            mask[start:end] = True
        np.testing.assert_array_equal(mask, segment.loss_mask)
        np.testing.assert_allclose(record["logps"], segment.logps[segment.loss_mask], rtol=1e-4)
        assert expand(record["turns"]) == segment.turns.tolist()
        np.testing.assert_allclose(expand(record["advantages"]), segment.advantages, rtol=1e-4)
        assert record["images"] == list(segment.images)


def test_segments_at_the_edges():
    def segment(ids, mask, logps, advantages=None):
        turns = np.where(np.array(mask, bool), 0, -1).astype(np.int16)
        return Segment(
            np.array(ids, np.int32), np.array(mask, bool), np.array(logps, np.float32), turns, (), advantages
        )

    empty = segment_record(segment([], [], []))
    assert (empty["length"], empty["ids"], empty["mask"], empty["logps"], empty["turns"]) == (0, [], [], [], [])
    written = segment_record(segment([7] * 6, [1] * 6, [-1.0, float("-inf"), float("nan"), 0, -2e-8, -3.25]))
    assert written["ids"] == [7] * 6  # what the model wrote is never counted together
    assert written["mask"] == [[0, 6]]
    assert written["logps"] == [-1.0, "-inf", "nan", 0.0, -2e-8, -3.25]
    assert written["advantages"] is None
    beside = segment_record(segment([7] * 8, [0] * 4 + [1] * 2 + [0] * 2, [0.0] * 8))
    assert beside["ids"] == [[7, 4], 7, 7, 7, 7]
    assert beside["turns"] == [[-1, 4], [0, 2], [-1, 2]]


def test_vocabulary_holds_the_texts_of_the_tokens_that_occur(tmp_path, transcripts):
    told = with_tokens(transcripts[0])
    write_page([told, transcripts[1]], tmp_path / "a.html", decode=decode, image_tokens=[99, 1000])
    blocks = Blocks(tmp_path / "a.html")
    (vocabulary,) = blocks.values("vocabulary")
    used = {token for segment in told.segments for token in segment.ids.tolist()}
    assert vocabulary == {"texts": {str(token): decode(token) for token in used}, "image_tokens": [99]}
    assert [attributes["data-episode"] for kind, attributes, _ in blocks.data if kind == "tokens"] == ["0"]
    write_page([told], tmp_path / "b.html")
    assert Blocks(tmp_path / "b.html").values("vocabulary") == [{"texts": {}, "image_tokens": []}]


def test_images_are_scaled_down(tmp_path, transcripts):
    one = transcripts[0]
    large, small = (write_page([one], tmp_path / f"{side}.html", max_side=side).size for side in (448, 32))
    assert small < large
    images = stored_images(Blocks(tmp_path / "32.html"))
    assert all(max(as_array(image).shape) == 32 for image in images.values())
    assert images[0][:2] == [224, 224]
    many = play(NEVER, [0], grid=10, max_turns=1)
    write_page(many, tmp_path / "many.html", max_side=100)
    pieces = stored_images(Blocks(tmp_path / "many.html"))
    assert {as_array(image).shape for image in pieces.values()} == {(20, 20, 3)}  # the board has twice the largest side


def test_pages_are_small(tmp_path):
    played = play(LOOKS, range(20))
    info = write_page(played, tmp_path / "page.html")
    own = sum(len(source) for sources in Blocks(tmp_path / "page.html").sources.values() for source in sources)
    assert (info.size - own) / len(played) < 40_000  # 40 MB for a thousand, five turns each
    assert own < 80_000


def test_episodes_are_not_kept_in_memory(tmp_path):
    (one,) = play(LOOKS, [0])

    def fresh():
        for number in range(40):
            images = tuple(image ^ np.uint8(number) for image in one.prompt_images)
            turns = tuple(
                dataclasses.replace(turn, images=tuple(image.copy() for image in turn.images)) for turn in one.turns
            )
            yield dataclasses.replace(one, id=str(number), prompt_images=images, turns=turns)

    size = sum(image.nbytes for image in one.images)
    tracemalloc.start()
    try:
        write_page(fresh(), tmp_path / "page.html", max_side=64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * size + 1e6, (peak, size)


def test_mistakes_are_told_and_nothing_is_left_behind(tmp_path, transcripts):
    path = tmp_path / "page.html"
    with pytest.raises(ConfigurationError, match="no episode to show"):
        write_page([], path)
    with pytest.raises(ConfigurationError, match="Two episodes have the id '2x2-L0-0'"):
        write_page([transcripts[0], transcripts[0]], path)
    for options in ({"max_side": 8}, {"max_side": 5000}, {"quality": 0}, {"quality": 101}):
        with pytest.raises(ConfigurationError, match="is not allowed"):
            write_page(transcripts, path, **options)
    for task in (
        {"grid": "2x3"},
        {"grid": None},
        {"names": ["A", "A", "B", "C"]},
        {"names": 4},
        {"grid": "0x0", "names": []},
    ):
        broken = dataclasses.replace(transcripts[0], task={**transcripts[0].task, **task})
        with pytest.raises(ConfigurationError, match="The transcript '2x2-L0-0' has the grid"):
            write_page([broken], path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_page(transcripts, tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_page(transcripts, tmp_path / "missing" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_page(tmp_path, transcripts):
    path = tmp_path / "page.html"
    old = '<!doctype html>\n<meta name="generator" content="agile_gym">\n'
    path.write_text(old)

    def fails():
        yield transcripts[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_page(fails(), path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("page.html", old)]
