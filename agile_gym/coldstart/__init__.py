"""Cold start: expert episodes that teach a model to play, before reinforcement learning.

expert     `ExpertPolicy`: plays from the solution as a good learner would
making     `make_cold_start`: lets a teacher play, keeps good episodes, writes them as transcripts
config     its settings, and the attempts that follow from them

Below them: knowledge (true facts of a puzzle), steps (the schedule), looks (where to look and what it showed),
sentences (in which words), script (a whole episode); filters (which episodes are kept).
"""

from agile_gym.coldstart.config import ColdStartConfig
from agile_gym.coldstart.expert import ExpertPolicy
from agile_gym.coldstart.making import ColdStartReport, make_cold_start

__all__ = ["ColdStartConfig", "ColdStartReport", "ExpertPolicy", "make_cold_start"]
