"""Played episodes and their transcripts, against the environment itself."""

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.policies import EdgePolicy, RandomPolicy
from agile_gym.rollout import EpisodeRecorder, EpisodeSpec, play_episodes
from agile_gym.transcripts import PolicyRecord, Segment, TurnUsage
from tests.helpers.made_transcripts import WRONG, Scripted, differences, made, played, same_array

OBSERVE = "<think>t</think><code>o = observation(state)</code>"
SMALL = {"image_size": 48, "reveal": True}


def answer(state):
    return f"<think>t</think><answer>{json.dumps(state)}</answer>"


def without_times(transcript):
    """Return what two runs of the same episode share: all but ids and measured times."""
    return (
        transcript.id,
        transcript.task,
        transcript.prompt,
        [(turn.text, turn.feedback, turn.primitives, turn.error, turn.state, turn.reward) for turn in transcript.turns],
        [image.tobytes() for image in transcript.images],
        (transcript.solution, transcript.solved, transcript.score, transcript.reward, transcript.truncated),
    )


@pytest.fixture(
    params=[
        {},
        {"grid": "2x3", "rotations": True, "level": 1},
        {"initial_view": "both", "reference_image": True},
        {"dialect": "tools", "initial_view": "board"},
        {"reward": "official_code", "max_turns": 3},
    ],
    ids=str,
)
def recorded(request):
    """Return options, a recorded episode with them, and what the environment alone shows at its start and its turns."""
    options = request.param
    tools = options.get("dialect") == "tools"
    observe = '<think>t</think><tool_call>{"name": "observe", "arguments": {}}</tool_call>' if tools else OBSERVE
    env = JigsawVisionEnv(**SMALL, **options)
    observation, begun = env.reset(seed=11, options={})
    begun = {**begun, "text": observation["text"], "images": [image.copy() for image in begun["images"]]}
    expected = []
    for text in (observe, "no action at all", answer(begun["solution"])):
        observation, reward, terminated, truncated, info = env.step(text)
        expected.append((text, observation["text"], info, env.episode.workspace.state_list()))
        if terminated or truncated:
            break

    recorder = EpisodeRecorder(JigsawVisionEnv(**SMALL, **options))
    recorder.reset(seed=11, policy_seed=5, name="mine")
    assert recorder.info["policy_seed"] == 5
    for text, *_ in expected:
        assert not recorder.done
        recorder.step(text, TurnUsage(0.5, 7))
        assert recorder.info["policy_seed"] == 5
    transcript = recorder.finish("tester", PolicyRecord(details={"system": "Be good.", "model": "m"}))
    assert (transcript.reward["total"], transcript.truncated) == (reward, truncated)
    return options, transcript, begun, expected


def test_fields_of_an_episode_are_what_the_environment_gives(recorded):
    options, transcript, begun, expected = recorded
    task, (*_, info, _) = begun["task"], expected[-1]
    assert (transcript.id, transcript.policy, transcript.system) == ("mine", "tester", "Be good.")
    assert transcript.details == {"model": "m"}
    assert json.loads(json.dumps(transcript.task)) == {
        "grid": "x".join(map(str, task.grid)),
        "level": begun["level"],
        "names": list(task.names),
        "dialect": options.get("dialect", "code"),
        "initial_view": options.get("initial_view", "pieces"),
        "piece_size": list(task.piece_size),
        "rotations": options.get("rotations", False),
        "max_turns": options.get("max_turns", 5),
        "seed": 11,
        "policy_seed": 5,
        "image_id": begun["image_id"],
    }
    assert transcript.prompt == begun["text"]
    assert transcript.prompt.count("<image>") == len(begun["images"]) == len(transcript.prompt_images)
    assert all(map(same_array, transcript.prompt_images, begun["images"]))
    assert list(transcript.solution) == begun["solution"]
    assert (transcript.solved, transcript.score) == (info["solved"], info["score"])
    assert transcript.reward == info["reward"]


def test_fields_of_turns_are_what_the_environment_gives(recorded):
    _, transcript, _, expected = recorded
    for turn, (text, feedback, then, state) in zip(transcript.turns, expected, strict=True):
        assert (turn.text, turn.feedback) == (text, feedback)
        assert (turn.error, turn.reward) == (then["error"], then["reward"])
        assert turn.primitives == tuple(type(primitive).__name__ for primitive in then["primitives"])
        assert list(turn.state) == state
        assert all(map(same_array, turn.images, then["images"]))
        assert len(turn.images) == len(then["images"])
        assert turn.usage == TurnUsage(0.5, 7)
        assert 0 < turn.env_seconds < 5
    assert transcript.turns[0].primitives == ("Observe",)
    assert transcript.turns[1].error == "no_action"


