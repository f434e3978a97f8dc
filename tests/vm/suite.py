# SPDX-License-Identifier: Apache-2.0
"""What the files of tests with Linux guests share: the table of cases, and ways to expect something."""

import json
import os
import time

from vmm import HANG_S, TOP, VmmError

CASES = {}


def case(title):
    """Register a test; the title is what TAP shows."""

    def register(function):
        CASES[function.__name__] = (title, function)
        return function

    return register


def promise(name):
    with open(os.path.join(TOP, "tests/bench/promises.json")) as f:
        return json.load(f)[name]["limit"]


def refused(code, word, call, *arguments, **fields):
    """The call must be refused with this errno name and a message that contains word."""
    try:
        call(*arguments, **fields)
    except VmmError as e:
        assert e.code == code, f"{e}, expected {code}"
        assert word in e.message, f"{e}, expected the word {word}"
        return
    raise AssertionError(f"not refused: {arguments} {fields}")


def wait_until(what, condition):
    """Poll for something that has no event. Only a hang ends it."""
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)
