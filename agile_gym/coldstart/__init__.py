"""Cold start: expert episodes that teach a model to play, before reinforcement learning.

expert       `ExpertPolicy`: knows the solution, and plays as a good learner would
making       `make_cold_start`: lets a teacher play, keeps good episodes, and writes them as transcripts
config       its settings, and the attempts that follow from them
report       what came of it

Below them: knowledge (what is true of a puzzle), steps (what is done in which turn), moves, seams and looks (where to
move and look), voice (in which words), script (a whole episode); filters and quotas (which episodes are kept).
"""

from agile_gym.coldstart.config import ColdStartConfig
from agile_gym.coldstart.expert import ExpertPolicy
from agile_gym.coldstart.making import make_cold_start
from agile_gym.coldstart.report import ColdStartReport

__all__ = ["ColdStartConfig", "ColdStartReport", "ExpertPolicy", "make_cold_start"]
