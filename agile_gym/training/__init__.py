"""Training from photographs to a model: what ``agile-gym train`` runs.

settings   presets and files of settings
stages     the configuration of each stage
dry_run    the plan of a run: sizes, memory, time
pipeline   the run: vision training, cold start, GRPO, evaluation, report
"""

__all__: list[str] = []
