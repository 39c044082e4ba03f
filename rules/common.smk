# Checks before anything is planned, the names that wildcards may have, and what happens around a whole run of Snakemake.

import sys
from pathlib import Path

try:
    from ofq.report.artefacts import ARTEFACTS, CLAIMS
    from ofq.workflow.internals import outputs
    from ofq.workflow.startup import Startup
except ImportError as error:
    if (error.name or "").split(".")[0] != "ofq":
        raise
    print("ofq: error: the package is not installed here; run: make env, then .venv/bin/snakemake", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    print("ofq: stopped by SIGINT before anything was started", file=sys.stderr)
    sys.exit(130)

STARTUP = Startup(workflow, config)
PLAN = STARTUP.plan


wildcard_constraints:
    **PLAN.constraints,


onstart:
    STARTUP.on_start()


onsuccess:
    STARTUP.on_success()


onerror:
    STARTUP.on_error()
