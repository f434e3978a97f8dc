# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: taking, listing, restoring, forking, deleting; what they leave in the store."""
import json
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from harness import Sandbox, Server, test, wait_for

UNKNOWN = str(uuid.uuid4())


class Points:
    """A sandbox and its checkpoints."""

    def __init__(self, server, **fields):
        self.server = server
        self.box = server.create(**fields)

    def post(self, name, **fields):
        return self.box.request("POST", "/checkpoints", {"name": name, **fields})

    def list(self):
        return self.box.request("GET", "/checkpoints").expect(200).json()

    def get(self, id):
        return next((c for c in self.list() if c["id"] == id), None)

    def ended(self, id):
        wait_for("the checkpoint to be written", lambda: self.get(id)["status"] != "processing")
        return self.get(id)

    def take(self, name, **fields):
        id = self.post(name, **fields).expect(201).json()["id"]
        c = self.ended(id)
        assert c["status"] == "ready", c
        return id

    def restore(self, id):
        return self.box.request("POST", f"/checkpoints/{id}/restore")

    def write(self, text):
        self.box.run(f"echo {text} > state")
        self.box.control("fake-memory", value=text)

    def read(self):
        return self.box.run("cat state")["stdout"].strip(), self.box.control("info")["fake_memory"]

    def fork(self, id, **fields):
        answer = fork(self.server, id, **fields).expect(201).json()
        return Sandbox(self.server, answer["sandboxID"])

    def tree(self):
        return self.box.request("GET", "/tree").expect(200).json()


def fork(server, id, **fields):
    return server.request("POST", f"/sandboxes/from-checkpoint/{id}", fields)


def files(server, folder):
    return sorted(os.listdir(os.path.join(server.state, folder)))


def gc(server):
    return server.request("POST", "/store/gc").expect(200).json()


@test
def a_checkpoint_is_processing_then_ready():
    with Server() as s:
        p = Points(s, timeout=77)
        s.hold("checkpoint-write")
        c = p.post("before").expect(201).json()
        assert c["status"] == "processing" and c["kind"] == "full" and c["sandboxId"] == p.box.id and c["isPublic"] is False, c
        assert c["name"] == "before" and c["sizeBytes"] == 0 and str(uuid.UUID(c["id"])) == c["id"] and c["createdAt"].endswith("Z"), c
        assert c["sandboxConfig"] == {"memoryMB": 1024, "cpuCount": 1, "diskMB": 20480, "timeout": 77, "template": "base"}, c
        assert p.box.run("echo goes on")["stdout"] == "goes on\n"
        p.restore(c["id"]).expect(400, "not ready")
        s.release("checkpoint-write")
        c = p.ended(c["id"])
        assert c["status"] == "ready" and c["rootfsS3Key"] and c["workspaceS3Key"] and c["orgId"], c
        folder = os.path.join(s.state, "checkpoints", c["id"])
        own = sum(os.path.getsize(os.path.join(folder, f)) for f in ("ram", "state"))
        layers = [os.path.join(s.state, "layers", f) for f in files(s, "layers")]
        assert any(own + os.path.getsize(f) == c["sizeBytes"] for f in layers), (own, c)


@test
def bad_checkpoint_requests_are_refused_by_field():
    with Server() as s:
        p = Points(s)
        p.post("").expect(400, "name")
        p.box.request("POST", "/checkpoints", {}).expect(400, "name")
        p.post("x" * 201).expect(400, "name")
        p.post("x", kind="half").expect(400, "kind")
        p.post("x", retentionPolicy={"mode": "most"}).expect(400, "mode")
        p.post("x", retentionPolicy={"mode": "delete_oldest", "maxCount": 0}).expect(400, "maxCount")
        p.post("x", retentionPolicy={"mode": "delete_oldest", "maxCount": 11}).expect(400, "maxCount")
        assert p.list() == []
        s.request("POST", "/sandboxes/sb-00000000/checkpoints", {"name": "x"}).expect(404, "sandbox not found")
        s.request("GET", "/sandboxes/sb-00000000/checkpoints").expect(404)
        p.restore("cp-1").expect(400, "invalid checkpoint ID")
        p.restore(UNKNOWN).expect(404, "checkpoint not found")
        p.box.request("DELETE", "/checkpoints/cp-1").expect(400)
        p.box.request("DELETE", "/checkpoints/" + UNKNOWN).expect(404)
        fork(s, "cp-1").expect(400, "invalid checkpoint ID")
        fork(s, UNKNOWN).expect(404, "checkpoint not found")


