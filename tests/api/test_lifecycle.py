# SPDX-License-Identifier: Apache-2.0
"""Templates, shells, hibernate and wake, reboot and power cycle (api.md 3.7, 3.8, 18.1 - 18.5)."""
import glob
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Sandbox, Server, test, wait_for


def hibernate(b):
    return b.request("POST", "/hibernate").expect(200).json()


def wake(b, **fields):
    return b.request("POST", "/wake", fields).expect(200).json()


def memory(b, value=None):
    """What stands for the guest's memory: it survives where a real one would."""
    if value is not None:
        b.control("fake-memory", value=value)
    return b.control("info")["fake_memory"]


def images(b):
    return glob.glob(b.folder + "/*-*-*-*-*/*")


# --- create is a fork ---------------------------------------------------------------------------------

@test
def creates_fork_one_template_that_is_booted_once():
    with Server() as s, ThreadPoolExecutor(6) as pool:
        boxes = list(pool.map(lambda _: s.create(), range(6)))
        assert s.log().count("template base: ready") == 1, s.log()
        assert len({b.layers()[0] for b in boxes}) == 1 and len({b.layers()[1] for b in boxes}) == 6
        assert all(b.control("info")["restored"] for b in boxes)
        other = s.create(memoryMB=512)
        assert s.log().count("template base: ready") == 2 and other.layers()[0] != boxes[0].layers()[0]
        s.kill()
        s.start()
        assert s.create().layers()[0] == boxes[0].layers()[0], "templates outlive the daemon"
        assert len([b for b in s.request("GET", "/sandboxes").json()]) == 8, "and are no sandboxes"


@test
def every_fork_gets_an_identity_of_its_own():
    with Server() as s:
        a, b = s.create(), s.create()
        assert a.control("info")["generation"] != b.control("info")["generation"]


@test
def a_replaced_image_makes_another_template():
    with Server() as s:
        old = s.create()
        with open(s.folder + "/base.ext4", "w") as f:
            f.write("another")
        new = s.create()
        assert old.layers()[0] != new.layers()[0] and s.log().count("template base: ready") == 2
        s.kill()
        s.start()
        assert "1 outdated templates forgotten" in s.log()


@test
def a_link_to_a_newer_image_is_not_followed_by_what_lies_on_the_older():
    with Server(start=False) as s:
        link = s.folder + "/base.ext4"
        for name in "one", "two":
            os.mkdir(f"{s.folder}/{name}")
            open(f"{s.folder}/{name}/base.ext4", "w").close()
        os.unlink(link)
        os.symlink("one/base.ext4", link)
        s.start()
        old = s.create()
        old.request("POST", "/hibernate").expect(200)
        s.kill(signal.SIGTERM)
        os.unlink(link)
        os.symlink("two/base.ext4", link)
        s.start()
        old.request("POST", "/wake").expect(200)
        for b, folder in (old, "one"), (s.create(), "two"):
            assert b.control("info")["config"]["disks"][0]["path"] == f"{s.folder}/{folder}/base.ext4"


@test
def without_a_checkpoint_creates_boot():
    with Server() as s:
        for point, how in (("checkpoint", "refuse"), ("checkpoint-write", "refuse ENOSPC"), ("checkpoint-write", "die")):
            s.fault(point, how)
            b = s.create(memoryMB=64 + 2 * len(s.folders()))
            assert not b.control("info")["restored"] and len(b.layers()) == 1 and b.run("echo up")["stdout"] == "up\n"
        assert s.log().count("its checkpoint failed, creates will boot") == 3
        wait_for("what the VMM left to go", lambda: not glob.glob(s.state + "/checkpoints/*"))


@test
def a_template_that_cannot_be_restored_is_made_anew():
    with Server() as s:
        s.create()
        for ram in glob.glob(s.state + "/checkpoints/*/ram"):
            with open(ram, "w") as f:
                f.write("damaged")
        b = s.create()
        assert not b.control("info")["restored"] and b.run("echo up")["stdout"] == "up\n"
        assert s.create().control("info")["restored"] and s.log().count("template base: ready") == 2


@test
def a_template_can_be_made_at_the_start():
    with Server("--prewarm", "base", "--prewarm", "nope") as s:
        wait_for("the template", lambda: "template base: ready" in s.log())
        assert s.create().control("info")["restored"] and s.log().count("template base: ready") == 1
        wait_for("the complaint", lambda: "--prewarm nope: there is no such template" in s.log())


# --- shells -------------------------------------------------------------------------------------------

def shells(s):
    known = {b["sandboxID"] for b in s.request("GET", "/sandboxes").json()}
    return [(pid, id) for pid, id in s.vmms() if id not in known]


