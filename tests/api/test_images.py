# SPDX-License-Identifier: Apache-2.0
"""Images, snapshots, templates: builds in the stand-in for a guest, whose commands run on this machine.

So steps only write below the server's folder. What apt_install, pip_install and env do is shown in tests/sdk.
"""
import glob
import hashlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from harness import Sandbox, Server, test, wait_for

EVENTS = {"Accept": "text/event-stream"}


def run(*commands):
    return {"type": "run", "args": {"commands": list(commands)}}


def image(*steps, **more):
    return {"base": "base", "steps": list(steps), **more}


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def content_hash(manifest):
    return hashlib.sha256(compact({"base": manifest["base"], "steps": manifest["steps"]}).encode()).hexdigest()


def parse_events(answer):
    """As strictly as the TypeScript client: [(event, data)]."""
    assert answer.headers["Content-Type"] == "text/event-stream", answer.headers
    records = answer.body.decode().split("\n\n")
    assert records.pop() == ""
    events = []
    for record in records:
        if not record.startswith(":"):
            event, data = record.split("\n")
            assert event.startswith("event: ") and data.startswith("data: "), record
            events.append((event[7:], json.loads(data[6:])))
    assert [e for e, _ in events if e != "build_log"] == [events[-1][0]], events
    return events


def stream(s, path, body):
    return parse_events(s.request("POST", path, compact(body), EVENTS).expect(200))


def create(s, manifest, **fields):
    return Sandbox(s, s.request("POST", "/sandboxes", {"image": manifest, **fields}).expect(201).json()["sandboxID"])


class Counted:
    """Steps that note on this machine that they ran."""

    def __init__(self, server):
        self.path = os.path.join(server.folder, "count")

    def step(self, word, *more):
        return run(f"echo {word} >>{self.path}", f"echo {word} >>words", *more)

    def ran(self):
        try:
            with open(self.path) as f:
                return f.read().split()
        except FileNotFoundError:
            return []


def layers(s):
    return set(glob.glob(s.state + "/layers/*.layer"))


@test
def steps_run_once_and_only_those_that_changed():
    with Server() as s:
        c = Counted(s)
        one = create(s, image(c.step("a"), c.step("b")))
        assert one.run("cat words")["stdout"] == "a\nb\n" and c.ran() == ["a", "b"]
        again = create(s, image(c.step("a"), c.step("b")), builderMemoryMB=1)
        assert again.run("cat words")["stdout"] == "a\nb\n" and c.ran() == ["a", "b"]
        changed = create(s, image(c.step("a"), c.step("c")))
        assert changed.run("cat words")["stdout"] == "a\nc\n" and c.ran() == ["a", "b", "c"]
        # The same step at another place is another one.
        other = create(s, image(c.step("b")))
        assert other.run("cat words")["stdout"] == "b\n" and c.ran() == ["a", "b", "c", "b"]
        # The beginning of another image is one, too.
        assert create(s, image(c.step("a"))).run("cat words")["stdout"] == "a\n" and len(c.ran()) == 4
        # The order of members does not matter, nor where the arguments are.
        assert create(s, {"steps": [{"commands": c.step("a")["args"]["commands"], "type": "run"}]}).id and len(c.ran()) == 4
        assert one.info()["fromCheckpointId"] == again.info()["fromCheckpointId"] != changed.info()["fromCheckpointId"]
        assert one.info()["template"] == "base" and one.info()["memoryMB"] == 1024
        # All that was changed in one is its own.
        one.run("echo mine >>words")
        assert again.run("cat words")["stdout"] == "a\nb\n"
        for sandbox in one, again, changed, other:
            sandbox.request("DELETE").expect(204)


