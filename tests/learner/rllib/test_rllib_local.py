"""Training in one process: what is trained, stored, and played."""

import json

import numpy as np
import pytest

from agile_gym.errors import ConfigurationError, ModelError
from tests.helpers.rllib_parts import Watched, difference, is_even, letters, texts, train, weights


def watched(config):
    config.algo_class = Watched
    return config


def test_trains_and_tells(make_config, build):
    algorithm = build(make_config())
    before = weights(algorithm)
    told = train(algorithm, 2)
    assert [entry["optimizer_steps"] for entry in told] == [4, 8]
    assert [entry["groups_played"] for entry in told] == [6, 6]
    assert difference(before, weights(algorithm)) > 1e-3
    result = algorithm.train()
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 3 * 6 * 3 * 2
    assert result["env_runners"]["num_episodes_lifetime"] == 3 * 6 * 3
    learner = result["learners"]["default_policy"]
    assert learner["max_log_ratio_first"] == learner["max_mismatch"] < 1e-3
    assert 0 < learner["mismatch_mean"] < learner["max_mismatch"]
    assert learner["approx_kl_first"] == learner["mismatch_kl"] < 1e-6


def test_runner_in_this_process_shares_the_module(make_config, build):
    algorithm = build(make_config())
    assert algorithm.env_runner.module is algorithm.learner_group._learner.module["default_policy"]
    assert not algorithm.env_runner.module.model.training


def test_same_seed_same_training_and_another_seed_another(make_config, build):
    runs = []
    for seed in (0, 0, 1):
        algorithm = build(watched(make_config().debugging(seed=seed)))
        runs.append((train(algorithm, 2), texts(algorithm), weights(algorithm)))
    assert runs[0][:2] == runs[1][:2]
    assert difference(runs[0][2], runs[1][2]) == 0
    assert runs[0][1] != runs[2][1]


@pytest.mark.parametrize("vlm", [{}, {"train": "lora", "lora_rank": 4}], ids=["full", "lora"])
def test_goes_on_bit_for_bit_from_a_checkpoint(make_config, build, tmp_path, vlm):
    config = watched(make_config(vlm=vlm, curriculum=True, tasks=[{"grid": "2x2"}, {"grid": "1x2"}]))
    first = build(config.copy(copy_frozen=False))
    train(first, 2)
    path = first.save_to_path(tmp_path / "checkpoint")
    expected, expected_weights = train(first, 2), weights(first)

    second = Watched.from_checkpoint(path)
    assert (train(second, 2), texts(second)) == (expected, texts(first)[2:])
    assert difference(weights(second), expected_weights) == 0
    second.stop()

    third = build(config.copy(copy_frozen=False))
    train(third)
    third.restore_from_path(path)
    assert train(third, 2) == expected
    assert texts(third)[1:] == texts(first)[2:]
    assert difference(weights(third), expected_weights) == 0
    # Back again, to weights that are older.
    first.restore_from_path(path)
    assert train(first, 2) == expected
    assert difference(weights(first), expected_weights) == 0


def test_adapters_alone_are_stored_and_load_with_the_policy(make_config, build, tmp_path, small_model):
    from agile_gym.envs.jigsaw import JigsawVisionEnv
    from agile_gym.policies.model import HFVLMPolicy
    from agile_gym.rollout import EpisodeSpec, play_episodes
    from tests.helpers.tiny_learning import load

    algorithm = build(make_config(vlm={"train": "lora", "lora_rank": 4}, lr=0.02))
    train(algorithm, 2)
    assert all("lora_" in name for name in weights(algorithm))
    state = algorithm.learner_group.get_state(components="learner")["learner"]["rl_module"]["default_policy"]
    assert state.keys() == weights(algorithm).keys()
    folder = algorithm.save_pretrained(tmp_path / "adapter")
    assert (folder / "adapter_config.json").exists()
    assert (folder / "adapter_model.safetensors").stat().st_size < 500_000

    policy = HFVLMPolicy(load(small_model, adapter=folder), max_new_tokens=8, temperature=0)
    plain = HFVLMPolicy(load(small_model), max_new_tokens=8, temperature=0)
    makers = {"0": lambda: JigsawVisionEnv(image_size=64, prompt="short", split="train", max_turns=2)}
    specs = [EpisodeSpec("0", seed, name=str(seed)) for seed in range(3)]
    own = algorithm.env_runner._policy(explore=False)
    played = []
    for player in (policy, own, plain):
        player.reset(0)
        episodes = sorted(play_episodes(player, specs, makers), key=lambda pair: pair[0].seed)
        played.append([[turn.text for turn in transcript.turns] for _, transcript in episodes])
    assert played[0] == played[1]
    assert played[0] != played[2]


