"""Questions about images: records, readers of benchmarks' files, prompts, rules for answers, and aggregates."""

__all__: list[str] = []