@test
def a_name_belongs_to_one_checkpoint_of_a_sandbox():
    with Server() as s:
        p, other = Points(s), Points(s)
        id = p.take("same")
        p.post("same").expect(409, "same")
        other.take("same")
        p.box.request("DELETE", "/checkpoints/" + id).expect(204)
        p.box.request("DELETE", "/checkpoints/" + id).expect(404)
        p.take("same")


@test
def restores_go_to_any_node_up_and_down():
    with Server() as s:
        p = Points(s)
        p.write("one")
        one = p.take("one")
        p.write("two")
        p.box.run("touch new")
        two = p.take("two")
        assert p.tree()["current"] == two
        # Its deadline moves with every use of it.
        pid, info = p.box.pid(), {**p.box.info(), "endAt": None}
        answer = p.restore(one).expect(200).json()
        assert answer == {"sandboxId": p.box.id, "checkpointId": one, "status": "restoring"}
        assert p.read() == ("one", "one") and p.box.run("ls")["stdout"] == "state\n"
        assert p.box.pid() == pid and {**p.box.info(), "endAt": None} == info, "in place, with nothing changed"
        p.restore(two).expect(200)
        assert p.read() == ("two", "two") and "new" in p.box.run("ls")["stdout"]
        for _ in range(3):
            p.write("lost")
            p.restore(one).expect(200)
            assert p.read() == ("one", "one")
        three = p.take("three")
        nodes = {n["id"]: n["parentId"] for n in p.tree()["nodes"]}
        assert nodes == {one: "", two: one, three: one} and p.tree()["current"] == three
        p.box.request("DELETE", "/checkpoints/" + one).expect(204)
        nodes = {n["id"]: n["parentId"] for n in p.tree()["nodes"]}
        assert nodes == {two: "", three: ""}
        p.restore(two).expect(200)
        assert p.read() == ("two", "two")
        assert p.tree()["current"] == two


@test
def a_checkpoint_has_what_was_answered_before_it():
    with Server() as s, ThreadPoolExecutor(4) as pool:
        p = Points(s)
        stop = threading.Event()
        failures = []

        def work(number):
            while not stop.is_set():
                a = p.box.request("POST", "/exec/run", {"cmd": f"echo {number}"})
                if a.status != 200 or json.loads(a.body)["stdout"] != f"{number}\n":
                    failures.append((a.status, a.body))
        workers = [pool.submit(work, n) for n in range(4)]
        for i in range(5):
            p.box.request("PUT", "/files?path=last", str(i)).expect(204)
            id = p.take(f"c{i}")
            f = p.fork(id)
            assert f.run("cat last")["stdout"] == str(i)
            f.request("DELETE").expect(204)
        stop.set()
        for w in workers:
            w.result(60)
        assert not failures, failures[:3]


@test
def commands_started_later_are_dead_after_a_restore():
    with Server() as s:
        p = Points(s)
        id = p.take("before")
        later = p.box.start("sleep 1000")
        p.restore(id).expect(200)
        result = p.box.result(later)
        assert result["exitCode"] == -1, result
        assert p.box.run("echo fine")["stdout"] == "fine\n"


@test
def forks_go_on_alone():
    with Server() as s:
        p = Points(s, envs={"A": "1", "B": "1"}, metadata={"m": "1", "n": "1"}, timeout=5000)
        p.write("origin")
        id = p.take("here")
        p.write("later")
        one = p.fork(id, envs={"B": "2"}, metadata={"n": "2"}, alias="me")
        two = p.fork(id, timeout=0)
        info = one.info()
        assert info["fromCheckpointId"] == id and info["metadata"] == {"m": "1", "n": "2"} and info["timeout"] == 300 and info["alias"] == "me", info
        assert two.info()["timeout"] == 0
        assert one.run("echo $A$B; cat state")["stdout"] == "12\norigin\n"
        assert one.control("info")["fake_memory"] == "origin"
        one.run("echo one > state")
        assert two.run("cat state")["stdout"] == "origin\n" and p.read() == ("later", "later")
        p.box.request("DELETE").expect(204)
        three = p.fork(id)
        assert three.run("cat state")["stdout"] == "origin\n"
        # A checkpoint of a fork hangs on the one that it came from.
        q = Points.__new__(Points)
        q.server, q.box = s, one
        assert q.tree()["current"] == id
        grandchild = q.fork(q.take("own"))
        assert grandchild.run("cat state")["stdout"] == "one\n"
        assert q.list()[0]["parentId"] == id
        q.restore(id).expect(404, "checkpoint not found")


