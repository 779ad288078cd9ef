"""Cold start: expert episodes that teach a model to play, before reinforcement learning.

expert     `ExpertPolicy`: plays from the solution as a good learner would
making     `make_cold_start`: has a teacher play, keeps good episodes, writes them as transcripts
config     its settings, and the attempts that follow from them

Below them: knowledge (true facts of a puzzle), steps (the schedule), looks (closer looks and their claims),
sentences (their wording), script (a whole episode); filters (selection of episodes).
"""

from agile_gym.coldstart.config import ColdStartConfig
from agile_gym.coldstart.expert import ExpertPolicy
from agile_gym.coldstart.making import ColdStartReport, make_cold_start

__all__ = ["ColdStartConfig", "ColdStartReport", "ExpertPolicy", "make_cold_start"]