def test_messages_alternate_and_end_with_the_model():
    (transcript,) = played(1)
    messages = transcript.messages()
    assert [message.role for message in messages] == ["user", "assistant"] * 3
    assert [message.text for message in messages[1::2]] == [turn.text for turn in transcript.turns]
    assert [message.text for message in messages[2::2]] == [turn.feedback for turn in transcript.turns[:-1]]
    assert [message.text.count("<image>") for message in messages] == [4, 0, 1, 0, 0, 0]
    assert [len(message.images) for message in messages] == [4, 0, 1, 0, 0, 0]
    shown = [image for message in messages for image in message.images]
    assert all(same_array(*pair) for pair in zip(transcript.images, shown, strict=True))


def test_a_system_prompt_comes_first_and_no_turn_leaves_the_prompt():
    episode = replace(made(0), system="Be good.")
    assert [message.role for message in episode.messages()] == ["system", "user", "assistant", "user", "assistant"]
    assert [message.role for message in replace(episode, turns=()).messages()] == ["system", "user"]


def test_arrays_of_a_segment_must_belong_together():
    good = made(0).segments[0]
    with pytest.raises(ValueError, match="have the shapes"):
        Segment(good.ids, good.loss_mask[:1], good.logps, good.turns, ())
    with pytest.raises(ValueError, match="have the shapes"):
        Segment(good.ids, good.loss_mask, good.logps, good.turns, (), good.advantages[:1])
    with pytest.raises(ValueError, match="have the shapes"):
        Segment(*(array[None] for array in (good.ids, good.loss_mask, good.logps, good.turns)), ())


def test_kept_images_do_not_change_with_later_turns():
    recorder = EpisodeRecorder(JigsawVisionEnv(max_turns=30, **SMALL))
    recorder.reset(seed=0)
    copies = []
    for turn in range(20):
        recorder.step(f"<think>t</think><code>swap({turn % 4}, {(turn + 1) % 4})\no = observation(state)</code>")
        copies.append(recorder.info["images"][0].copy())
    recorder.step(answer(["A", "B", "C", "D"]))
    transcript = recorder.finish("p")
    assert all(same_array(turn.images[0], copy) for turn, copy in zip(transcript.turns, copies, strict=False))
    assert len({copy.tobytes() for copy in copies}) > 10


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("make_policy", [RandomPolicy, EdgePolicy, Scripted])
def test_episodes_do_not_depend_on_the_batch(make_policy, batch):
    def play(size):
        policy = make_policy()
        policy.reset(7)
        specs = [
            EpisodeSpec(f"{grid}", seed=seed, policy_seed=seed, name=f"{grid}-{seed}", options={"level": 0})
            for grid in ("2x2", "1x3")
            for seed in range(5)
        ]
        makers = {grid: lambda grid=grid: JigsawVisionEnv(grid=grid, **SMALL) for grid in ("2x2", "1x3")}
        return {spec.name: transcript for spec, transcript in play_episodes(policy, specs, makers, batch=size)}

    alone, together = play(2), play(batch)
    assert alone.keys() == together.keys()
    assert len(alone) == 10
    for name, transcript in alone.items():
        assert without_times(transcript) == without_times(together[name])


class Watching(Scripted):
    """Checks what a policy is told, and notes who plays where."""

    def reset(self, seed=None):
        super().reset(seed)
        self.slots = {}
        self.finished = []
        self.sizes = []

    def act(self, observations, infos):
        self.sizes.append(len(infos))
        for observation, info in zip(observations, infos, strict=True):
            episode = self.slots.setdefault(info["slot"], [])
            if info["turn"] == 0:
                assert not episode, "a slot began an episode before the last one was finished"
            else:
                assert episode[-1][0] == info["policy_seed"]
                assert episode[-1][1] == info["turn"] - 1
            episode.append((info["policy_seed"], info["turn"], observation["text"]))
        return super().act(observations, infos)

    def finish(self, slot):
        self.finished.append([entry[:2] for entry in self.slots.pop(slot)])
        return super().finish(slot)


