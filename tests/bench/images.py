# SPDX-License-Identifier: Apache-2.0
"""Creates of an image whose manifest was built before, beside plain creates of its base.

Both: from the first byte of POST /sandboxes on a warm connection to the last byte of the answer, so the image's has
its manifest parsed, hashed and found. They take turns, each going first in every second turn, and a sandbox is
deleted before the next one is asked for. That no step runs is looked at, too: a step would leave another layer.
"""

import glob
import sys
import time

from exec import Api, report, run  # tests/bench/exec.py

SHAPE = {"memoryMB": 256, "timeout": 0}
IMAGE = {"base": "mini", "builderMemoryMB": 256, "steps": [
    {"type": "run", "args": {"commands": [f"echo {i} >>/home/sandbox/steps"]}} for i in range(3)]}
KINDS = {"plain": {**SHAPE, "templateID": "mini"}, "image": {**SHAPE, "image": IMAGE}}


def create(api, body, expected):
    begun = time.perf_counter_ns()
    sandbox = api.call("POST", "/sandboxes", body)["sandboxID"]
    took = time.perf_counter_ns() - begun
    if expected is not None:
        base = f"/sandboxes/{sandbox}"
        answer = api.call("POST", f"{base}/exec/run", {"cmd": "cat /home/sandbox/steps || true", "timeout": 60})
        if answer["stdout"] != expected:
            raise SystemExit(f"not the disk that was expected: {answer}")
    api.call("DELETE", f"/sandboxes/{sandbox}")
    return took


def layers(directory):
    return len(glob.glob(f"{directory}/state/layers/*.layer"))


def measure(directory, samples):
    api = Api(f"{directory}/sock")
    create(api, KINDS["plain"], "")
    create(api, KINDS["image"], "0\n1\n2\n")
    built = api.call("POST", "/images", {"image": IMAGE})
    before = layers(directory)
    times = {"plain": [], "image": []}
    for turn in range(samples):
        for kind in sorted(KINDS, reverse=turn % 2 == 0):
            times[kind].append(create(api, KINDS[kind], None))
    create(api, KINDS["image"], "0\n1\n2\n")
    again = api.call("POST", "/images", {"image": IMAGE})
    if again != {**built, "cached": True} or layers(directory) > before:
        raise SystemExit(f"steps were run again: {built} {again}, {before} and {layers(directory)} layers")
    return times


def main(out, samples):
    times = run(measure, f"{out}/images.json", samples)
    return report(times, "ms", 1e6, ("image", "plain"), "create_from_image_ratio")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