@test
def a_fork_waits_until_the_checkpoint_is_written():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        p = Points(s)
        s.hold("checkpoint-write")
        id = p.post("x").expect(201).json()["id"]
        s.wait_held("checkpoint-write")
        answer = pool.submit(fork, s, id)
        s.release("checkpoint-write")
        answer.result(60).expect(201, id)


@test
def forks_of_other_sizes_begin_with_the_disk():
    with Server() as s:
        p = Points(s, memoryMB=512)
        p.write("kept")
        id = p.take("x")
        f = p.fork(id, memoryMB=128)
        assert f.info()["memoryMB"] == 512 and f.control("info")["fake_memory"] == "kept"
        f = p.fork(id, memoryMB=600, cpuCount=2)
        assert f.info()["memoryMB"] == 600 and f.info()["cpuCount"] == 2
        assert f.run("cat state")["stdout"] == "kept\n" and f.control("info")["fake_memory"] == ""
        fork(s, id, memoryMB=1 << 20).expect(400, "memoryMB")
        fork(s, id, timeout=-1).expect(400, "timeout")
        fork(s, id, envs={"A=B": "x"}).expect(400, "envs")
        fork(s, id, secretStore="x").expect(501, "secretStore")


@test
def checkpoints_of_the_disk_alone():
    with Server() as s:
        p = Points(s)
        p.write("kept")
        id = p.take("disk", kind="disk_only")
        assert p.get(id)["kind"] == "disk_only" and p.get(id)["sizeBytes"] > 0
        assert id not in files(s, "checkpoints")
        p.write("lost")
        pid = p.box.pid()
        assert p.restore(id).expect(200).json()["coldBoot"] is True
        assert p.read() == ("kept", "") and p.box.pid() != pid
        assert s.request("GET", "/workers").json()[0]["current"] == 1
        f = p.fork(id)
        assert f.run("cat state")["stdout"] == "kept\n" and f.control("info")["fake_memory"] == ""
        p.write("whole")
        id = p.take("promoted", kind="disk_only", promoteToFull=True)
        assert p.get(id)["kind"] == "full"
        assert p.fork(id).control("info")["fake_memory"] == "whole"


@test
def a_fork_of_unusable_memory_boots_from_the_disk():
    with Server() as s:
        p = Points(s)
        p.write("kept")
        id = p.take("x")
        for how in ("refuse EINVAL", "die"):
            s.fault("restore", how)
            answer = fork(s, id).expect(201).json()
            assert answer["coldBoot"] is True and "memory cannot be used" in answer["message"], answer
            f = Sandbox(s, answer["sandboxID"])
            assert f.run("cat state")["stdout"] == "kept\n" and f.control("info")["fake_memory"] == ""
        s.fault("restore", "refuse ENOMEM")
        fork(s, id).expect(503)
        answer = fork(s, id).expect(201).json()
        assert "coldBoot" not in answer and "message" not in answer, answer


@test
def limits_and_retention():
    with Server() as s:
        p = Points(s)
        ids = [p.take(f"c{i}") for i in range(10)]
        p.post("more").expect(400, "maximum")
        p.take("disk", kind="disk_only")
        s.request("POST", f"/sandboxes/checkpoints/{ids[0]}/patches", {"script": "true"}).expect(201)
        p.box.request("POST", f"/checkpoints/{ids[1]}/publish").expect(200, '"isPublic":true')
        f = p.fork(ids[2])
        keep = {"mode": "delete_oldest", "maxCount": 10}
        p.take("more", retentionPolicy=keep)
        left = [c["id"] for c in p.list() if c["kind"] == "full"]
        assert left[:-1] == ids[:3] + ids[4:], (left, ids)
        p.post("c0", retentionPolicy=keep).expect(409)
        assert [c["id"] for c in p.list() if c["kind"] == "full"] == left, "nothing is deleted in vain"
        f.request("DELETE").expect(204)
        p.box.request("POST", f"/checkpoints/{ids[1]}/unpublish").expect(200, '"isPublic":false')
        p.take("last", retentionPolicy={"mode": "delete_oldest", "maxCount": 2})
        assert [c["name"] for c in p.list() if c["kind"] == "full"] == ["c0", "last"]
        p.take("last", retentionPolicy={"mode": "delete_oldest", "maxCount": 2})
        assert [c["name"] for c in p.list() if c["kind"] == "full"] == ["c0", "last"]
        p.box.request("POST", f"/checkpoints/{p.list()[-1]['id']}/publish").expect(200)
        p.post("none", retentionPolicy={"mode": "delete_oldest", "maxCount": 2}).expect(400, "maximum")