def test_slots_are_used_again_and_finished_once():
    policy = Watching(tokens=6)
    policy.reset()
    made_envs = []

    def make():
        made_envs.append(JigsawVisionEnv(**SMALL))
        return made_envs[-1]

    taken = []

    def specs():
        for seed in range(7):
            taken.append(seed)
            yield EpisodeSpec("env", seed=seed, policy_seed=seed)

    episodes = play_episodes(policy, specs(), {"env": make}, batch=3, policy_name="watching")
    assert not taken
    spec, transcript = next(episodes)
    assert taken == [0, 1, 2]  # the next one is taken when the caller has dealt with the last
    assert spec.seed == 0  # even seeds take two turns, odd ones three
    rest = [(spec, transcript), *episodes]
    assert [spec.seed for spec, _ in rest] == [0, 2, 1, 4, 3, 5, 6]
    assert len(made_envs) == 3
    assert policy.sizes == [3, 3, 3, 3, 3, 2]
    assert not policy.slots
    assert [entries[0][0] for entries in policy.finished] == [spec.seed for spec, _ in rest]
    for spec, transcript in rest:
        assert [turn for _, turn in policy.finished[[s.seed for s, _ in rest].index(spec.seed)]] == list(
            range(len(transcript.turns))
        )
        assert len(transcript.turns) == (3 if spec.seed % 2 else 2)
        assert (transcript.id, transcript.policy) == (f"2x2-L0-{spec.seed}", "watching")
        assert transcript.solved == (spec.seed % 4 != 0)
        assert [turn.usage.context_tokens for turn in transcript.turns] == [100, 101, 102][: len(transcript.turns)]
        assert transcript.segments[0].ids.size == 6
        assert transcript.details["model"] == "made up"


def test_usage_is_the_time_of_the_batch_for_policies_that_record_nothing():
    policy = RandomPolicy(0)
    specs = [EpisodeSpec("env", seed=seed) for seed in range(2)]
    transcripts = [t for _, t in play_episodes(policy, specs, {"env": lambda: JigsawVisionEnv(**SMALL)}, batch=2)]
    first, second = (transcript.turns[0].usage for transcript in transcripts)
    assert first.seconds == second.seconds > 0
    assert first.new_tokens is None
    assert transcripts[0].task["policy_seed"] is None


def test_transcripts_without_images():
    with_images, without = played(2), played(2, keep_images=False)
    for full, bare in zip(with_images, without, strict=True):
        assert bare.images == ()
        assert [turn.images for turn in bare.turns] == [()] * len(bare.turns)
        assert set(differences(full, bare)) == {"prompt_images", "turns"}
        assert without_times(full)[:4] == without_times(bare)[:4]


def test_wrapped_environments_are_recorded():
    env = gymnasium.make("JigsawVision-v0", **SMALL)
    recorder = EpisodeRecorder(env)
    assert recorder.env is env
    recorder.reset(seed=3)
    recorder.step(answer(recorder.info["solution"]))
    transcript = recorder.finish("p")
    assert (transcript.solved, transcript.id) == (True, "2x2-L0-3")
    plain = EpisodeRecorder(JigsawVisionEnv(**SMALL))
    plain.reset(seed=3)
    plain.step(answer(plain.info["solution"]))
    assert without_times(transcript) == without_times(plain.finish("p"))


def test_a_wrapper_may_end_an_episode():
    recorder = EpisodeRecorder(gymnasium.wrappers.TimeLimit(JigsawVisionEnv(**SMALL), 2))
    recorder.reset(seed=3)
    recorder.step(OBSERVE)
    recorder.step(OBSERVE)
    transcript = recorder.finish("p")
    assert (transcript.truncated, transcript.solved, transcript.score) == (True, False, 0.0)
    assert len(transcript.turns) == 2


def test_turns_that_run_out_are_told():
    recorder = EpisodeRecorder(JigsawVisionEnv(max_turns=2, **SMALL))
    recorder.reset(seed=3)
    recorder.step(OBSERVE)
    recorder.step(WRONG)
    transcript = recorder.finish("p")
    assert (transcript.truncated, transcript.solved, transcript.reward["step"]) == (True, False, -0.1)
    assert transcript.turns[1].error == "bad_index"


def test_a_recorder_needs_an_environment():
    with pytest.raises(ConfigurationError, match=r"records a gymnasium\.Env; this is 'CartPole-v1'"):
        EpisodeRecorder("CartPole-v1")


