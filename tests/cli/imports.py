"""What a command imports."""

from __future__ import annotations

import json
import subprocess
import sys

#: Each takes a twentieth of a second to import, or far more.
HEAVY = {"torch", "transformers", "peft", "pandas", "pyarrow", "numpy", "scipy", "datasketch", "sqlite_utils", "jinja2"}
HEAVY |= {"phonenumbers", "httpx", "starlette", "uvicorn", "matplotlib", "sklearn", "apscheduler", "prometheus_client"}
PROGRAM = """
import json, sys
from selflearn.cli.main import main
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def imported(*arguments: object) -> set[str]:
    """The modules that a command has imported by its end; it must succeed."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr[:2000]
    return set(modules)