@test
def a_hundred_checkpoints_of_the_disk_alone():
    with Server() as s:
        p = Points(s)
        for i in range(100):
            p.take(f"d{i}", kind="disk_only")
        p.post("more", kind="disk_only").expect(400, "maximum")
        p.take("memory is counted by itself")
        p.take("more", kind="disk_only", retentionPolicy={"mode": "delete_oldest", "maxCount": 100})
        assert [c["name"] for c in p.list() if c["kind"] == "disk_only"] == [f"d{i}" for i in range(1, 100)] + ["more"]


@test
def a_checkpoint_that_fails_says_why_and_harms_nothing():
    with Server() as s:
        p = Points(s)
        p.write("one")
        good = p.take("good")
        for point, how, word in (("checkpoint", "refuse ENOSPC", "No space left"), ("checkpoint-write", "refuse ENOSPC", "No space left")):
            s.fault(point, how)
            id = p.post("bad").expect(201).json()["id"]
            c = p.ended(id)
            assert c["status"] == "failed" and word in c["errorMsg"] and c["failedAt"] and "rootfsS3Key" not in c, c
            fork(s, id).expect(400, word)
            p.restore(id).expect(400, word)
            assert p.tree()["current"] == good
            p.box.request("DELETE", "/checkpoints/" + id).expect(204)
        assert p.read() == ("one", "one")
        p.write("two")
        two = p.take("bad")
        p.restore(good).expect(200)
        p.restore(two).expect(200)
        assert p.read() == ("two", "two")


@test
def a_vmm_that_dies_fails_its_checkpoint():
    for point in "checkpoint", "checkpoint-write":
        with Server() as s:
            p = Points(s)
            good = p.take("good")
            s.fault(point, "die")
            id = p.post("bad").expect(201).json()["id"]
            assert p.ended(id)["status"] == "failed"
            p.box.wait_status("error")
            p.post("x").expect(400, "does not run")
            assert p.fork(good).run("echo fine")["stdout"] == "fine\n"


@test
def a_restore_that_is_refused_changes_nothing():
    with Server() as s:
        p = Points(s)
        p.write("one")
        id = p.take("one")
        p.write("two")
        s.fault("rollback", "refuse EINVAL")
        p.restore(id).expect(500, "on demand")
        assert p.read() == ("two", "two") and p.box.info()["status"] == "running"
        p.restore(id).expect(200)
        assert p.read() == ("one", "one")


@test
def a_restore_whose_memory_is_unusable_boots_from_the_disk():
    for point, how in (("rollback-late", "refuse"), ("rollback", "die")):
        with Server() as s:
            p = Points(s)
            p.write("one")
            id = p.take("one")
            p.write("two")
            s.fault(point, how)
            assert p.restore(id).expect(200).json()["coldBoot"] is True
            assert p.read() == ("one", "") and p.box.info()["status"] == "running"
            assert s.request("GET", "/workers").json()[0]["current"] == 1
            p.write("three")
            two = p.take("three")
            p.restore(two).expect(200)
            assert p.read() == ("three", "three")


@test
def hibernated_sandboxes_wake_for_checkpoints_and_restores():
    with Server() as s:
        p = Points(s)
        p.write("one")
        p.box.request("POST", "/hibernate").expect(200)
        id = p.take("asleep")
        assert p.box.info()["status"] == "running"
        p.write("two")
        p.box.request("POST", "/hibernate").expect(200)
        p.restore(id).expect(200)
        assert p.read() == ("one", "one")
        p.box.request("POST", "/hibernate").expect(200)
        p.box.request("POST", "/wake").expect(200)
        assert p.read() == ("one", "one")


