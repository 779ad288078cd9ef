"""Draws the picture of an evaluation: the edge solver on pieces whose borders were cut away."""

import io
from pathlib import Path

from PIL import Image

from agile_gym.evaluation import EvaluationPlan, choose_entries, evaluate, summarize
from agile_gym.policies import make_policy
from agile_gym.reporting.curves import plot_summary

HERE = Path(__file__).parent
ERODE = 0.1


def evaluation_picture(episodes: int = 100) -> Image.Image:
    """Return Acc and Score by level, beside the paper's rows."""
    plan = EvaluationPlan("edge", choose_entries([2, 3], episodes=episodes), options={"erode": ERODE})
    summary = summarize(evaluate(make_policy("edge"), plan))
    buffer = io.BytesIO()
    plot_summary(summary, f"edge, a tenth cut off each side (erode={ERODE})").savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB").quantize(64)


if __name__ == "__main__":
    evaluation_picture().save(HERE / "evaluation.png", optimize=True)
