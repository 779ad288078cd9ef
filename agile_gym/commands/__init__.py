"""The commands of the command line, a module each; `agile_gym.cli` puts them together."""

__all__: list[str] = []
