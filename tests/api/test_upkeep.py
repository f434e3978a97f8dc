# SPDX-License-Identifier: Apache-2.0
"""What the server does to the store by itself: chains get shorter, unused images smaller."""
import os

import harness
from harness import Server, test, wait_for
from test_checkpoints import Points, files, gc

TOOLS = os.path.join(harness.HERE, "tools")


def report(server):
    return server.request("GET", "/store").expect(200).json()


def upkeep(server, what, done):
    """Until a pass has brought something about."""
    def asked():
        gc(server)
        return done(report(server))
    return wait_for(what, asked)


def chain(server, id):
    return next(c["layers"] for c in report(server)["checkpoints"] if c["id"] == id)


def image(server, id):
    return files(server, "checkpoints/" + id)


def is_cold(id):
    return lambda r: next(c["cold"] for c in r["checkpoints"] if c["id"] == id)


def is_hot(id):
    return lambda r: not is_cold(id)(r) and r["upkeep"]["unpackedImages"]


def grown(server, n, kind="full"):
    """A sandbox with n checkpoints, named by what they say."""
    p = Points(server)
    ids = {}
    for i in range(n):
        p.write(f"v{i}")
        ids[f"v{i}"] = p.take(f"v{i}", kind=kind)
    return p, ids


@test
def long_chains_are_flattened_and_say_what_they_said():
    with Server("--tools", TOOLS, "--flatten-above", "4") as s:
        p, ids = grown(s, 8)
        last = list(ids)[-1]
        assert chain(s, ids[last]) == 9
        upkeep(s, "its chain to be short", lambda r: chain(s, ids[last]) <= 4)
        for text, id in ids.items():
            box = p.fork(id)
            assert box.run("cat state")["stdout"].strip() == text
            box.request("DELETE").expect(204)
        # What runs keeps what its VMM was told, until it ends.
        assert len(p.box.layers()) == 10 and all(os.path.exists(f) for f in p.box.layers())
        for text in ("v0", "v7", "v3"):
            p.restore(ids[text]).expect(200)
            assert p.read() == (text, text)
        assert s.request("POST", "/store/verify").expect(200).json()["problems"] == []
        for text, id in ids.items():
            if text != last:
                p.box.request("DELETE", "/checkpoints/" + id).expect(204)
        # The template, the last checkpoint, the sandbox; nothing of what was between them.
        upkeep(s, "what nothing names to go", lambda r: len(files(s, "layers")) <= 2 + 4 + len(p.box.layers()))
        box = p.fork(ids[last])
        assert box.run("cat state")["stdout"].strip() == last


@test
def a_sandbox_that_sleeps_forgets_what_was_merged():
    with Server("--tools", TOOLS, "--flatten-above", "4") as s:
        p, ids = grown(s, 8)
        p.write("now")
        upkeep(s, "its chain to be merged", lambda r: r["upkeep"]["flattenedRuns"] > 0 and chain(s, ids["v7"]) <= 4)
        assert len(p.box.layers()) == 10
        p.box.request("POST", "/hibernate").expect(200)
        upkeep(s, "its row to forget", lambda r: len(p.box.layers()) <= 5)
        p.box.request("POST", "/wake", {}).expect(200)
        assert p.read() == ("now", "now")


@test
def short_chains_and_those_of_others_are_let_alone():
    with Server("--tools", TOOLS, "--flatten-above", "0") as s:
        p, ids = grown(s, 6, kind="disk_only")
        gc(s)
        other = Points(s)
        other.take("x")
        assert chain(s, ids["v5"]) == 7 and report(s)["upkeep"]["flattenedRuns"] == 0


@test
def a_flattening_that_fails_harms_nothing():
    with Server("--tools", TOOLS, "--flatten-above", "4") as s:
        with open(s.state + "/fault", "w") as f:
            f.write("No space left on device")
        p, ids = grown(s, 8)
        upkeep(s, "it to fail", lambda r: r["upkeep"]["failures"] > 0)
        assert "No space left on device" in s.log() and chain(s, ids["v7"]) == 9
        p.restore(ids["v2"]).expect(200)
        assert p.read() == ("v2", "v2")
        os.unlink(s.state + "/fault")
        upkeep(s, "it to succeed", lambda r: chain(s, ids["v7"]) <= 4)


@test
def unused_images_are_packed_and_unpacked_when_they_are_used():
    with Server("--tools", TOOLS, "--cold-after", "1") as s:
        p, ids = grown(s, 2)
        upkeep(s, "them to be packed", lambda r: is_cold(ids["v0"])(r) and is_cold(ids["v1"])(r))
        wait_for("the raw form to go", lambda: gc(s) and image(s, ids["v0"]) == ["ram.cold", "state"])
        assert s.request("POST", "/store/verify").expect(200).json()["problems"] == []
        p.restore(ids["v0"]).expect(200)
        assert p.read() == ("v0", "v0"), "from the packed form, without waiting"
        wait_for("it to be unpacked", lambda: "its memory is unpacked again" in s.log())
        box = p.fork(ids["v1"])
        assert box.run("cat state")["stdout"].strip() == "v1" and box.control("info")["fake_memory"] == "v1"
        templates = [t for t in report(s)["templates"]]
        assert templates and not any(t["cold"] for t in templates), "templates stay hot"


@test
def the_restart_of_the_server_tidies_what_was_cut_off():
    with Server("--tools", TOOLS, "--cold-after", "1") as s:
        p, ids = grown(s, 1)
        id = ids["v0"]
        upkeep(s, "it to be packed", is_cold(id))
        folder = f"{s.state}/checkpoints/{id}"
        s.kill()
        for name in ("ram", "ram.part", "ram.cold.part"):
            with open(f"{folder}/{name}", "w") as f:
                f.write("half")
        with open(p.box.layers()[0] + ".part", "w") as f:
            f.write("half")
        s.start()
        wait_for("the rest to go", lambda: gc(s) and image(s, id) == ["ram.cold", "state"]
                 and not any(f.endswith(".part") for f in files(s, "layers")))
        p.restore(id).expect(200)
        assert p.read() == ("v0", "v0")
