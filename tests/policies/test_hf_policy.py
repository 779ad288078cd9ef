import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.envs.jigsaw import JigsawVisionVectorEnv  # noqa: E402 -- after the skip
from agile_gym.errors import ConfigurationError, ModelError  # noqa: E402 -- after the skip
from agile_gym.policies import Policy, RecordingPolicy  # noqa: E402 -- after the skip
from agile_gym.policies.model import HFVLMPolicy  # noqa: E402 -- after the skip
from tests.helpers.prompted_episodes import LOOK, SMALL, play  # noqa: E402 -- after the skip


@pytest.fixture
def vlm(loaded):
    return loaded("idefics3")


def make(model, **options):
    return HFVLMPolicy(model, **{"max_new_tokens": 12, **options})


def first_turn(policy, env, seed=0, **info):
    observation, told = env.reset(seed=seed)
    return policy.act([observation], [told | info])


def test_it_is_a_policy_that_records(vlm):
    policy = make(vlm)
    assert isinstance(policy, Policy)
    assert isinstance(policy, RecordingPolicy)


def test_same_seed_same_texts(vlm):
    policy, env = make(vlm), SMALL()
    policy.reset(5)
    texts = [first_turn(policy, env, seed) for seed in (1, 1, 2)]
    policy.reset(5)
    assert [first_turn(policy, env, seed) for seed in (1, 1, 2)] == texts
    assert texts[0] != texts[1]  # another episode, another draw
    policy.reset(6)
    assert first_turn(policy, env, 1) != texts[0]


def test_policy_seed_fixes_an_episode_wherever_it_comes(vlm):
    policy, env = make(vlm), SMALL()
    once = first_turn(policy, env, 1, policy_seed=3)
    first_turn(policy, env, 2, policy_seed=4)
    assert first_turn(policy, env, 1, policy_seed=3) == once
    assert first_turn(policy, env, 1, policy_seed=5) != once


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["a", "e"])
def test_a_turn_ends_where_it_says_stop(vlm, stop):
    policy = make(vlm, max_new_tokens=400, temperature=100.0, stop=[stop, "never"])
    stopped = 0
    for transcript in play(policy, count=2):
        (segment,) = transcript.segments
        for turn in range(len(transcript.turns)):
            ids = segment.ids[segment.turns == turn]
            text = policy.chat.decode(ids)
            if text.endswith(stop):
                stopped += 1
            assert stop not in text[:-1]
    assert stopped > 2


def test_length_is_limited_and_counted(vlm):
    policy = make(vlm, max_new_tokens=3, stop=["never written"])
    for transcript in play(policy, count=2):
        lengths = [turn.usage.new_tokens for turn in transcript.turns]
        assert max(lengths) == 3
        ended = sum(int(transcript.segments[0].ids[transcript.segments[0].turns == turn][-1]) == policy.chat.end_of_turn
                    for turn in range(len(lengths)))  # fmt: skip
        assert transcript.details["turns_cut_short"] == len(lengths) - ended


def test_a_full_context_gives_an_empty_turn_and_no_error(vlm):
    policy = make(vlm, max_new_tokens=100, stop=["never written"])
    policy._generator.max_context = 400
    transcripts = play(policy, count=3)
    assert any(turn.text == "" for t in transcripts for turn in t.turns)
    for transcript in transcripts:
        assert transcript.turns[0].usage.context_tokens < 400
        for turn in transcript.turns:
            assert turn.usage.context_tokens + turn.usage.new_tokens <= max(400, turn.usage.context_tokens)
            if turn.text == "" and turn.usage.new_tokens == 0:
                assert turn.usage.computed_tokens == 0
    observation, info = SMALL().reset(seed=0)
    policy._generator.max_context = 10
    assert policy.act([observation], [info]) == [""]
    assert [part.turn for part in policy._episodes[0].context.parts] == [-1, 0]


@pytest.mark.slow
def test_prefilled_thinking_is_part_of_the_turn(saved, tmp_path):
    import shutil

    model = shutil.copytree(saved("idefics3"), tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    policy = make(str(model))
    (text,) = first_turn(policy, SMALL())
    assert text.startswith("<think>\n")
    written = policy._episodes[0].context.parts[-1].chunk.ids
    assert "<think>" not in policy.chat.tokenizer.decode(written)
    going_on = make(str(model), max_new_tokens=400, temperature=100.0, stop=["e"])
    for transcript in play(going_on, count=2):  # all that it writes is part of the thought
        assert any("e" in turn.text[8:-1] for turn in transcript.turns)


def test_system_prompt_is_read_and_recorded(vlm):
    policy = make(vlm, system="Be brief.")
    (transcript,) = play(policy, count=1)
    assert transcript.system == "Be brief."
    assert "Be brief." in policy.chat.tokenizer.decode(transcript.segments[0].ids)
    assert transcript.messages()[0].role == "system"


def test_over_a_vector_environment(vlm):
    policy = make(vlm)
    env = JigsawVisionVectorEnv(num_envs=3, grid=2, image_size=112, prompt="short", max_turns=3)
    observations, infos = env.reset(seed=0)
    for turn in range(3):
        rows = [{key: value[i] for key, value in infos.items() if not isinstance(value, dict)} for i in range(3)]
        texts = policy.act([{"text": observations["text"][i]} for i in range(3)], rows)
        assert [len(episode.usage) for episode in policy._episodes.values()] == [turn + 1] * 3
        assert len(texts) == 3
        observations, _, _, _, infos = env.step([LOOK] * 3)
    record = policy.finish(1)
    assert len(record.usage) == 3
    assert len(record.segments[0].images) == 6


def test_turns_of_an_episode_cannot_be_left_out(vlm):
    policy, env = make(vlm), SMALL()
    first_turn(policy, env)
    env.step(LOOK)
    observation, _, _, _, info = env.step(LOOK)
    with pytest.raises(ConfigurationError, match=r"given turn 2 .* read 1 turns"):
        policy.act([observation], [info])
    with pytest.raises(ConfigurationError, match="no episode in slot 7"):
        policy.finish(7)


def test_a_slot_is_one_episode(vlm):
    policy, env = make(vlm), SMALL()
    observation, info = env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="Two observations of a batch are in slot 4"):
        policy.act([observation] * 3, [info | {"slot": 4}, info | {"slot": 3}, info | {"slot": 4}])
    assert policy._episodes == {}
    (text,) = policy.act([observation], [info | {"policy_seed": 1}])
    assert policy.act([observation], [info | {"policy_seed": 1}]) == [text]  # begun anew, without being finished
    assert len(policy.finish(0).usage) == 1


