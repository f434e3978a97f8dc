# SPDX-License-Identifier: Apache-2.0
"""The requests of the Python client, with the libraries that it uses (api.md 19.2)."""
import os
import subprocess

from harness import HERE, KEY, Server, test

PYTHON = "/usr/bin/python3"  # Debian's, which Debian's python3-httpx and python3-websockets belong to


@test
def the_python_client_makes_its_requests():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        done = subprocess.run([PYTHON, os.path.join(HERE, "python_client.py"), f"http://127.0.0.1:{s.port}", KEY],
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and '"done"' in done.stdout, done.stdout + done.stderr
        s.assert_nothing_left()
