# SPDX-License-Identifier: Apache-2.0
"""Idle timeouts (api.md 18.1): what moves them, what holds them, what outlives the daemon."""
import datetime
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Server, test, wait_for



def end_at(b):
    """When the timeout will be over, s since 1970."""
    return datetime.datetime.fromisoformat(b.info()["endAt"].replace("Z", "+00:00")).timestamp()


def until_idle(s):
    """An event later than any deadline of a timeout of 1 s that has begun before."""
    s.create(timeout=1).wait_status("hibernated")


@test
def an_idle_sandbox_hibernates_again_and_again_and_work_wakes_it():
    with Server() as s:
        b = s.create(timeout=1)
        for n in range(2):
            begun = time.monotonic()
            assert b.run(f"echo {n} >>file; cat file")["stdout"] == "".join(f"{i}\n" for i in range(n + 1))
            assert b.wait_status("hibernated")["timeout"] == 1
            assert time.monotonic() - begun >= 1
        assert s.log().count("idle for 1 s") == 2 and not s.vmms()
        b.request("POST", "/wake", {"timeout": 0}).expect(200)
        until_idle(s)
        assert b.info()["status"] == "running"


@test
def work_moves_the_deadline_and_looking_does_not():
    with Server() as s:
        b = s.create(timeout=1000)
        assert abs(end_at(b) - time.time() - 1000) < 10
        session = b.start("sleep 1000")
        b.request("POST", f"/exec/{session}/kill").expect(204)
        assert b.result(session)["running"] is False, "its end counts as work, too"
        works = [lambda: b.run("true"), lambda: b.result(session), lambda: b.request("POST", f"/exec/{session}/kill"),
                 lambda: b.request("PUT", "/files?path=x", b"1").expect(204), lambda: b.request("GET", "/files?path=x").expect(200),
                 lambda: b.request("GET", "/files?path=missing").expect(500), lambda: b.request("GET", "/files/list?path=/").expect(200),
                 lambda: b.request("DELETE", "/files?path=x").expect(204), lambda: b.request("POST", "/files/mkdir?path=d").expect(204),
                 lambda: b.request("POST", "/reboot").expect(204), lambda: b.request("POST", "/timeout", {"timeout": 1000}).expect(204)]
        for i, work in enumerate(works):
            before = end_at(b)
            time.sleep(0.02)
            s.request("GET", "/api/sandboxes").expect(200)
            b.request("GET", "/exec").expect(200)
            b.request("GET", "/checkpoints").expect(200)
            b.request("GET", "/console").expect(200)
            assert abs(end_at(b) - before) < 0.01, i
            work()
            assert end_at(b) > before + 0.015, i
        listed, = s.request("GET", "/api/sandboxes").json()
        assert listed["endAt"]


@test
def commands_and_transfers_in_progress_hold_it():
    with Server() as s, ThreadPoolExecutor(2) as pool:
        wait = "until [ -e go ]; do sleep 0.02; done; echo done"
        run, polled, started, upload = (s.create(timeout=1) for _ in range(4))
        answer = pool.submit(run.run, wait)
        polled.start(wait + "; touch ended")
        started.request("POST", "/exec", {"cmd": "sleep 1000"}).expect(201)
        c = s.connect(tcp=True)
        c.putrequest("PUT", upload.url + "/files?path=x")
        c.putheader("X-API-Key", "another-key")
        c.putheader("Content-Length", "2")
        c.endheaders()
        c.send(b"a")
        started.wait_status("hibernated")
        until_idle(s)
        for b in run, polled, upload:
            assert b.info()["status"] == "running"
            open(b.home + "/go", "w").close()
        assert answer.result()["stdout"] == "done\n"
        polled.wait_status("hibernated")
        assert os.path.exists(polled.home + "/ended"), "it was polled by nobody, and held it to its end"
        c.send(b"b")
        assert c.getresponse().status == 204
        c.close()
        for b in run, upload:
            b.wait_status("hibernated")
        assert upload.request("GET", "/files?path=x").body == b"ab"