def test_saved_model_is_an_ordinary_one_that_plays_as_the_evaluation_does(make_config, build, tmp_path, monkeypatch):
    from transformers import AutoModelForImageTextToText

    from agile_gym.learner import grpo as module

    algorithm = build(make_config(lr=5e-3))
    train(algorithm, 2)
    folder = algorithm.save_pretrained(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    trained = weights(algorithm)
    for name, parameter in model.named_parameters():
        assert np.array_equal(trained[f"model.{name}"], parameter.detach().numpy())

    seen = []
    real = module.evaluation_metrics
    monkeypatch.setattr(
        module, "evaluation_metrics", lambda episodes, tasks: seen.append(episodes) or real(episodes, tasks)
    )
    algorithm.evaluate()
    other = build(make_config(model=folder))
    other.evaluate()
    first, second = ([[turn.text for turn in episode.turns] for episode in episodes] for episodes in seen)
    assert len(first) == 8
    assert first == second


def test_evaluation_has_its_own_puzzles_and_always_the_same(make_config, build, monkeypatch):
    from agile_gym.learner import grpo as module

    config = make_config(tasks=[{"grid": "2x2", "weight": 1}, {"grid": "1x2", "weight": 1}])
    config.evaluation(evaluation_interval=1, evaluation_config={"env_config": {"split": "test"}})
    algorithm = build(config)
    seen = []
    real = module.evaluation_metrics
    monkeypatch.setattr(
        module, "evaluation_metrics", lambda episodes, tasks: seen.append(episodes) or real(episodes, tasks)
    )
    result = algorithm.train()
    metrics = result["evaluation"]
    assert metrics["episodes"] == 8
    assert metrics["acc_low"] <= metrics["acc"] <= metrics["acc_high"]
    assert {"acc/2x2", "acc/1x2"} <= metrics.keys()
    algorithm.train()
    puzzles = [[(episode.task["seed"], episode.task["image_id"]) for episode in episodes] for episodes in seen]
    assert puzzles[0] == puzzles[1]
    from agile_gym.envs.jigsaw import JigsawVisionEnv

    def ids(split):
        env = JigsawVisionEnv(split=split, image_size=64)
        return {env.reset(seed=seed)[1]["image_id"] for seed in range(60)}

    shown = {image for _, image in puzzles[0]}
    assert shown <= ids("test")
    assert not shown & ids("train")


def test_groups_without_variance_are_left_out_and_replaced(make_config, build):
    plain = build(watched(make_config(reward_fn=is_even, max_new_tokens=8).debugging(seed=1)))
    (told,) = train(plain)
    assert told["groups_played"] == 6
    assert told["groups_trained"] + told["groups_constant"] == 6
    assert 0 < told["groups_constant"] < 6
    again = build(watched(make_config(reward_fn=is_even, max_new_tokens=8, resample_rounds=20).debugging(seed=1)))
    told = train(again, 2)
    for entry in told:
        assert entry["groups_trained"] == 6
        assert entry["groups_played"] == 6 + entry["groups_constant"]
    played = [index for batch in again.seen for index in (group.spec.index for group in batch.played)]
    assert played == sorted(set(played))  # none twice
    kept = build(watched(make_config(reward_fn=is_even, max_new_tokens=8, filter_zero_variance_groups=False)))
    assert train(kept)[0]["groups_trained"] == 6


def test_credit_by_turn_gives_the_tokens_of_a_turn_their_own_advantage(make_config, build):
    def reward(transcript):  # differs within a group whatever is written
        return sum(map(ord, transcript.turns[0].text)) % 7

    config = make_config(credit="turn", turn_discount=0.5, advantage_scale="none", reward_fn=reward)
    algorithm = build(config)
    batch = algorithm.collect()
    episodes = [episode for group in batch.groups for episode in group.episodes]
    by_group = [[reward(episode) for episode in group.episodes] for group in batch.groups]
    samples = algorithm.make_samples(batch)
    assert len(samples) == len(episodes) >= 3
    rest = iter(samples)
    for group, returns in zip(batch.groups, by_group, strict=True):
        for episode, value in zip(group.episodes, returns, strict=True):
            segment = next(rest).segment
            last = len(episode.turns) - 1
            for turn in range(last + 1):
                tokens = segment.advantages[segment.loss_mask & (segment.turns == turn)]
                reached = [(r, len(e.turns) - 1) for r, e in zip(returns, group.episodes, strict=True)]
                others = [r * 0.5 ** (end - turn) for r, end in reached if end >= turn]
                assert tokens == pytest.approx(value * 0.5 ** (last - turn) - np.mean(others), abs=1e-5)


def test_nothing_to_learn_changes_nothing(make_config, build):
    algorithm = build(make_config(reward_fn=lambda episode: 1.0))
    before = weights(algorithm)
    result = algorithm.train()
    assert result["grpo"]["groups_constant"] == 6
    assert difference(before, weights(algorithm)) == 0


@pytest.mark.parametrize("train_kind", ["lora", "full"])
def test_kl_divergence_from_the_model_before_training(make_config, build, train_kind):
    vlm = {"train": train_kind, "lora_rank": 4}
    values = {}
    for weight in (0.01, 50.0):
        algorithm = build(make_config(vlm=vlm, kl_coef=weight, lr=0.001))
        values[weight] = [float(algorithm.train()["learners"]["default_policy"]["kl_ref"]) for _ in range(5)]
    assert 0 < values[0.01][0] < values[0.01][-1]
    assert values[50.0][-1] < values[0.01][-1] / 2


def test_kl_is_measured_from_the_beginning_also_after_a_restore(make_config, build, tmp_path):
    algorithm = build(make_config(kl_coef=0.01, lr=0.003))
    train(algorithm, 2)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    expected = algorithm.train()["learners"]["default_policy"]["kl_ref"]
    other = build(make_config(kl_coef=0.01, lr=0.003))
    other.restore_from_path(path)
    assert other.train()["learners"]["default_policy"]["kl_ref"] == expected > 0


def test_tasks_follow_their_shares(make_config, build):
    tasks = [{"grid": "2x2", "level": 0, "weight": 1}, {"grid": "1x2", "weight": 1}]
    algorithm = build(watched(make_config(tasks=tasks, groups_per_iteration=12, curriculum=True)))
    train(algorithm)
    grids = [group.episodes[0].task["grid"] for batch in algorithm.seen for group in batch.played]
    assert set(grids) == {"2x2", "1x2"}
    assert algorithm.get_state()["grpo"]["curriculum"] != [1.0, 1.0] or not any(
        batch.constant for batch in algorithm.seen
    )


def test_own_policy_module_and_reward(make_config, build):
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from tests.helpers.rllib_parts import LoudModule, LoudPolicy

    config = make_config(policy_class=LoudPolicy, reward_fn=letters)
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=LoudModule, model_config={"path": "tiny", "system": "Be quick."})
    )
    algorithm = build(watched(config))
    train(algorithm)
    assert isinstance(algorithm.env_runner.module, LoudModule)
    episodes = [episode for batch in algorithm.seen for group in batch.played for episode in group.episodes]
    assert all(turn.text.endswith("!") for episode in episodes for turn in episode.turns)
    assert all(episode.system == "Be quick." for episode in episodes)


