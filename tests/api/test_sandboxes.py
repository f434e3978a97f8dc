# SPDX-License-Identifier: Apache-2.0
"""Create, list, get, delete, and the ends that sandboxes come to (api.md 3)."""
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from harness import Server, test, wait_for


@test
def a_create_answers_with_a_running_sandbox():
    with Server("--region", "here", "--sandbox-domain", "box.localhost:80") as s:
        a = s.request("POST", "/api/sandboxes", {"metadata": {"k": "v"}, "alias": "al"}).expect(201).json()
        assert a["sandboxID"].startswith("sb-") and len(a["sandboxID"]) == 11
        expected = {"status": "running", "templateID": "base", "template": "base", "token": "", "connectURL": "", "region": "here",
                    "workerID": "w-local-1", "sandboxDomain": "box.localhost:80", "metadata": {"k": "v"}, "alias": "al",
                    "cpuCount": 1, "memoryMB": 1024, "diskMB": 20480, "timeout": 300}
        assert {k: a[k] for k in expected} == expected
        assert a["startedAt"][10] == "T" and a["startedAt"].endswith("Z") and a["endAt"] > a["startedAt"]
        for _ in range(20):
            assert s.request("GET", "/api/sandboxes/" + a["sandboxID"]).expect(200).json() == a


@test
def what_was_asked_for_reaches_the_vmm():
    with Server() as s:
        b = s.create(cpuCount=2, memoryMB=511, diskMB=30720, templateID="mini", timeout=0)
        config = b.control("info")["config"]
        assert (config["cpus"], config["memory_mib"]) == (2, 512)
        disk, = config["disks"]
        assert (disk["path"], disk["size_mib"]) == (f"{s.folder}/mini.ext4", 30720)
        assert os.path.dirname(disk["overlay"]) == s.state + "/layers" and len(disk["layers"]) == 1, disk
        assert config["kernel"] == f"{s.folder}/kernel" and "endAt" not in b.info()


@test
def names_of_templates_and_their_aliases():
    with Server() as s:
        for name in "", "base", "default", "ubuntu":
            assert s.create(templateID=name).info()["template"] == "base"
        s.request("POST", "/sandboxes", {"templateID": "nope"}).expect(404, "template not found: nope")
        s.request("POST", "/sandboxes", {"templateID": "../base"}).expect(404, "template not found")


@test
def impossible_requests_are_refused_by_field():
    with Server("--max-memory", "4096") as s:
        for fields, word in (({"cpuCount": 0}, "cpuCount"), ({"cpuCount": 5}, "cpuCount"), ({"memoryMB": 63}, "memoryMB"),
                             ({"memoryMB": 4097}, "memoryMB"), ({"diskMB": 20479}, "diskMB"), ({"diskMB": 262145}, "diskMB"),
                             ({"timeout": -1}, "non-negative"), ({"timeout": 1.5}, "timeout"), ({"timeout": "1"}, "timeout"),
                             ({"envs": {"A=B": "x"}}, "envs"), ({"envs": {"": "x"}}, "envs"), ({"envs": []}, "envs"),
                             ({"envs": {"A": "x\0y"}}, "envs"), ({"metadata": {"a": {}}}, "metadata"), ({"port": 0}, "port")):
            s.request("POST", "/sandboxes", fields).expect(400, word)
        for field, value in (("secretStore", "s"), ("webhooks", [{"url": "http://x"}])):
            s.request("POST", "/sandboxes", {field: value}).expect(501, field)
        s.create(cpuCount=4, memoryMB=2048, image=None, webhooks=[], snapshot="")
        assert len(s.folders()) == 1


@test
def lists_have_the_newest_first_and_no_stopped_ones():
    with Server() as s:
        assert s.request("GET", "/api/sandboxes").expect(200).body == b"[]"
        boxes = [s.create() for _ in range(3)]
        listed = lambda query="": [b["sandboxID"] for b in s.request("GET", "/api/sandboxes" + query).expect(200).json()]
        ids = [b.id for b in reversed(boxes)]
        assert listed() == ids
        boxes[1].request("DELETE").expect(204)
        assert listed() == [ids[0], ids[2]] and listed("?status=running") == [ids[0], ids[2]]
        assert listed("?status=stopped") == [ids[1]] and listed("?status=hibernated") == []
        assert [x["sandboxID"] for x in s.request("GET", "/sessions").json()] == [ids[0], ids[2]]


@test
def a_deletion_leaves_nothing_but_the_memory_of_it():
    with Server() as s:
        b = s.create(metadata={"a": "b"})
        pid = b.pid()
        b.request("DELETE").expect(204)
        assert not os.path.exists(f"/proc/{pid}")
        s.assert_nothing_left()
        info = b.info()
        assert info["status"] == "stopped" and info["metadata"] == {"a": "b"} and info["endAt"]
        b.request("DELETE").expect(204)
        for method, path, body in (("POST", "/exec/run", {"cmd": "true"}), ("GET", "/files?path=/", None), ("GET", "/exec", None),
                                   ("PUT", "/files?path=/x", b"x"), ("GET", "/console", None)):
            b.request(method, path, body).expect(410, f"sandbox {b.id} has been stopped")


@test
def many_creates_at_once_all_succeed():
    with Server() as s, ThreadPoolExecutor(12) as pool:
        boxes = list(pool.map(lambda i: s.create(metadata={"i": str(i)}), range(12)))
        assert len({b.id for b in boxes}) == 12
        assert list(pool.map(lambda b: b.run("echo ok")["stdout"], boxes)) == ["ok\n"] * 12
        assert s.request("GET", "/workers").json()[0]["current"] == 12
        list(pool.map(lambda b: b.request("DELETE").expect(204), boxes))
        s.assert_nothing_left()