@test
def logs_are_events_and_the_last_one_is_the_result():
    with Server() as s:
        manifest = image(run("echo out", "echo err >&2", "printf 'a \"q\"\\rb\\n\\xff'"), builderMemoryMB=2048)
        events = stream(s, "/sandboxes", {"templateID": "base", "timeout": 0, "image": manifest, "envs": {"A": "1"}})
        logs = [(d["step"], d["type"], d["message"]) for e, d in events if e == "build_log"]
        assert logs[0] == (0, "build", f"Building image {content_hash(manifest)[:12]} on base, 1 steps"), logs
        assert logs[1][:2] == (1, "run") and logs[1][2].startswith("Step 1/1: run echo out && echo err"), logs
        assert {(1, "run", "out"), (1, "run", "err"), (1, "run", 'a "q"\rb'), (1, "run", "\ufffd")} < set(logs), logs
        assert [line[1:] for line in logs[-3:]] == [
            ("run", "Step 1/1 completed"), ("checkpoint", logs[-2][2]), ("create", "Creating the sandbox")], logs
        assert events[-1][0] == "result" and events[-1][1]["status"] == "running"
        assert Sandbox(s, events[-1][1]["sandboxID"]).run("echo $A")["stdout"] == "1\n"
        events = stream(s, "/sandboxes", {"image": manifest})
        assert [d["type"] for e, d in events if e == "build_log"] == ["cache_hit", "create"], events
        built, = s.request("GET", "/images").expect(200).json()
        assert built["contentHash"] == content_hash(manifest) and built["steps"] == 1 and built["status"] == "ready", built
        assert built["checkpointId"] == events[-1][1]["fromCheckpointId"]
        # Without an image there is nothing to tell.
        assert s.request("POST", "/sandboxes", {}, EVENTS).expect(201).json()["status"] == "running"


@test
def a_step_that_fails_is_named_and_leaves_nothing():
    with Server() as s:
        c = Counted(s)
        bad = image(c.step("a"), c.step("b", "echo the reason >&2", "exit 7"), c.step("c"))
        s.request("POST", "/sandboxes", {"image": bad}).expect(400, "step 2/3 (run): exit code 7", "the reason")
        assert c.ran() == ["a", "b"]
        s.assert_nothing_left()
        for path, body in ("/sandboxes", {}), ("/snapshots", {"name": "n"}):
            kind, data = stream(s, path, {"image": bad, **body})[-1]
            assert kind == "error" and "step 2/3 (run): exit code 7" in data["error"], data
        assert c.ran() == ["a", "b", "b", "b"], "the steps before it were good"
        for _ in range(10):
            s.request("POST", "/snapshots", {"name": "n", "image": bad}).expect(500, "step 2/3")
            assert s.request("GET", "/snapshots/n").expect(200).json()["status"] == "failed"
        s.request("POST", "/sandboxes", {"snapshot": "n"}).expect(400, "has failed", "step 2/3")
        assert s.request("GET", "/images").json() == []
        s.request("POST", "/sandboxes", {"image": image(run("kill -9 $$"))}).expect(400, "signal 9")
        s.assert_nothing_left()
        # A machine without room is no mistake of the client's.
        for point in "checkpoint", "checkpoint-write":
            s.fault(point, "refuse ENOSPC")
            full = s.request("POST", "/sandboxes", {"image": image(c.step("x"))}).expect(503, "step 1/1 (run): keeping its result").json()
            assert full["retryable"] is True and "No space left" in full["error"], full
        s.assert_nothing_left()
        s.request("POST", "/store/gc")
        assert create(s, image(c.step("x"))).run("cat words")["stdout"] == "x\n"


@test
def steps_and_builds_have_a_time():
    with Server("--build-step-timeout", "1") as s:
        s.request("POST", "/sandboxes", {"image": image(run("sleep 60"))}).expect(400, "step 1/1", "longer than 1 s")
        s.assert_nothing_left()
        # Writing files is a step, too: these take longer than that.
        files = [{"relativePath": f"{i % 100}/{i}", "content": "QQ=="} for i in range(10000)]
        many = image({"type": "add_dir", "args": {"path": f"{s.folder}/many", "files": files}})
        s.request("POST", "/sandboxes", {"image": many}).expect(400, "step 1/1 (add_dir): it took longer than 1 s")
        s.assert_nothing_left()
    with Server("--build-timeout", "1") as s:
        s.request("POST", "/sandboxes", {"image": image(run("sleep 60"))}).expect(400, "the build took longer than 1 s")
        s.assert_nothing_left()


