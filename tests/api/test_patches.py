# SPDX-License-Identifier: Apache-2.0
"""Patches: scripts that run in the forks of a checkpoint."""
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

from harness import Server, test, wait_for
from test_checkpoints import Points, fork

UNKNOWN = str(uuid.uuid4())


def url(id, patch=""):
    return f"/sandboxes/checkpoints/{id}/patches{patch and '/' + patch}"


def add(s, id, script, **fields):
    return s.request("POST", url(id), {"script": script, **fields}).expect(201).json()["patch"]


def fork_with_log(p, id):
    """Its patches write to $LOG: as root they are at home elsewhere than the sandbox's user."""
    path = f"{p.server.folder}/{uuid.uuid4()}"
    f = p.fork(id, envs={"LOG": path})
    return f, lambda: read(path)


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def listed(s, id):
    return s.request("GET", url(id)).expect(200).json()


@test
def patches_are_added_listed_and_deleted():
    with Server() as s:
        id = Points(s).take("x")
        assert listed(s, id) == []
        one = add(s, id, "echo 1", description="first")
        assert one["checkpointId"] == id and one["sequence"] == 1 and one["script"] == "echo 1" and one["strategy"] == "on_wake", one
        assert one["description"] == "first" and str(uuid.UUID(one["id"])) == one["id"] and one["createdAt"].endswith("Z"), one
        two, three = add(s, id, "echo 2", description=""), add(s, id, "echo 3")
        assert listed(s, id) == [one, two, three] and three["sequence"] == 3 and three["description"] == ""
        s.request("DELETE", url(id, two["id"])).expect(204)
        s.request("DELETE", url(id, two["id"])).expect(404, "patch not found")
        assert add(s, id, "echo 4")["sequence"] == 4
        assert [p["sequence"] for p in listed(s, id)] == [1, 3, 4]


@test
def bad_patch_requests_are_refused():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        for body in {}, {"script": ""}, {"script": 1}, {"script": "x" * (257 << 10)}:
            s.request("POST", url(id), body).expect(400, "script")
        s.request("POST", url("cp-1"), {"script": "true"}).expect(400, "invalid checkpoint ID")
        s.request("GET", url("cp-1")).expect(400)
        s.request("POST", url(UNKNOWN), {"script": "true"}).expect(404, "checkpoint not found")
        s.request("GET", url(UNKNOWN)).expect(404)
        s.request("DELETE", url(id, "pa-1")).expect(400)
        s.request("DELETE", url(id, UNKNOWN)).expect(404)
        s.request("DELETE", url(UNKNOWN, UNKNOWN)).expect(404)
        s.fault("checkpoint-write", "refuse")
        bad = p.post("bad").expect(201).json()["id"]
        assert p.ended(bad)["status"] == "failed"
        s.request("POST", url(bad), {"script": "true"}).expect(400, "not ready")


@test
def forks_get_all_patches_in_order_before_they_are_handed_out():
    with Server() as s:
        p = Points(s, envs={"A": "a"})
        id = p.take("x")
        add(s, id, 'echo "1 $A $(id -u)" >> $LOG')
        add(s, id, 'if [[ -e $LOG ]]; then echo "2 bash" >> $LOG; fi')
        f, log = fork_with_log(p, id)
        assert log() == "1 a 0\n2 bash\n"
        assert "patchError" not in f.info()
        # Neither the sandbox itself, nor one that runs already.
        add(s, id, f"touch {s.folder}/any")
        add(s, id, "echo 3 >> $LOG")
        assert log() == "1 a 0\n2 bash\n"
        p.box.request("POST", "/hibernate").expect(200)
        p.box.request("POST", "/wake").expect(200)
        assert not os.path.exists(s.folder + "/any")


@test
def what_came_later_runs_at_the_next_wake():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        add(s, id, "echo 1 >> $LOG")
        f, log = fork_with_log(p, id)
        add(s, id, "echo 2 >> $LOG")
        for _ in range(2):
            f.request("POST", "/hibernate").expect(200)
            f.run("true")
            assert log() == "1\n2\n"
        s.kill()
        s.start()
        f.request("POST", "/hibernate").expect(200)
        f.request("POST", "/wake").expect(200)
        assert log() == "1\n2\n"


@test
def a_patch_that_fails_stops_the_chain_until_it_is_gone():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        add(s, id, "echo 1 >> $LOG")
        bad = add(s, id, "echo 'no such thing' >&2; exit 3")
        add(s, id, "echo 3 >> $LOG")
        answer = fork(s, id, envs={"LOG": s.folder + "/log"}).expect(201).json()
        assert "patch 2: exit code 3: no such thing" in answer["patchError"], answer
        f, log = fork_with_log(p, id)
        assert log() == "1\n" and "exit code 3" in f.info()["patchError"]
        f.request("POST", "/hibernate").expect(200)
        f.request("POST", "/wake").expect(200)
        assert log() == "1\n" and "exit code 3" in f.info()["patchError"]
        s.kill()
        s.start()
        assert "exit code 3" in f.info()["patchError"]
        s.request("DELETE", url(id, bad["id"])).expect(204)
        f.request("POST", "/hibernate").expect(200)
        f.request("POST", "/wake").expect(200)
        assert log() == "1\n3\n" and "patchError" not in f.info()


@test
def a_failed_patch_that_was_the_last_is_forgotten_when_it_is_deleted():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        bad = add(s, id, "kill -9 $$")
        f = p.fork(id)
        assert "patch 1: ended by signal 9" in f.info()["patchError"]
        s.request("DELETE", url(id, bad["id"])).expect(204)
        f.request("POST", "/hibernate").expect(200)
        f.request("POST", "/wake").expect(200)
        assert "patchError" not in f.info()


@test
def a_deleted_checkpoint_takes_its_patches_along():
    with Server() as s:
        p = Points(s)
        id = p.take("x")
        add(s, id, "exit 1")
        f = p.fork(id)
        assert f.info()["patchError"]
        p.box.request("DELETE", "/checkpoints/" + id).expect(204)
        s.request("GET", url(id)).expect(404)
        f.request("POST", "/hibernate").expect(200)
        f.request("POST", "/wake").expect(200)
        assert "patchError" not in f.info()


@test
def a_fork_is_not_listed_before_its_patches_have_run():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        p = Points(s)
        id = p.take("x")
        add(s, id, f"touch {s.folder}/begun; until [ -e {s.folder}/go ]; do sleep 0.05; done")
        answer = pool.submit(fork, s, id)
        wait_for("the patch", lambda: os.path.exists(s.folder + "/begun"))
        assert len(s.request("GET", "/sandboxes").json()) == 1
        open(s.folder + "/go", "w").close()
        answer.result(60).expect(201)
        assert len(s.request("GET", "/sandboxes").json()) == 2