@test
def creates_beyond_the_limit_are_refused_for_now():
    with Server("--max-sandboxes", "1") as s:
        b = s.create()
        a = s.request("POST", "/sandboxes", {}).expect(503, "worker_unavailable", '"retryable":true')
        assert a.headers["Retry-After"] == "2"
        b.request("DELETE").expect(204)
        s.create()


@test
def a_create_that_fails_leaves_nothing():
    with Server("--boot-timeout", "1") as s:
        for template, status, word in (("refused", 500, "not an ELF file"), ("nospace", 503, "No space left"), ("dies", 500, ""),
                                       ("silent", 500, "did not come up"), ("deaf", 500, "agent")):
            s.request("POST", "/sandboxes", {"templateID": template}).expect(status, word)
            s.assert_nothing_left()
        assert s.request("GET", "/sandboxes").body == b"[]"


@test
def a_create_waits_until_the_guest_is_ready():
    with Server() as s:
        assert s.create(templateID="slow").run("echo up")["stdout"] == "up\n"


@test
def a_missing_vmm_program_or_image_is_a_clear_error():
    with Server() as s:
        os.unlink(f"{s.folder}/mini.ext4")
        s.request("POST", "/sandboxes", {"templateID": "mini"}).expect(500, "mini.ext4", "No such file")
        s.assert_nothing_left()
    with Server("--vmm", "/nonexistent/vmm") as s:
        s.request("POST", "/sandboxes", {}).expect(500, "/nonexistent/vmm")
        s.assert_nothing_left()


@test
def a_killed_vmm_makes_the_sandbox_an_error():
    with Server() as s:
        b, other = s.create(), s.create()
        pid = b.pid()
        os.kill(pid, signal.SIGKILL)
        info = b.wait_status("error")
        assert "signal 9" in info["error"], info
        wait_for("the process to be reaped", lambda: not os.path.exists(f"/proc/{pid}"))
        b.request("POST", "/exec/run", {"cmd": "true"}).expect(502, "sandbox_failed", "signal 9")
        b.request("GET", "/files?path=/").expect(502)
        assert os.path.exists(b.layers()[-1]), "the files are kept"
        assert "fake" in b.request("GET", "/console").expect(200).body.decode()
        assert [x["status"] for x in s.request("GET", "/sandboxes").json()] == ["running", "error"]
        assert other.run("echo alive")["stdout"] == "alive\n"
        b.request("DELETE").expect(204)
        assert s.folders() == [other.id]


@test
def a_running_command_hears_of_the_end_of_its_vm():
    with Server() as s, ThreadPoolExecutor(2) as pool:
        b = s.create()
        polled = b.start("sleep 1000")
        direct = pool.submit(b.request, "POST", "/exec/run", {"cmd": "touch up; sleep 1000"})
        waiting = pool.submit(b.result, polled)
        wait_for("the command", lambda: os.path.exists(b.home + "/up"))
        os.kill(b.pid(), signal.SIGKILL)
        direct.result().expect(502, "sandbox_failed")
        end = waiting.result()
        assert end["running"] is False and "has failed" in end["error"], end


@test
def a_guest_that_powers_off_is_stopped():
    for template in "base", "hung":
        with Server() as s:
            b = s.create(templateID=template)
            b.control("fake-poweroff")
            b.wait_status("stopped")
            b.request("POST", "/exec/run", {"cmd": "true"}).expect(410, "has been stopped")
            assert s.folders() == [b.id], "its disk is kept"
            b.request("DELETE").expect(204)
            s.assert_nothing_left()


@test
def a_guest_that_panics_is_an_error():
    with Server() as s:
        b, other = s.create(), s.create()
        b.event(event="panic", boots=1)
        assert b.wait_status("error")["error"].endswith("the guest kernel panicked"), b.info()
        with open(f"{s.state}/sandboxes/{other.id}/console.log", "a", encoding="latin-1") as f:
            f.write("Kernel panic - not syncing: old\n" + 100 * f"{60 * '-'}\n")
            f.write("[    1.0] Kernel panic - not syncing: VFS: no root\x1b[31m\r\n[    1.0] CPU: 0\n")
        other.event(event="panic", boots=1)
        assert other.wait_status("error")["error"].endswith("the guest kernel panicked: VFS: no root"), other.info()
        assert f"sandbox {other.id}: console: [    1.0] CPU: 0" in s.log(), "what led to it is in the log"
        wait_for("the VMM to end", lambda: not s.vmms())


@test
def requests_wait_while_the_guest_reboots():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        b.event(event="reset", reason="guest", boots=2)
        answer = pool.submit(b.run, "echo again")
        assert b.info()["status"] == "running"
        b.event(event="ready", boots=2)
        assert answer.result()["stdout"] == "again\n"


@test
def deletes_at_once_all_succeed():
    with Server() as s, ThreadPoolExecutor(8) as pool:
        b = s.create()
        for a in pool.map(lambda _: b.request("DELETE"), range(8)):
            a.expect(204)
        s.assert_nothing_left()


@test
def the_console_can_be_read():
    with Server() as s:
        a = s.create().request("GET", "/console").expect(200)
        assert a.body == b"Linux version 6.12 (fake)\n" and a.headers["Content-Type"].startswith("text/plain")