@test
def manifests_are_checked_before_anything_is_built():
    with Server() as s:
        def refused(steps, *words):
            s.request("POST", "/sandboxes", {"image": {"steps": steps}}, EVENTS).expect(400, *words)

        refused([run("true"), {"type": "x"}], "step 2", "unknown step type: x")
        refused([{"type": "add_dir", "args": {"path": "/d", "files": [{"relativePath": "../a", "content": ""}]}}], "step 1", "../a")
        refused([{"type": "add_file", "args": {"path": "/a", "content": "!", "encoding": "base64"}}], "not base64")
        refused("no", "steps")
        refused([run("true"), {"type": "add_dir", "args": {"path": "/d", "files": [{"relativePath": "/a", "content": ""}]}}], "step 2", "/a")
        for body in {"image": 5}, {"image": {"base": "none"}}, {"image": {}, "snapshot": "x"}, {"snapshot": 5}, \
                {"image": {"builderMemoryMB": 1 << 20}}, {"image": {}, "memoryMB": 1}:
            s.request("POST", "/sandboxes", body).expect(400)
        for body in {"name": "n"}, {"image": {}}, {"name": "", "image": {}}, {"name": "a\nb", "image": {}}, {"name": "x" * 129, "image": {}}:
            s.request("POST", "/snapshots", body).expect(400)
        assert s.request("GET", "/snapshots").expect(200).json() == []
        s.assert_nothing_left()


@test
def files_of_many_megabytes_go_into_an_image():
    with Server() as s:
        path = f"{s.folder}/put"
        big = "QUJD" * (3 << 20)  # 9 MiB of ABC
        steps = [
            {"type": "add_file", "args": {"path": f"{path}/new/big", "content": big, "encoding": "base64"}},
            {"type": "add_file", "args": {"path": f"{path}/plain", "content": "w6k=\u00e9"}},
            {"type": "add_dir", "args": {"path": f"{path}/dir", "files": [{"relativePath": "x/y", "content": "QQ=="},
                                                                          {"relativePath": "z", "content": ""}]}},
            {"type": "add_dir", "args": {"path": f"{path}/empty/", "files": []}}]
        os.makedirs(path)
        open(f"{path}/plain", "w").close()
        os.chmod(f"{path}/plain", 0o700)
        assert create(s, image(*steps))
        assert os.path.getsize(f"{path}/new/big") == 9 << 20 and open(f"{path}/plain").read() == "w6k=\u00e9"
        assert os.stat(f"{path}/plain").st_mode & 0o777 == os.stat(f"{path}/dir/z").st_mode & 0o777 == 0o644
        assert open(f"{path}/dir/x/y").read() == "A" and os.listdir(f"{path}/empty") == []
        s.request("POST", "/snapshots", {"name": "big", "image": image(*steps)}).expect(201)
        kept = s.request("GET", "/snapshots/big").json()["manifest"]["steps"]
        assert kept[0]["args"] == {"path": f"{path}/new/big", "encoding": "base64", "contentLength": len(big)}, "too long to keep"
        s.request("POST", "/images", b" " * ((80 << 20) + 1)).expect(413)


@test
def identical_builds_at_once_are_one_and_have_one_log():
    with Server() as s:
        c = Counted(s)
        manifest = image(run(f"while [ ! -e {s.folder}/go ]; do sleep 0.02; done"), c.step("a"))
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(stream, s, "/sandboxes", {"image": manifest}) for _ in range(2)]
            wait_for("the build", lambda: s.vmms())
            jobs.append(pool.submit(stream, s, "/snapshots", {"name": "n", "image": manifest}))
            jobs.append(pool.submit(create, s, manifest))
            wait_for("the snapshot", lambda: s.request("GET", "/snapshots/n").status == 200)
            assert s.request("GET", "/snapshots/n").json()["status"] == "building"
            s.request("POST", "/sandboxes", {"snapshot": "n"}).expect(400, "not ready")
            open(f"{s.folder}/go", "w").close()
            logs = [[d for e, d in job.result() if e == "build_log" and d["type"] != "create"] for job in jobs[:3]]
        assert c.ran() == ["a"]
        # Who came after its end would have found it built: all of these came before, but for the last perhaps.
        assert logs[0] == logs[1] == logs[2] and logs[0][0]["type"] == "build", logs
        assert s.request("GET", "/snapshots/n").json()["status"] == "ready"


