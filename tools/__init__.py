"""Programs for the people who build this project."""

import sys
from pathlib import Path

# The package of this checkout, whichever one is installed.
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