def wait_shells(s, n):
    def ready():
        found = shells(s)
        try:
            return len(found) == n and all(Sandbox(s, id).control("info")["state"] == "shell" for _, id in found)
        except OSError:
            return False  # not there yet
    wait_for(f"{n} shells", ready)
    return shells(s)


@test
def creates_take_shells_which_are_made_anew():
    with Server("--pool-size", "2") as s:
        s.create()
        made = wait_shells(s, 2)
        b = s.create()
        assert b.id in [id for _, id in made], "taking a shell is taking its id"
        assert b.run("echo up")["stdout"] == "up\n"
        again = wait_shells(s, 2)
        odd = s.create(memoryMB=512)
        assert odd.id not in [id for _, id in again], "another shape is no use"
        for pid, _ in wait_shells(s, 2):
            os.kill(pid, signal.SIGKILL)
        assert s.create().run("echo up")["stdout"] == "up\n", "dead shells are passed over"
        wait_shells(s, 2)
        s.fault("restore", "die")
        assert s.create().run("echo up")["stdout"] == "up\n", "one that dies under the create, too"
        wait_shells(s, 2)
        s.kill()
        s.start()
        wait_shells(s, 2)
        for b in s.request("GET", "/sandboxes").json():
            s.request("DELETE", "/sandboxes/" + b["sandboxID"]).expect(204)
        assert s.kill(signal.SIGTERM) == 0
        assert not s.vmms() and s.folders() == [], "a stop leaves no shells"
        s.start()


@test
def shells_are_passed_over_when_files_have_been_replaced():
    for name in ("base.ext4", "kernel"):
        with Server("--pool-size", "2") as s:
            s.create()
            old = wait_shells(s, 2)
            with open(f"{s.folder}/new", "w") as f:
                f.write("another")
            os.rename(f"{s.folder}/new", f"{s.folder}/{name}")
            b = s.create()
            assert b.id not in [id for _, id in old] and b.run("echo up")["stdout"] == "up\n"
            assert b.control("info")["restored"] and "is another file now" in s.log()


@test
def shells_that_cannot_be_made_are_missed_by_nobody():
    with Server("--pool-size", "2", start=False) as s:
        s.fault("prepare", "refuse !")
        s.start()
        b = s.create()
        assert b.run("echo up")["stdout"] == "up\n"
        assert "making a shell in advance" in s.log()
        s.release("prepare")
        b.request("DELETE").expect(204)


# --- hibernate and wake ---------------------------------------------------------------------------------

@test
def a_hibernated_sandbox_costs_no_process_and_wakes_as_it_was():
    with Server() as s:
        b = s.create(timeout=77)
        memory(b, "kept in mind")
        b.run("echo kept > file")
        for _ in range(3):
            h = hibernate(b)
            assert h["sandboxID"] == b.id and h["status"] == "hibernated" and h["sizeBytes"] > 0 and h["hibernationKey"]
            assert not s.vmms() and s.request("GET", "/workers").json()[0]["current"] == 0
            assert hibernate(b)["message"] == "already hibernated"
            assert b.info()["status"] == "hibernated" and not s.vmms(), "looking does not wake"
            assert [x["sandboxID"] for x in s.request("GET", "/sandboxes?status=hibernated").json()] == [b.id]
            w = wake(b)
            assert w["status"] == "running" and w["timeout"] == 77 and "coldBoot" not in w, w
            assert memory(b) == "kept in mind" and b.run("cat file")["stdout"] == "kept\n"
            assert not images(b), "the image is used up"
        assert wake(b)["status"] == "running", "waking the waking is fine"
        assert wake(b, timeout=5)["timeout"] == 5 and b.info()["timeout"] == 5
        hibernate(b)
        assert wake(b, timeout=0)["timeout"] == 0 and "endAt" not in b.info()
        b.request("POST", "/wake", {"timeout": -1}).expect(400, "non-negative")
        b.request("DELETE").expect(204)
        s.assert_nothing_left()


@test
def who_cannot_be_hibernated_or_woken_is_told_why():
    with Server() as s:
        for op in "hibernate", "wake", "reboot", "power-cycle":
            s.request("POST", "/sandboxes/sb-00000000/" + op).expect(404, "sandbox not found")
        b = s.create()
        hibernate(b)
        for op in "reboot", "power-cycle":
            b.request("POST", "/" + op).expect(400, "hibernated")
        b.request("DELETE").expect(204)
        b.request("POST", "/wake").expect(404, "no active hibernation found")
        for op in "hibernate", "reboot", "power-cycle":
            b.request("POST", "/" + op).expect(410, "has been stopped")
        b = s.create()
        b.control("fake-poweroff")
        b.wait_status("stopped")
        b.request("POST", "/wake").expect(404, "no active hibernation found")
        b.request("POST", "/hibernate").expect(410)