@test
def the_machine_that_builds_has_the_memory_that_is_asked_for():
    with Server("--max-memory", "3000") as s:
        for asked, has in (512, 512), (None, 3000):
            go = f"{s.folder}/go-{asked}"
            more = {"builderMemoryMB": asked} if asked else {}
            with ThreadPoolExecutor() as pool:
                job = pool.submit(create, s, image(run(f"touch {go}.at; while [ ! -e {go} ]; do sleep 0.02; done"), **more))
                wait_for("the step", lambda: os.path.exists(f"{go}.at"))
                # No sandbox is there: what runs is the builder.
                machines = [Sandbox(s, id).control("info") for _, id in s.vmms()]
                open(go, "w").close()
                made = job.result()
            running = [(i["config"]["memory_mib"], i["config"]["cpus"]) for i in machines if i["state"] == "running"]
            assert running == [(has, 2)], machines
            assert made.control("info")["memory"]["now_mib"] == 1024
            made.request("DELETE").expect(204)


@test
def a_build_goes_on_without_its_client():
    with Server() as s:
        c = Counted(s)
        manifest = image(run(f"while [ ! -e {s.folder}/go ]; do sleep 0.02; done"), c.step("a"))
        connection = s.connect()
        connection.request("POST", "/api/sandboxes", compact({"image": manifest}), EVENTS)
        response = connection.getresponse()
        while not response.readline().startswith(b"event:"):
            pass
        connection.close()
        response.close()
        open(f"{s.folder}/go", "w").close()
        wait_for("the image", lambda: s.request("GET", "/images").json())
        assert c.ran() == ["a"] and s.request("GET", "/sandboxes").json() == []
        assert create(s, manifest).run("cat words")["stdout"] == "a\n" and c.ran() == ["a"]


@test
def a_reader_that_does_not_read_holds_nobody_up():
    with Server() as s:
        c = Counted(s)
        manifest = image(run("yes 0123456789012345678901234567890123456789 | head -100000"), c.step("a"))
        connection = s.connect()
        connection.request("POST", "/api/sandboxes", compact({"image": manifest}), EVENTS)
        response = connection.getresponse()
        wait_for("the image", lambda: s.request("GET", "/images").json())
        assert c.ran() == ["a"]

        class Whole:
            headers, body = response.headers, response.read()
        logs = [d["message"] for e, d in parse_events(Whole) if e == "build_log"]
        assert any("lines are left out" in line for line in logs) and "Step 2/2 completed" in logs
        connection.close()


@test
def images_whose_files_have_vanished_are_built_again():
    with Server() as s:
        c = Counted(s)
        manifest = image(c.step("a"), c.step("b"))
        before = layers(s)
        create(s, manifest).request("DELETE").expect(204)
        assert c.ran() == ["a", "b"]
        for path in layers(s) - before:
            os.unlink(path)
        assert create(s, manifest).run("cat words")["stdout"] == "a\nb\n"
        assert c.ran() == ["a", "b", "a", "b"]
        # Another base is another image.
        os.utime(f"{s.folder}/base.ext4", (1, 1))
        assert create(s, manifest).run("cat words")["stdout"] == "a\nb\n" and len(c.ran()) == 6


@test
def images_are_listed_and_deleted_with_their_files():
    with Server() as s:
        c = Counted(s)
        built = s.request("POST", "/images", {"image": image(c.step("a"), c.step("b"))}).expect(201).json()
        assert built["cached"] is False and built["contentHash"] == content_hash(image(c.step("a"), c.step("b")))
        assert s.request("POST", "/images", {"image": image(c.step("a"), c.step("b"))}).expect(201).json()["cached"] is True
        other = s.request("POST", "/images", {"image": image(c.step("a"), c.step("c"))}).expect(201).json()
        assert [i["contentHash"] for i in s.request("GET", "/images").json()] == [other["contentHash"], built["contentHash"]]
        sandbox = create(s, image(c.step("a"), c.step("b")))
        s.request("DELETE", "/images/" + built["contentHash"][:12]).expect(204)
        s.request("DELETE", "/images/" + built["contentHash"]).expect(404, "image not found")
        s.request("DELETE", "/images/" + other["contentHash"][:7]).expect(404)
        assert sandbox.run("cat words")["stdout"] == "a\nb\n", "sandboxes stay"
        sandbox.request("POST", "/hibernate").expect(200)
        s.request("POST", "/store/gc").expect(200)
        assert sandbox.run("cat words")["stdout"] == "a\nb\n"
        assert create(s, image(c.step("a"), c.step("c"))).id and c.ran() == ["a", "b", "c"], "the common step stays"
        for id in [x["sandboxID"] for x in s.request("GET", "/sandboxes").json()]:
            s.request("DELETE", "/sandboxes/" + id).expect(204)
        s.request("DELETE", "/images/" + other["contentHash"]).expect(204)
        report = s.request("GET", "/store").json()
        assert report["checkpoints"] == [], report
        wait_for("their files to go", lambda: s.request("POST", "/store/gc").expect(200) and len(layers(s)) == len(
            [t for t in s.request("GET", "/store").json()["templates"]]))


