# Checks before anything is planned, the names that wildcards may have, and what happens around a whole run of Snakemake.

import sys
from pathlib import Path

SOURCE = Path(workflow.basedir) / "src"


def refuse(problem):
    print(f"ofq: error: {problem}", file=sys.stderr)
    sys.exit(2)


if not (SOURCE / "ofq/__init__.py").is_file():
    refuse(f"no package in {SOURCE / 'ofq'}; this checkout is not whole: get it anew with git")
sys.path.insert(0, str(SOURCE))  # the package of this checkout, whichever one is installed
try:
    from ofq.report.artefacts import ARTEFACTS, CLAIMS
    from ofq.report.landing import landing
    from ofq.workflow.internals import outputs
    from ofq.workflow.startup import Startup
except ModuleNotFoundError as error:
    if error.name.split(".")[0] == "ofq":
        refuse(f"no module {error.name} in {SOURCE}; this checkout is not whole: get it anew with git")
    refuse(f"{error.name} is not installed here; run: make env, then .venv/bin/snakemake")
except KeyboardInterrupt:
    print("ofq: stopped by SIGINT before anything was started", file=sys.stderr)
    sys.exit(130)

STARTUP = Startup(workflow, config)
PLAN = STARTUP.plan
config["landing"] = lambda: landing(PLAN.params)  # for report/workflow.rst, and read nowhere else


wildcard_constraints:
    **PLAN.constraints,


onstart:
    STARTUP.on_start()


onsuccess:
    STARTUP.on_success()


onerror:
    STARTUP.on_error()