@test
def work_in_a_hibernated_sandbox_wakes_it_once():
    with Server() as s, ThreadPoolExecutor(12) as pool:
        b = s.create()
        memory(b, "kept")
        hibernate(b)
        works = [lambda: b.run("echo up")["stdout"] == "up\n", lambda: b.request("PUT", "/files?path=x", b"1").expect(204),
                 lambda: b.request("GET", "/files/list?path=/").expect(200), lambda: wake(b)["status"] == "running"]
        answers = [pool.submit(w) for w in works * 3]
        assert all(a.result() for a in answers)
        assert s.log().count("woken after") == 1 and memory(b) == "kept"
        assert s.request("GET", "/workers").json()[0]["current"] == 1


@test
def a_hibernation_that_fails_leaves_it_running():
    with Server() as s:
        b = s.create()
        memory(b, "kept")
        for point, how, status in (("checkpoint", "refuse", 500), ("checkpoint-write", "refuse", 500), ("checkpoint", "refuse ENOSPC", 503)):
            s.fault(point, how)
            b.request("POST", "/hibernate").expect(status)
            assert b.info()["status"] == "running" and b.run("echo up")["stdout"] == "up\n" and not images(b)
        assert memory(b) == "kept" and hibernate(b)["status"] == "hibernated"
        wake(b)
        s.fault("checkpoint-write", "die")
        b.request("POST", "/hibernate").expect(500)
        assert b.wait_status("error")["error"]
        b.request("POST", "/hibernate").expect(400, "has failed")
        assert s.request("GET", "/workers").json()[0]["current"] == 0


@test
def unusable_memory_is_a_cold_boot_from_the_same_disk():
    with Server() as s:
        for damage in ("missing", "damaged", "refused", "dies", "resume"):
            b = s.create(envs={"A": "b"})
            memory(b, "lost")
            b.run("echo kept > file")
            hibernate(b)
            for path in images(b):
                if damage == "missing":
                    os.unlink(path)
                elif damage == "damaged":
                    with open(path, "w") as f:
                        f.write("garbage")
            if damage in ("refused", "dies"):
                s.fault("restore", "refuse EINVAL" if damage == "refused" else "die")
            elif damage == "resume":
                s.fault("resume", "die")
            w = wake(b)
            assert w["coldBoot"] is True and w["message"] and w["status"] == "running", w
            assert memory(b) == "" and b.run("cat file; echo $A")["stdout"] == "kept\nb\n" and not images(b)
            b.request("DELETE").expect(204)
        s.assert_nothing_left()


@test
def a_guest_that_is_slow_to_answer_is_woken_all_the_same():
    with Server("--pool-size", "0") as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        memory(b, "kept")
        hibernate(b)
        s.hold("connect")
        waking = pool.submit(wake, b)
        held = os.path.join(s.state, "fake", "connect.held")
        for _ in range(2):  # the second time, the first attempt has been given up
            s.wait_held("connect")
            os.unlink(held)
        s.release("connect")
        assert "coldBoot" not in waking.result() and memory(b) == "kept"
        assert b.run("echo fine")["stdout"] == "fine\n"


@test
def a_wake_that_fails_for_now_can_be_repeated():
    with Server("--max-sandboxes", "1") as s, ThreadPoolExecutor(4) as pool:
        b = s.create()
        memory(b, "kept")
        hibernate(b)
        s.fault("restore", "refuse ENOMEM")
        b.request("POST", "/wake").expect(503, '"retryable":true')
        assert b.info()["status"] == "hibernated" and len(images(b)) == 2 and not s.vmms()
        other = s.create(memoryMB=512)
        b.request("POST", "/exec/run", {"cmd": "true"}).expect(503, "no room")
        other.request("DELETE").expect(204)
        assert "coldBoot" not in wake(b) and memory(b) == "kept"
        hibernate(b)
        s.fault("restore", "refuse ENOMEM !")
        for a in [pool.submit(b.request, "POST", "/exec/run", {"cmd": "true"}) for _ in range(4)]:
            a.result().expect(503, "Cannot allocate memory")
        s.release("restore")
        wake(b)