@test
def the_timeout_can_be_set_in_every_state_that_has_one():
    with Server() as s:
        b = s.create(timeout=1000)
        b.request("POST", "/timeout", {"timeout": 0}).expect(204)
        assert b.info()["timeout"] == 0 and "endAt" not in b.info()
        b.request("POST", "/timeout", {"timeout": 70}).expect(204)
        assert abs(end_at(b) - time.time() - 70) < 10
        for bad in ({"timeout": -1}, {"timeout": 1.5}, {"timeout": "1"}, {"timeout": None}, {}, {"timeout": True}):
            b.request("POST", "/timeout", bad).expect(400, "non-negative")
        b.request("POST", "/timeout", {"timeout": 1 << 40}).expect(400, "timeout")
        b.request("POST", "/timeout", b"[").expect(400, "JSON")
        assert b.info()["timeout"] == 70
        b.request("POST", "/hibernate").expect(200)
        b.request("POST", "/timeout", {"timeout": 1}).expect(204)
        assert b.info()["status"] == "hibernated" and b.info()["timeout"] == 1 and "endAt" not in b.info()
        b.run("true")
        b.wait_status("hibernated")
        b.request("DELETE").expect(204)
        b.request("POST", "/timeout", {"timeout": 1}).expect(410)
        s.request("POST", "/api/sandboxes/sb-00000000/timeout", {"timeout": -1}).expect(404)


@test
def a_sandbox_that_cannot_hibernate_stops():
    with Server() as s:
        s.fault("checkpoint", "refuse ENOSPC !")
        b = s.create(timeout=1)
        b.run("echo kept > file")
        assert b.wait_status("stopped")["timeout"] == 1 and not s.vmms()
        b.request("POST", "/exec/run", {"cmd": "true"}).expect(410)
        assert s.request("GET", "/workers").json()[0]["current"] == 0
        assert "it could not hibernate" in s.log()
        s.kill()
        s.start()
        assert b.info()["status"] == "stopped"
        b.request("DELETE").expect(204)
        s.assert_nothing_left()


@test
def deadlines_outlive_the_daemon():
    with Server() as s:
        for signo in signal.SIGKILL, signal.SIGTERM:
            b, due = s.create(timeout=1000), s.create(timeout=1000)
            b.run("true")
            before = end_at(b)
            noted = os.stat(b.folder).st_mtime
            if signo == signal.SIGKILL:
                wait_for("the last work to be noted", lambda: abs(os.stat(b.folder).st_mtime + 1000 - before) < 0.01)
            s.kill(signo)
            # As if the daemon had been away for long.
            assert os.stat(b.folder).st_mtime >= noted
            past = os.stat(due.folder).st_mtime - 1000
            os.utime(due.folder, (past, past))
            s.start()
            assert abs(end_at(b) - before) < 0.05, "neither lost nor begun anew"
            assert b.info()["status"] == "running"
            due.wait_status("hibernated")
            due.run("true")
            assert due.info()["status"] == "running" and due.info()["timeout"] == 1000
            for x in b, due:
                x.request("DELETE").expect(204)


@test
def a_command_that_somebody_waits_for_holds_it_across_a_restart():
    with Server() as s:
        b = s.create(timeout=1)
        id = b.start("until [ -e go ]; do sleep 0.02; done; touch ended; echo done")
        s.kill()
        s.start()
        until_idle(s)
        until_idle(s)
        assert b.info()["status"] == "running"
        open(b.home + "/go", "w").close()
        b.wait_status("hibernated")
        assert os.path.exists(b.home + "/ended") and b.result(id)["stdout"] == "done\n"


@test
def a_timeout_that_was_set_is_there_after_a_kill():
    with Server() as s:
        b = s.create(timeout=0)
        past = time.time() - 5000
        os.utime(b.folder, (past, past))
        b.request("POST", "/timeout", {"timeout": 1000}).expect(204)
        s.kill()
        s.start()
        assert b.info()["timeout"] == 1000 and abs(end_at(b) - time.time() - 1000) < 10
