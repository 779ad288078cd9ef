"""Training from photographs to a model: what ``agile-gym train`` runs, logs and reports.

settings    presets and files of settings
stages      the configuration of each stage
pipeline    the run: eyes, cold start, GRPO, evaluation, report
runlog      the figures of a run, in files
alarms      what is wrong with a run, in words
console     the live display
report      the page at the end
"""

__all__: list[str] = []