@test
def stopped_sandboxes_have_no_new_checkpoints_but_their_old_ones():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        p.box.request("DELETE").expect(204)
        p.post("y").expect(410, "stopped")
        p.restore(id).expect(410)
        assert [c["id"] for c in p.list()] == [id]
        s.kill()
        s.start()
        f = p.fork(id)
        f.request("DELETE").expect(204)
        p.box.request("DELETE", "/checkpoints/" + id).expect(204)
        assert p.list() == []


@test
def what_nothing_names_is_removed():
    with Server("--pool-size", "0") as s:
        p = Points(s)
        before = files(s, "layers")
        images = files(s, "checkpoints")
        one = p.take("one")
        two = p.take("two")
        f = p.fork(one)
        for name in ("layers/" + UNKNOWN + ".layer", "layers/" + UNKNOWN + ".layer.tmp", "layers/keep.txt"):
            open(os.path.join(s.state, name), "w").close()
        os.makedirs(os.path.join(s.state, "checkpoints", UNKNOWN))
        removed = gc(s)
        assert removed["removedFiles"] == 2 and files(s, "checkpoints") == sorted([one, two] + images), removed
        assert "keep.txt" in files(s, "layers") and gc(s)["removedFiles"] == 0
        os.unlink(os.path.join(s.state, "layers/keep.txt"))
        p.box.request("DELETE", "/checkpoints/" + one).expect(204)
        p.box.request("DELETE").expect(204)
        gc(s)
        assert f.run("echo fine")["stdout"] == "fine\n"
        assert p.fork(two).run("echo fine")["stdout"] == "fine\n"
        for box in s.request("GET", "/sandboxes").json():
            s.request("DELETE", "/sandboxes/" + box["sandboxID"]).expect(204)
        p.box.request("DELETE", "/checkpoints/" + two).expect(204)
        gc(s)
        assert files(s, "checkpoints") == images and len(files(s, "layers")) == len(before) - 1, files(s, "layers")


@test
def a_deleted_checkpoint_goes_without_being_asked():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        p.box.request("DELETE", "/checkpoints/" + id).expect(204)
        wait_for("its image to go", lambda: id not in files(s, "checkpoints"))


@test
def nothing_in_the_making_is_collected():
    with Server() as s, ThreadPoolExecutor(4) as pool:
        p = Points(s)
        base = p.take("base")
        for point, act in (("checkpoint", lambda: p.post("a")), ("checkpoint-write", lambda: p.post("b")),
                           ("rollback", lambda: p.restore(base)), ("restore", lambda: fork(s, base))):
            s.hold(point)
            answer = pool.submit(act)
            s.wait_held(point)
            gc(s)
            s.release(point)
            assert answer.result(60).status in (200, 201), answer.result().body
            for c in p.list():
                assert p.ended(c["id"])["status"] == "ready"
        # Deleted while it is being forked.
        s.hold("restore")
        answer = pool.submit(fork, s, base)
        s.wait_held("restore")
        p.box.request("DELETE", "/checkpoints/" + base).expect(204)
        gc(s)
        s.release("restore")
        f = Sandbox(s, answer.result(60).expect(201).json()["sandboxID"])
        f.request("POST", "/power-cycle").expect(204)
        assert f.run("echo fine")["stdout"] == "fine\n"


@test
def the_store_tells_who_takes_what():
    with Server() as s:
        p = Points(s)
        p.box.run("head -c 100000 /dev/urandom > big")
        id = p.take("x")
        f = p.fork(id)
        r = s.request("GET", "/store").expect(200).json()
        c = next(c for c in r["checkpoints"] if c["id"] == id)
        assert c["sharedBytes"] > 100000 and c["uniqueBytes"] > 0, r
        assert {b["sandboxId"] for b in r["sandboxes"]} == {p.box.id, f.id} and len(r["templates"]) == 1
        assert r["totalBytes"] == r["layerBytes"] + r["imageBytes"] + r["hibernationBytes"] > 100000
        p.box.request("DELETE").expect(204)
        f.request("DELETE").expect(204)
        c = next(c for c in s.request("GET", "/store").json()["checkpoints"] if c["id"] == id)
        assert c["uniqueBytes"] > 100000, c