@test
def a_sandbox_whose_vm_died_can_be_woken():
    with Server() as s:
        b = s.create()
        b.run("echo kept > file")
        os.kill(b.pid(), signal.SIGKILL)
        b.wait_status("error")
        b.request("POST", "/exec/run", {"cmd": "true"}).expect(502)
        w = wake(b)
        assert w["coldBoot"] and w["status"] == "running" and "error" not in w and b.run("cat file")["stdout"] == "kept\n"
        os.kill(b.pid(), signal.SIGKILL)
        b.wait_status("error")
        s.fault("configure", "refuse EINVAL")
        b.request("POST", "/wake").expect(500)
        assert b.info()["status"] == "error"
        s.kill()
        s.start()
        assert b.info()["status"] == "error" and wake(b)["coldBoot"]
        assert s.request("GET", "/workers").json()[0]["current"] == 1


@test
def work_waits_while_it_hibernates_and_is_not_lost():
    with Server() as s, ThreadPoolExecutor(4) as pool:
        b = s.create()
        s.hold("checkpoint-write")
        h = pool.submit(hibernate, b)
        s.wait_held("checkpoint-write")
        works = [pool.submit(b.run, "echo later"), pool.submit(b.request, "PUT", "/files?path=x", b"1")]
        time.sleep(0.2)
        assert not any(w.done() for w in works)
        s.release("checkpoint-write")
        assert h.result()["status"] == "hibernated"
        assert works[0].result()["stdout"] == "later\n" and works[1].result().status == 204
        assert b.info()["status"] == "running", "it was woken for them"


@test
def a_deletion_beats_everything():
    for point, op in (("checkpoint-write", "hibernate"), ("checkpoint", "hibernate"), ("restore", "wake"), ("reset", "reboot"),
                      ("configure", "power-cycle")):
        with Server() as s, ThreadPoolExecutor(3) as pool:
            b = s.create()
            if op == "wake":
                hibernate(b)
            s.hold(point)
            a = pool.submit(b.request, "POST", "/" + op)
            s.wait_held(point)
            waiting = pool.submit(b.request, "POST", "/exec/run", {"cmd": "true"})
            b.request("DELETE").expect(204)
            assert a.result().status in (404, 410, 500), (op, a.result().status, a.result().body)
            assert waiting.result().status == 410, waiting.result().body
            s.release(point)
            s.assert_nothing_left()
            assert b.info()["status"] == "stopped"


@test
def lifecycle_operations_at_once_take_turns():
    with Server("--pool-size", "2") as s, ThreadPoolExecutor(8) as pool:
        b = s.create()
        memory(b, "kept")
        ops = ["hibernate", "wake", "wake", "hibernate"] * 4
        answers = list(pool.map(lambda op: b.request("POST", "/" + op), ops))
        assert {a.status for a in answers} == {200}, [a.body for a in answers]
        works = [pool.submit(b.run, f"echo {i}") for i in range(8)]
        hibernates = [pool.submit(hibernate, b) for _ in range(3)]
        assert [w.result()["stdout"] for w in works] == [f"{i}\n" for i in range(8)]
        assert all(h.result() for h in hibernates)
        wake(b)
        assert memory(b) == "kept" and len([v for v in s.vmms() if v[1] == b.id]) == 1


# --- commands that outlive their connection ---------------------------------------------------------------

KEEPS = {"FAKE_VMM_KEEPS": "1"}
COUNT = "i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); %s done"


@test
def commands_go_on_after_a_wake_without_a_byte_lost_or_doubled():
    with Server(env=KEEPS) as s, ThreadPoolExecutor(3) as pool:
        b = s.create()
        n = 20000
        expected = "".join(f"{i}\n" for i in range(n))
        fast = b.start(COUNT % (n, ""))
        slow = b.start("echo begin; until [ -e go ]; do sleep 0.05; done; echo end; exit 7")
        direct = pool.submit(b.run, "echo begin; touch up; until [ -e go ]; do sleep 0.05; done; echo end")
        inline = pool.submit(b.run, "until [ -e go ]; do sleep 0.05; done; echo inline", route="run-async?hold=20000")
        wait_for("the command", lambda: os.path.exists(b.home + "/up"))
        for _ in range(3):
            hibernate(b)
            assert not s.vmms() and not direct.done()
            wake(b)
        hibernate(b)
        open(b.home + "/go", "w").close()
        assert b.result(slow)["exitCode"] == 7, "asking for a result wakes"
        assert b.result(slow)["stdout"] == "begin\nend\n"
        assert direct.result() == {"exitCode": 0, "stdout": "begin\nend\n", "stderr": ""}
        assert inline.result()["stdout"] == "inline\n"
        wait_for("the end", lambda: not b.result(fast)["running"])
        assert b.result(fast)["stdout"] == expected
        assert s.log().count("woken after") == 4


