"""``python -m agile_gym`` is the command line."""

import sys

from agile_gym.cli import main

sys.exit(main())
