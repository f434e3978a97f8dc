# SPDX-License-Identifier: Apache-2.0
"""Creates of an image whose manifest was built before, beside plain creates of its base.

Both: from the first byte of POST /sandboxes on a warm connection to the last byte of the answer, so the image's has
its manifest parsed, hashed and found. They take turns, each going first in every second turn, and a sandbox is
deleted before the next one is asked for. That no step runs is looked at, too: a step would leave another layer.
"""

import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from exec import BUILD, TOP, Api  # tests/bench/exec.py

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


def report(times):
    with open(f"{TOP}/tests/bench/promises.json", encoding="utf-8") as f:
        limit = json.load(f)["create_from_image_ratio"]["limit"]
    medians = {}
    for name, ns in times.items():
        ms = sorted(x / 1e6 for x in ns)
        medians[name] = statistics.median(ms)
        print(f"create, {name:6} p50 {medians[name]:9.1f} ms   p99 {ms[len(ms) * 99 // 100]:9.1f} ms   {len(ms)} samples")
    ratio = medians["image"] / medians["plain"]
    print(f"{'ok  ' if ratio <= limit else 'FAIL'} create_from_image_ratio: {ratio:.3f} (promise: at most {limit})")
    return 0 if ratio <= limit else 1


def main(out, samples):
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as directory:
        argv = [f"{BUILD}/dormoused", "--listen", f"unix:{directory}/sock", "--state", f"{directory}/state"]
        argv += ["--stop-sandboxes-on-exit", "--log-level", "warn"]
        with subprocess.Popen(argv) as server:
            try:
                while not os.path.exists(f"{directory}/sock"):
                    if server.poll() is not None:
                        raise SystemExit("dormoused does not start")
                    time.sleep(0.05)
                times = measure(directory, samples)
            finally:
                server.terminate()
    with open(f"{out}/images.json", "w", encoding="utf-8") as f:
        json.dump({"unit": "ns", **times}, f, indent=1)
    return report(times)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
