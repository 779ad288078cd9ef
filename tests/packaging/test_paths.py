"""Modules and forms of the data on two paths: from a step to its reward, and from a transcript to the loss."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

import agile_gym
from agile_gym.envs.jigsaw import JigsawVisionEnv

PACKAGE = Path(agile_gym.__file__).parent
OF_THE_OBSERVATION = {"agile_gym.envs.spaces", "agile_gym.actions.prompt"}
"""Modules of a step that only make the next observation."""
OF_THE_FIGURES = {"agile_gym.learner.correction"}
"""Modules of an update that only measure, where no correction of the mismatch is set."""
OF_NO_LAYER = {"agile_gym.errors", "agile_gym.files", "agile_gym.interruption"}
"""Modules that all others may use."""
SWAP = "<think>t</think><code>state[0], state[1] = state[1], state[0]\nobservation_image_1 = observe(state)</code>"
CALL = '<think>t</think><tool_call>{"name": "swap", "arguments": {"first": "A", "second": "B"}}</tool_call>'
ANSWER = '<think>t</think><answer>["A", "B", "C", "D"]</answer>'


def watch(function, *arguments):
    """Return the modules of the package whose functions are run by a call, and the data classes that are made."""
    frames = set()

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            path = Path(frame.f_code.co_filename).relative_to(PACKAGE.parent).with_suffix("")
            frames.add(".".join(path.parts))
        elif event == "call" and frame.f_code.co_name == "__init__" and frame.f_code.co_filename == "<string>":
            made.add(type(frame.f_locals["self"]))

    made = set()
    sys.setprofile(profile)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return frames, {kind.__name__ for kind in made if kind.__module__.startswith("agile_gym")}


@pytest.mark.parametrize(("dialect", "text"), [("code", SWAP), ("code", ANSWER), ("tools", CALL), ("tools", ANSWER)])
def test_a_step_runs_through_ten_modules_to_its_reward(dialect, text):
    env = JigsawVisionEnv(dialect=dialect)
    env.reset(seed=0, options={"level": 2})
    modules, _ = watch(env.step, text)
    assert {"agile_gym.envs.turn_env", "agile_gym.envs.turns", "agile_gym.envs.jigsaw.episode"} < modules
    assert "agile_gym.actions.dialects" in modules
    assert ("agile_gym.envs.reward" in modules) == (text == ANSWER)
    assert len(modules - OF_THE_OBSERVATION - OF_NO_LAYER) <= 10, sorted(modules)


@pytest.mark.parametrize("loss", ["grpo", "sft"])
def test_a_transcript_becomes_a_loss_in_nine_modules_and_five_forms(loss):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from agile_gym.learner.data import group_advantages, make_samples
    from agile_gym.learner.updating import ProcessGroup
    from tests.helpers.gloo_ranks import make_updater
    from tests.helpers.tiny_learning import episodes, small_vlm

    updater = make_updater(small_vlm(), ProcessGroup(torch.device("cpu"), distributed=False), loss=loss)
    group = episodes(4)

    def learn():
        advantages = group_advantages([float(number) for number in range(4)], [0] * 4).advantages
        given = [None] * 4 if loss == "sft" else advantages
        updater.step([sample for pair in zip(group, given, strict=True) for sample in make_samples(*pair)])

    modules, made = watch(learn)
    assert {"agile_gym.learner.data", "agile_gym.learner.losses", "agile_gym.models.scoring"} < modules
    assert len(modules - OF_THE_FIGURES - OF_NO_LAYER) <= 9, sorted(modules)
    figures = {"LossResult", "LossStats", "Totals", "GroupAdvantages", "Chunk"}  # computed from the tokens
    forms = {"Transcript"} | made - figures - {"Segment"}  # a transcript consists of segments
    assert {"Sample", "PreparedSegment", "TokenScores"} < forms
    assert len(forms) <= 5, sorted(forms)


def test_what_is_made_can_be_seen():
    record = importlib.import_module("agile_gym.transcripts.record")
    assert dataclasses.is_dataclass(record.TurnUsage)
    assert watch(record.TurnUsage, 1.0)[1] == {"TurnUsage"}
