"""Questions about images: benchmarks' files, prompts, rules and aggregates; tables of questions, and generated ones."""

__all__: list[str] = []