@test
def the_store_is_verified_by_the_tools():
    with Server("--tools", os.path.join(os.path.dirname(__file__), "tools")) as s:
        p = Points(s)
        id = p.take("x")
        r = s.request("POST", "/store/verify").expect(200).json()
        assert r["ok"] is True and r["problems"] == [] and r["checkedImages"] == 2 and r["checkedLayers"] >= 2, r
        with open(os.path.join(s.state, "checkpoints", id, "ram"), "w") as f:
            f.write("damaged")
        r = s.request("POST", "/store/verify").expect(200).json()
        assert r["ok"] is False and len(r["problems"]) == 1 and r["problems"][0]["id"] == id, r
        assert "damaged" in r["problems"][0]["problem"], r
        with sqlite(s) as db:
            layers = json.loads(db.execute("SELECT layers FROM checkpoints WHERE id=?", (id,)).fetchone()[0])
        os.unlink(os.path.join(s.state, "layers", layers[-1] + ".layer"))
        r = s.request("POST", "/store/verify").expect(200).json()
        assert sorted(x["kind"] for x in r["problems"]) == ["image", "layer"], r
    with Server("--tools", "/nowhere") as s:
        Points(s)
        s.request("POST", "/store/verify").expect(501, "/nowhere")


def sqlite(server):
    import sqlite3
    return sqlite3.connect(server.state + "/dormouse.db")


@test
def a_running_sandbox_is_forked_in_one_call():
    with Server() as s:
        p = Points(s)
        p.write("now")
        f = p.box.request("POST", "/fork", {"metadata": {"a": "b"}}).expect(201).json()
        id = f["fromCheckpointId"]
        f = Sandbox(s, f["sandboxID"])
        assert f.run("cat state")["stdout"] == "now\n" and f.control("info")["fake_memory"] == "now"
        assert f.info()["metadata"] == {"a": "b"}
        # More of the same instant; and none of it counts.
        assert p.fork(id).control("info")["fake_memory"] == "now"
        for i in range(10):
            p.take(f"c{i}")
        p.box.request("POST", "/fork").expect(201)
        # They go when nothing refers to them, not at once.
        gc(s)
        assert p.get(id)
        with sqlite(s) as db:
            db.execute("UPDATE checkpoints SET done_ms=1 WHERE automatic=1")
        gc(s)
        assert p.get(id), "live forks refer to it"
        for box in s.request("GET", "/sandboxes").json():
            if box["sandboxID"] != p.box.id:
                s.request("DELETE", "/sandboxes/" + box["sandboxID"]).expect(204)
        assert gc(s)["removedCheckpoints"] + (p.get(id) is None) >= 1
        assert len(p.list()) == 10
        s.request("POST", "/sandboxes/sb-00000000/fork").expect(404)
        s.fault("checkpoint-write", "refuse ENOSPC")
        p.box.request("POST", "/fork").expect(500, "No space left")


# --- kill -9 of the daemon ------------------------------------------------------------------------

def ignore(fn, *arguments):
    try:
        return fn(*arguments)
    except OSError:
        return None


def killed_at(s, point, act, late=False):
    """Kill the daemon while the VMM is at @point; it goes on before (@late: after) the next start."""
    s.hold(point)
    t = threading.Thread(target=ignore, args=(act,))
    t.start()
    s.wait_held(point)
    s.kill()
    t.join()
    if not late:
        s.release(point)
    return lambda: s.release(point) if late else None


def settled(p):
    """The VMM's and the server's idea of the chain agree, and everything works."""
    p.write("after")
    id = p.take(f"after{len(p.list())}")
    p.write("later")
    p.restore(id).expect(200)
    assert p.read() == ("after", "after")
    assert p.fork(id).run("cat state")["stdout"] == "after\n"
    with sqlite(p.server) as db:
        layers = json.loads(db.execute("SELECT layers FROM sandboxes WHERE id=?", (p.box.id,)).fetchone()[0])
        pending = db.execute("SELECT pending FROM sandboxes WHERE id=?", (p.box.id,)).fetchone()[0]
    assert p.box.control("info")["disks"][0]["layers"] == len(layers) and pending == "[]"
    gc(p.server)
    kept = {f.split(".")[0] for f in files(p.server, "layers")}
    assert set(layers) <= kept