@test
def signals_reach_commands_in_a_hibernated_sandbox():
    with Server(env=KEEPS) as s:
        b = s.create()
        id = b.start("sleep 1000")
        hibernate(b)
        b.request("POST", f"/exec/{id}/kill", {"signal": 15}).expect(204)
        end = b.result(id)
        assert end["running"] is False and end["exitCode"] == 143 and b.info()["status"] == "running", end


@test
def commands_that_a_guest_does_not_know_any_more_have_ended():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        done, id = b.start("echo done"), b.start("echo begin; touch up; sleep 1000")
        direct = pool.submit(b.run, "echo direct; touch up2; sleep 1000")
        wait_for("the commands", lambda: os.path.exists(b.home + "/up") and os.path.exists(b.home + "/up2") and not b.result(done)["running"])
        hibernate(b)
        wake(b)
        end = b.result(id)
        assert end["running"] is False and end["exitCode"] == -1 and end["stdout"] == "begin\n" and "Process lost" in end["stderr"], end
        assert direct.result()["exitCode"] == -1 and direct.result()["stdout"] == "direct\n"
        assert b.result(done)["stdout"] == "done\n"
        assert {x["sessionID"]: x["running"] for x in b.request("GET", "/exec").json()} == {done: False, id: False}


# --- restarts of the daemon -----------------------------------------------------------------------------

@test
def a_killed_daemon_leaves_hibernated_or_running_sandboxes():
    for point, op, statuses in (("checkpoint", "hibernate", {"running"}), ("checkpoint-write", "hibernate", {"running"}),
                                ("restore", "wake", {"hibernated"}), ("resume", "wake", {"running"})):
        with Server() as s, ThreadPoolExecutor(1) as pool:
            b = s.create()
            memory(b, "kept")
            b.run("echo kept > file")
            if op == "wake":
                hibernate(b)
            s.hold(point)
            a = pool.submit(lambda: b.request("POST", "/" + op))
            s.wait_held(point)
            s.kill()
            a.exception(20)
            s.release(point)
            s.start()
            assert b.info()["status"] in statuses, (point, b.info())
            assert b.run("cat file")["stdout"] == "kept\n" and memory(b) == "kept", point
            assert not images(b) and len(s.vmms()) == 1
            assert hibernate(b)["status"] == "hibernated" and wake(b)["status"] == "running" and memory(b) == "kept"


@test
def hibernated_sandboxes_outlive_the_daemon():
    with Server() as s:
        b, gone = s.create(), s.create()
        memory(b, "kept")
        hibernate(b)
        hibernate(gone)
        s.kill()
        s.start()
        assert b.info()["status"] == "hibernated" and not s.vmms() and len(images(b)) == 2
        assert "coldBoot" not in wake(b) and memory(b) == "kept"
        gone.request("DELETE").expect(204)
        assert s.folders() == [b.id]
        s.kill()
        s.start()
        assert memory(b) == "kept" and b.run("echo up")["stdout"] == "up\n", "a restored VM is taken over like any other"


# --- reboot and power cycle -------------------------------------------------------------------------------

@test
def a_reboot_keeps_process_and_disk_and_loses_memory():
    with Server() as s:
        b = s.create()
        pid = b.pid()
        memory(b, "lost")
        b.run("echo kept > file")
        id = b.start("sleep 1000")
        b.request("POST", "/reboot").expect(204)
        assert b.pid() == pid and memory(b) == "" and b.run("cat file")["stdout"] == "kept\n"
        end = b.result(id)
        assert end["running"] is False and end["exitCode"] == -1 and "Process lost" in end["stderr"], end
        s.fault("reset", "refuse")
        b.request("POST", "/reboot").expect(500)
        assert b.run("echo up")["stdout"] == "up\n"


@test
def a_power_cycle_is_a_new_process_on_the_same_disk():
    with Server() as s:
        b = s.create()
        pid = b.pid()
        memory(b, "lost")
        b.run("echo kept > file")
        id = b.start("sleep 1000")
        b.request("POST", "/power-cycle").expect(204)
        assert b.pid() != pid and memory(b) == "" and b.run("cat file")["stdout"] == "kept\n"
        assert b.result(id)["exitCode"] == -1 and b.info()["status"] == "running"
        assert s.request("GET", "/workers").json()[0]["current"] == 1
        s.fault("configure", "refuse EINVAL")
        b.request("POST", "/power-cycle").expect(500)
        b.wait_status("error")
        assert s.request("GET", "/workers").json()[0]["current"] == 0
        assert wake(b)["coldBoot"] and b.run("cat file")["stdout"] == "kept\n"
