"""Training from photographs to a model: what ``agile-gym train`` runs.

settings   the typed model of a run's settings
texts      settings in TOML and in errors, presets, and the reference of all settings
stages     the configuration of each stage
dry_run    the plan of a run: sizes, memory, time
pipeline   the run: vision training, cold start, GRPO, evaluation, report
"""

__all__: list[str] = []