def test_a_recorder_needs_the_contract():
    recorder = EpisodeRecorder(gymnasium.make("CartPole-v1"))
    with pytest.raises(
        ConfigurationError, match=r"CartPole-v1 does not keep .* must be a dictionary, and is .*ndarray"
    ):
        recorder.reset(seed=0)


def test_a_recorder_refuses_options_that_the_environment_has_not():
    with pytest.raises(ConfigurationError, match="no option"):
        EpisodeRecorder(JigsawVisionEnv(**SMALL)).reset(options={"levle": 1})


def test_a_recorder_steps_within_an_episode_and_finishes_after_it():
    recorder = EpisodeRecorder(JigsawVisionEnv(**SMALL))
    with pytest.raises(ConfigurationError, match="has not ended"):
        recorder.finish("p")
    with pytest.raises(ResetNeeded):
        recorder.step(OBSERVE)
    recorder.reset(seed=1)
    recorder.step(OBSERVE)
    with pytest.raises(ConfigurationError, match="has not ended"):
        recorder.finish("p")
    recorder.step(answer(["A"]))
    with pytest.raises(ResetNeeded):
        recorder.step(OBSERVE)


def test_a_recorder_is_used_again():
    recorder = EpisodeRecorder(JigsawVisionEnv(**SMALL))
    recorder.reset(seed=1)
    recorder.step(OBSERVE)
    recorder.step(answer(["A"]))
    first = recorder.finish("p")
    recorder.reset(seed=2)
    with pytest.raises(ConfigurationError, match="has not ended"):
        recorder.finish("p")
    recorder.step(answer(recorder.info["solution"]))
    second = recorder.finish("p")
    assert (first.solved, len(first.turns), first.id) == (False, 2, "2x2-L0-1")
    assert (second.solved, len(second.turns), second.id) == (True, 1, "2x2-L0-2")


def test_a_record_must_tell_of_every_turn():
    recorder = EpisodeRecorder(JigsawVisionEnv(**SMALL))
    recorder.reset(seed=1)
    recorder.step(answer(["A"]))
    with pytest.raises(ConfigurationError, match="2 entries for 1 turns"):
        recorder.finish("p", PolicyRecord(usage=(TurnUsage(0.1), TurnUsage(0.1))))


class Returning:
    def __init__(self, texts):
        self.texts = texts

    def reset(self, seed=None):
        raise AssertionError("resetting the policy is the caller's")

    def act(self, observations, infos):
        return self.texts


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b", "c"], ["a", None], [b"a", "b"]])
def test_a_policy_must_write_a_text_for_each_observation(texts):
    specs = [EpisodeSpec("env", seed=seed) for seed in range(2)]
    with pytest.raises(ConfigurationError, match="for 2 observations; act\\(\\) must return a text for each"):
        list(play_episodes(Returning(texts), specs, {"env": lambda: JigsawVisionEnv(**SMALL)}))


def test_mistakes_in_what_shall_be_played():
    makers = {"env": lambda: JigsawVisionEnv(**SMALL)}
    with pytest.raises(ConfigurationError, match="batch=0"):
        list(play_episodes(RandomPolicy(0), [], makers, batch=0))
    with pytest.raises(ConfigurationError, match="no environment 'emv'; there are \\['env'\\]"):
        list(play_episodes(RandomPolicy(0), [EpisodeSpec("emv", seed=0)], makers))
    assert list(play_episodes(RandomPolicy(0), [], makers)) == []


def test_environments_are_closed_however_playing_ends():
    class Closing(JigsawVisionEnv):
        closed = 0

        def close(self):
            Closing.closed += 1

    makers = {"env": lambda: Closing(**SMALL)}
    specs = [EpisodeSpec("env", seed=seed) for seed in range(4)]
    list(play_episodes(RandomPolicy(0), specs, makers, batch=3))
    assert Closing.closed == 3
    episodes = play_episodes(RandomPolicy(0), specs, makers, batch=2)
    next(episodes)
    episodes.close()
    assert Closing.closed == 5
    with pytest.raises(ConfigurationError):
        list(play_episodes(Returning([]), specs, makers, batch=2))
    assert Closing.closed == 7


def test_images_of_a_transcript_are_all_in_order():
    (transcript,) = played(1)
    assert len(transcript.images) == 5
    assert transcript.images[:4] == transcript.prompt_images
    assert transcript.images[4] is transcript.turns[0].images[0]
    board = transcript.images[4]
    assert np.array_equal(board[:24, :24], transcript.images[1])  # A and B have been swapped
