"""What training costs, measured: ``python -m benchmarks.<name>`` from the root; results in docs/performance.md."""

import sys
from pathlib import Path

# The package of this checkout, whichever one is installed.
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