@test
def a_workdir_is_where_commands_begin_from_then_on():
    with Server() as s:
        path = f"{s.folder}/place/here"
        manifest = image(run("pwd >first"), {"type": "workdir", "args": {"path": path}}, run("pwd >second"))
        one = create(s, manifest)
        assert open(f"{path}/second").read() == path + "\n"
        assert one.run("pwd")["stdout"] == path + "\n" and one.run("pwd", cwd="/")["stdout"] == "/\n"
        assert one.run("cat first", cwd=one.home)["stdout"] != path + "\n"
        # A build that begins behind that step knows it, too.
        create(s, image(*manifest["steps"], run("pwd >third")))
        assert open(f"{path}/third").read() == path + "\n"
        one.request("POST", "/hibernate").expect(200)
        assert one.run("pwd")["stdout"] == path + "\n", one.run("pwd")
        fork = s.request("POST", f"/sandboxes/{one.id}/fork", {}).expect(201).json()
        assert Sandbox(s, fork["sandboxID"]).run("pwd")["stdout"] == path + "\n"
        s.kill()
        s.start()
        assert one.run("pwd")["stdout"] == path + "\n"
        cp = one.info()["fromCheckpointId"]
        third = s.request("POST", f"/sandboxes/from-checkpoint/{cp}", {}).expect(201).json()
        assert third["fromCheckpointId"] == cp and Sandbox(s, third["sandboxID"]).run("pwd")["stdout"] == path + "\n"


@test
def snapshots_are_images_with_names():
    with Server() as s:
        c = Counted(s)
        manifest = image(c.step("a"), runtimeMemoryMB=2048)
        assert s.request("GET", "/snapshots").expect(200).json() == []
        kind, made = stream(s, "/snapshots", {"name": "n/1", "image": manifest})[-1]
        assert kind == "result" and made["status"] == "ready" and made["contentHash"] == content_hash(manifest), made
        assert made["manifest"] == manifest and made["name"] == "n/1" and "lastUsedAt" not in made
        assert s.request("GET", "/snapshots/n%2F1").expect(200).json() == made == s.request("GET", "/snapshots").json()[0]
        for _ in range(2):
            s.request("POST", "/snapshots", {"name": "n/1", "image": manifest}).expect(409, "exists already")
        two = s.request("POST", "/snapshots", {"name": "two", "image": manifest}).expect(201).json()
        assert two["checkpointId"] != made["checkpointId"] and c.ran() == ["a"]
        one = s.request("POST", "/sandboxes", {"snapshot": "n/1", "envs": {"A": "x"}}).expect(201).json()
        assert one["fromCheckpointId"] == made["checkpointId"] and one["memoryMB"] == 2048 and one["template"] == "base", one
        assert Sandbox(s, one["sandboxID"]).run("cat words; echo $A")["stdout"] == "a\nx\n"
        named = s.create(templateID="two", memoryMB=4096)
        assert named.run("cat words")["stdout"] == "a\n" and named.info()["template"] == "two" and named.info()["memoryMB"] == 4096
        events = stream(s, "/sandboxes", {"snapshot": "two"})
        assert [e for e, _ in events] == ["build_log", "result"], events
        used = s.request("GET", "/snapshots/two").json()["lastUsedAt"]
        assert used > two["createdAt"], used
        one = s.request("POST", "/sandboxes", {"snapshot": "two", "timeout": 77, "metadata": {"k": "v"}}).expect(201).json()
        assert one["metadata"] == {"k": "v"} and s.request("GET", "/snapshots/two").json()["lastUsedAt"] > used, one
        # The image may go: the snapshots have its disk.
        s.request("DELETE", "/images/" + made["contentHash"]).expect(204)
        s.request("POST", "/store/gc").expect(200)
        s.kill()
        s.start()
        third = s.request("POST", "/sandboxes", {"snapshot": "n/1"}).expect(201).json()
        assert Sandbox(s, third["sandboxID"]).run("cat words")["stdout"] == "a\n"
        s.request("DELETE", "/snapshots/n%2F1").expect(204)
        s.request("DELETE", "/snapshots/n%2F1").expect(404, "snapshot not found: n/1")
        s.request("GET", "/snapshots/n%2F1").expect(404)
        s.request("POST", "/sandboxes", {"snapshot": "n/1"}).expect(400, "snapshot not found: n/1")
        s.request("POST", "/sandboxes", {"snapshot": "n/1"}, EVENTS).expect(400, "not found")
        s.request("POST", "/sandboxes", {"templateID": "n/1"}).expect(404, "template not found: n/1")
        assert Sandbox(s, third["sandboxID"]).run("cat words")["stdout"] == "a\n"
        # A base that was replaced is another disk than the one it lies on.
        os.utime(f"{s.folder}/base.ext4", (1, 1))
        s.request("POST", "/sandboxes", {"snapshot": "two"}).expect(400, "another version of base")


