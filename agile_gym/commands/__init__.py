"""The commands of ``agile-gym``, one module each."""

__all__: list[str] = []