@test
def kill_9_during_a_checkpoint_leaves_the_old_state_or_the_new_one():
    for point in "checkpoint", "checkpoint-write":
        with Server() as s:
            p = Points(s)
            p.write("one")
            good = p.take("good")
            p.write("two")
            killed_at(s, point, lambda: p.post("bad"))
            s.start()
            bad = next(c for c in p.list() if c["name"] == "bad")
            assert bad["status"] == "failed" and "restarted" in bad["errorMsg"], bad
            assert p.read() == ("two", "two")
            p.box.request("DELETE", "/checkpoints/" + bad["id"]).expect(204)
            wait_for("its image to go", lambda: bad["id"] not in files(s, "checkpoints"))
            p.restore(good).expect(200)
            assert p.read() == ("one", "one")
            settled(p)


@test
def a_layer_that_the_vmm_did_not_go_to_is_no_part_of_the_disk():
    with Server() as s:
        p = Points(s)
        p.write("old")
        layers = p.box.layers()
        s.hold("checkpoint-late")
        request = threading.Thread(target=ignore, args=(p.post, "x"))
        request.start()
        s.wait_held("checkpoint-late")
        before = set(files(s, "layers"))
        s.kill()
        request.join()
        s.release("checkpoint-late")
        wait_for("the file to be left behind", lambda: set(files(s, "layers")) - before)
        s.start()
        assert p.box.layers() == layers, "its VMM writes to the one that it had"
        wait_for("the other one to go", lambda: gc(s) and set(files(s, "layers")) == before)
        id = p.take("y")
        p.write("new")
        p.restore(id).expect(200)
        assert p.read() == ("old", "old")


@test
def kill_9_during_a_restore_leaves_the_old_state_or_the_new_one():
    for point in "rollback", "rollback-late":
        with Server() as s:
            p = Points(s)
            p.write("one")
            one = p.take("one")
            p.write("two")
            killed_at(s, point, lambda: p.restore(one))
            wait_for("the VMM to be done", lambda: p.box.control("info")["state"] == "running")
            s.start()
            assert p.read() in (("one", "one"), ("two", "two"))
            settled(p)


@test
def kill_9_of_both_during_a_restore_or_checkpoint():
    for point, act in (("rollback-late", lambda p, id: p.restore(id)), ("checkpoint", lambda p, id: p.post("x")),
                       ("checkpoint-write", lambda p, id: p.post("x"))):
        with Server() as s:
            p = Points(s)
            p.write("one")
            one = p.take("one")
            p.write("two")
            pid = p.box.pid()
            done = killed_at(s, point, lambda: act(p, one), late=True)
            os.kill(pid, 9)
            wait_for("the VMM to end", lambda: pid not in [v for v, _ in s.vmms()])
            done()
            s.start()
            assert p.box.info()["status"] == "error"
            p.box.request("POST", "/wake").expect(200)
            assert p.read()[0] in ("one", "two")
            settled(p)


@test
def kill_9_during_a_fork_leaves_nothing_of_it():
    with Server("--pool-size", "0") as s:
        p = Points(s)
        id = p.take("x")
        killed_at(s, "restore", lambda: fork(s, id))
        s.start()
        gc(s)
        assert s.folders() == [p.box.id] and len(s.request("GET", "/sandboxes").json()) == 1
        with sqlite(s) as db:
            named = {l for (c,) in db.execute("SELECT layers FROM sandboxes UNION SELECT layers FROM checkpoints") for l in json.loads(c)}
        assert {f.split(".")[0] for f in files(s, "layers")} <= named
        settled(p)


@test
def kill_9_after_a_deletion_leaves_no_garbage():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        f = p.fork(id)
        s.kill()
        with sqlite(s) as db:
            db.execute("DELETE FROM checkpoints WHERE id=?", (id,))
        s.start()
        wait_for("its image to go", lambda: id not in files(s, "checkpoints"))
        assert f.run("echo fine")["stdout"] == "fine\n" and p.box.run("echo fine")["stdout"] == "fine\n"
        f.request("POST", "/power-cycle").expect(204)
        settled(p)


@test
def a_stop_lets_the_next_server_go_on():
    with Server() as s:
        p = Points(s)
        p.write("kept")
        id = p.take("x")
        s.kill(15)
        s.start()
        p.write("lost")
        p.restore(id).expect(200)
        assert p.read() == ("kept", "kept")
        settled(p)