@test
def a_snapshot_is_built_in_the_background_if_that_is_asked_for():
    with Server() as s:
        hold = run(f"while [ ! -e {s.folder}/go ]; do sleep 0.02; done")
        row = s.request("POST", "/snapshots?async=1", {"name": "n", "image": image(hold)}).expect(202).json()
        assert row["status"] == "building" and row["checkpointId"] == ""
        s.request("POST", "/snapshots", {"name": "n", "image": image()}).expect(409)
        s.request("DELETE", "/snapshots/n").expect(204)
        other = s.request("POST", "/snapshots", {"name": "n", "image": image()}).expect(201).json()
        open(f"{s.folder}/go", "w").close()
        wait_for("the build", lambda: len(s.request("GET", "/images").json()) == 2)
        assert s.request("GET", "/snapshots/n").json() == other, "it is not the one that was deleted"
        s.request("POST", "/snapshots?async=1", {"name": "bad", "image": image(run("false"))}).expect(202)
        wait_for("its end", lambda: s.request("GET", "/snapshots/bad").json()["status"] == "failed")
        assert s.request("POST", "/snapshots", {"name": "bad", "image": image(run("true"))}).expect(201).json()["status"] == "ready"
        assert s.request("POST", "/snapshots/bad/publish").expect(200).json()["isPublic"] is True
        assert s.request("POST", "/snapshots/bad/unpublish").expect(200).json()["isPublic"] is False


@test
def a_server_that_is_killed_in_a_build_leaves_the_steps_that_were_done():
    with Server() as s:
        c = Counted(s)
        manifest = image(c.step("a"), c.step("b", f"while [ ! -e {s.folder}/go ]; do sleep 0.02; done"))
        s.request("POST", "/snapshots?async=1", {"name": "n", "image": manifest}).expect(202)
        wait_for("the second step", lambda: c.ran() == ["a", "b"])
        s.kill()
        s.start()
        assert s.request("GET", "/snapshots/n").json()["status"] == "failed"
        s.request("POST", "/sandboxes", {"snapshot": "n"}).expect(400, "restarted")
        s.assert_nothing_left()
        open(f"{s.folder}/go", "w").close()
        s.request("POST", "/snapshots", {"name": "n", "image": manifest}).expect(201)
        assert c.ran() == ["a", "b", "b"]
        s.kill()
        s.start()
        one = s.create(templateID="n")
        assert one.run("cat words")["stdout"] == "a\nb\n"
        assert create(s, manifest).run("cat words")["stdout"] == "a\nb\n" and len(c.ran()) == 3


@test
def a_server_that_stops_waits_for_no_build():
    with Server() as s:
        manifest = image(run(f"touch {s.folder}/begun; sleep 600"))
        s.request("POST", "/snapshots?async=1", {"name": "n", "image": manifest}).expect(202)
        connection = s.connect()
        connection.request("POST", "/api/sandboxes", compact({"image": manifest}), EVENTS)
        response = connection.getresponse()
        wait_for("the step", lambda: os.path.exists(f"{s.folder}/begun"))
        assert s.kill(signal.SIGTERM) == 0
        connection.close()
        response.close()
        s.start()
        assert s.request("GET", "/snapshots/n").json()["status"] == "failed"
        s.assert_nothing_left()