def test_part_of_the_episodes_can_be_played(vlm):
    def texts(batches):
        policy, envs = make(vlm), [SMALL() for _ in range(3)]
        now = [env.reset(seed=i) for i, env in enumerate(envs)]
        written = [[], [], []]
        for batch in batches:
            infos = [now[i][1] | {"slot": i, "policy_seed": i} for i in batch]
            for i, text in zip(batch, policy.act([now[i][0] for i in batch], infos), strict=True):
                written[i].append(text)
                observation, *_, info = envs[i].step(LOOK)
                now[i] = (observation, info)
        records = [policy.finish(i) for i in range(3)]
        return written, [record.segments[0].ids.tolist() for record in records]

    assert texts([[0, 1, 2], [2], [1, 2], [0, 1], [0]]) == texts([[0, 1, 2], [0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"top_p": 0.5}])
def test_numbers_that_are_none_are_told_and_leave_no_half_turns(saved, options):
    policy, env = make(str(saved("idefics3")), **options), SMALL()
    first_turn(policy, env)
    with torch.no_grad():
        policy.vlm.model.get_output_embeddings().weight[0] = np.nan
    observation, _, _, _, info = env.step(LOOK)
    begun, told = SMALL().reset(seed=1)
    with pytest.raises(ModelError, match=r"are not numbers \(NaN\)"):
        policy.act([begun, observation], [told | {"slot": 1}, info | {"slot": 0}])
    assert policy._episodes == {}
    with pytest.raises(ConfigurationError, match=r"given turn 1 .* read 0 turns"):
        policy.act([observation], [info])


def test_a_text_without_its_images_is_refused_and_spoils_no_other_episode(vlm):
    policy, env, other = make(vlm), SMALL(), SMALL()
    observation, info = env.reset(seed=0)
    first_turn(policy, other, slot=1)
    with pytest.raises(ConfigurationError, match="4 marks <image> for 3 images"):
        policy.act([observation], [info | {"images": info["images"][:3]}])
    assert list(policy._episodes) == [1]


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_seeds_are_checked(vlm, seed):
    policy = make(vlm)
    with pytest.raises(ConfigurationError, match=r"is not a seed"):
        policy.reset(seed)
    with pytest.raises(ConfigurationError, match=r"is not a seed"):
        first_turn(policy, SMALL(), policy_seed=seed)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"system": 3}, ConfigurationError, "give a text, or None"),
        ({"temprature": 1}, ConfigurationError, "Did you mean 'temperature'"),
        ({"window": 0}, ConfigurationError, "give 1 to 1000, or None"),
        ({"window": "two"}, ConfigurationError, "give 1 to 1000, or None"),
        ({"top_p": 2}, ConfigurationError, "up to 1"),
    ],
)
def test_options_that_are_not_allowed(vlm, options, error, message):
    with pytest.raises(error, match=message):
        make(vlm, **options)


def test_what_is_no_model(vlm):
    with pytest.raises(ModelError, match="neither a path"):
        HFVLMPolicy(3)
    with pytest.raises(ConfigurationError, match="go with a path"):
        HFVLMPolicy(vlm, dtype="float32")
    assert HFVLMPolicy(vlm, max_new_tokens=5).vlm is vlm


@pytest.mark.parametrize(("options", "kept"), [({}, False), ({"reuse_cache": False}, True), ({"window": 1}, True)])
def test_pixels_are_kept_only_where_they_are_read_again(vlm, options, kept):
    policy = make(vlm, **options)
    first_turn(policy, SMALL())
    (part, _) = policy._episodes[0].context.parts
    assert bool(part.chunk.pixels) == kept
    assert part.chunk.images == 4


def test_memory_of_finished_episodes_is_given_back(vlm):
    policy = make(vlm)
    play(policy, count=4, batch=2)
    assert policy._episodes == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_plays(saved, dtype):
    policy = make(str(saved("idefics3")), device="cpu", dtype=dtype)
    assert str(policy.vlm.model.dtype) == f"torch.{dtype}"
    for transcript in play(policy, count=2):
        logps = transcript.segments[0].logps[transcript.segments[0].loss_mask]
        assert np.isfinite(logps).all()
        assert (logps < 0).all()