def test_environment_that_was_registered_and_one_given_as_a_class(make_config, build):
    from ray.tune.registry import register_env

    from agile_gym.envs.jigsaw import JigsawVisionEnv

    register_env("my_jigsaw", lambda context: JigsawVisionEnv(**context))
    options = make_config().env_config
    for env in ("my_jigsaw",):
        algorithm = build(make_config().environment(env, env_config=options))
        assert train(algorithm)[0]["groups_played"] == 6


def test_full_disk_leaves_the_former_checkpoint(make_config, build, tmp_path):
    import resource

    algorithm = build(make_config())
    train(algorithm)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    expected, expected_weights = train(algorithm), weights(algorithm)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError):  # noqa: PT011 -- any of them
            algorithm.save_to_path(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]
    again = build(make_config())
    again.restore_from_path(path)
    assert train(again) == expected
    assert difference(weights(again), expected_weights) == 0
    algorithm.save_to_path(path)  # there is room again
    again.restore_from_path(path)
    assert difference(weights(again), expected_weights) == 0


@pytest.mark.parametrize(
    "name", ["learner_group/learner/rl_module/default_policy/module_state.pkl", "algorithm_state.pkl"]
)
def test_damaged_checkpoint(make_config, build, tmp_path, name):
    algorithm = build(make_config())
    path = tmp_path / "checkpoint"
    algorithm.save_to_path(path)
    content = (path / name).read_bytes()
    middle = len(content) // 2
    (path / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    for load in (algorithm.restore_from_path, type(algorithm).from_checkpoint):
        with pytest.raises(ConfigurationError, match=f"is damaged: {name}"):
            load(path)


def test_no_checkpoint(make_config, build, tmp_path):
    algorithm = build(make_config())
    with pytest.raises(ConfigurationError, match="no checkpoint"):
        algorithm.restore_from_path(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match=r"not a checkpoint of GRPO.*manifest"):
        type(algorithm).from_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": 3}))
    with pytest.raises(ConfigurationError, match="damaged: manifest"):
        algorithm.restore_from_path(tmp_path)


def test_checkpoint_of_another_model(make_config, build, tmp_path, qwen):
    algorithm = build(make_config())
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    other = build(make_config(model=qwen))
    with pytest.raises(ModelError, match="belong to another model"):
        other.restore_from_path(path)