@test
def patches_of_snapshots_and_images_are_their_own():
    with Server() as s:
        manifest = image(run("echo a >words"))
        for name in "one", "two":
            s.request("POST", "/snapshots", {"name": name, "image": manifest}).expect(201)
        url = "/snapshots/one/patches"
        patch = s.request("POST", url, {"script": f"echo patched >>{s.folder}/patches"}).expect(201).json()["patch"]
        assert patch["checkpointId"] == s.request("GET", "/snapshots/one").json()["checkpointId"]
        assert s.request("GET", url).json() == [patch] and s.request("GET", "/snapshots/two/patches").json() == []
        for body in {"snapshot": "two"}, {"image": manifest}:
            s.request("POST", "/sandboxes", body).expect(201)
        assert not os.path.exists(f"{s.folder}/patches")
        s.request("POST", "/sandboxes", {"snapshot": "one"}).expect(201)
        assert open(f"{s.folder}/patches").read() == "patched\n"
        s.request("DELETE", f"{url}/{patch['id']}").expect(204)
        s.request("DELETE", f"{url}/x").expect(400)
        s.request("POST", "/snapshots/none/patches", {"script": "true"}).expect(404)
        url = f"/images/{content_hash(manifest)}/patches"
        s.request("POST", url, {"script": f"echo image >>{s.folder}/patches"}).expect(201)
        s.request("POST", "/sandboxes", {"image": manifest}).expect(201)
        assert open(f"{s.folder}/patches").read() == "patched\nimage\n" and len(s.request("GET", url).json()) == 1
        s.request("GET", "/images/00000000/patches").expect(404)


@test
def templates_are_image_files_and_snapshots():
    with Server() as s:
        names = {t["name"]: t for t in s.request("GET", "/templates").expect(200).json()}
        assert names["base"] == {"templateID": "base", "name": "base", "tag": "latest", "status": "ready"} and "mini" in names
        s.request("POST", "/snapshots", {"name": "mine", "image": image()}).expect(201)
        assert "mine" in [t["templateID"] for t in s.request("GET", "/templates").json()]
        assert s.request("GET", "/templates/mine").json()["status"] == "ready"
        assert s.request("GET", "/templates/ubuntu").json()["name"] == "base"
        s.request("GET", "/templates/none").expect(404, "template not found: none")
        s.request("DELETE", "/templates/base").expect(400)
        s.request("DELETE", "/templates/mine").expect(204)
        s.request("DELETE", "/templates/mine").expect(404)


DOCKERFILE = '''# syntax=docker/dockerfile:1
FROM base:latest AS x

WORKDIR @/app
RUN echo "$PWD" >pwd \\
    # a comment
    && id -un >user
RUN ["sh", "-c", "echo 'a b' $0 >words", "it's"]
COPY <<"EOF" @/app/file
text of $HOME
EOF
RUN <<END
echo one >here
echo two >>here
END
'''


@test
def templates_are_built_from_dockerfiles():
    with Server() as s:
        def read(name):
            with open(f"{s.folder}/app/{name}") as f:
                return f.read()

        def build(name, dockerfile):
            return s.request("POST", "/templates", {"name": name, "dockerfile": dockerfile})

        dockerfile = DOCKERFILE.replace("@", s.folder)
        made = build("mine", dockerfile).expect(201).json()
        assert made == {"templateID": "mine", "name": "mine", "tag": "latest", "status": "ready"}
        assert read("pwd") == f"{s.folder}/app\n" and read("user") == "root\n"
        assert read("words") == "a b it's\n" and read("file") == "text of $HOME\n" and read("here") == "one\ntwo\n"
        assert s.create(templateID="mine").run("pwd")["stdout"] == f"{s.folder}/app\n"
        build("mine", dockerfile).expect(409)
        build("base", dockerfile).expect(409)
        build("bad", "FROM base\nRUN exit 3").expect(400, "exit code 3")
        build("bad", "FROM base\nCMD x").expect(400, "line 2", "CMD")
        build("bad", "FROM python:3").expect(400, "no template python:3")
        s.request("POST", "/templates", {"name": "bad"}).expect(400, "dockerfile")


@test
def an_image_that_does_not_boot_is_none():
    with Server() as s:
        # The builder boots, and nothing after it.
        s.create().request("DELETE").expect(204)
        assert create(s, image(run("true"))).id
        s.fault("boot", "refuse !")
        s.request("POST", "/sandboxes", {"image": image(run("echo 1"))}).expect(400, "does not boot")
        s.release("boot")
        assert len(s.request("GET", "/images").json()) == 1
        assert create(s, image(run("echo 1"))).id
