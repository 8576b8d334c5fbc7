"""A short one of the runs in which nothing may grow; `python -m tests.long_run` makes long ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts as Linux does")
def test_nothing_grows():
    # Of so few calls memory says little; files, threads and objects say all.
    command = [sys.executable, "-m", "tests.long_run", "--calls", "160", "--within", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("files +0, threads +0, objects +0")
