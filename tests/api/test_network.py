# SPDX-License-Identifier: Apache-2.0
"""Networks of sandboxes: dormouse-net behind the stand-in for the VMM, which speaks frames. Nothing leaves the host."""
import json
import os
import signal

from frames import ACK, RST, Wire
from harness import Sandbox, Server, test, wait_for

PRIVATE = "192.168.77.1"


def nets(server):
    """(pid, sandbox id) of every dormouse-net on this state directory."""
    return {(pid, a.split("/")[-2]) for pid, a in server.arguments() if a.endswith("/net.sock")}


def want(sandbox):
    sandbox.event(event="net_wanted")
    wait_for("a network", lambda: sandbox.control("info")["net"]["attached"])
    return Wire(sandbox)


def refused(wire, dst=PRIVATE, port=80):
    return wire.knock(dst, port) == RST | ACK


@test
def a_network_comes_with_the_first_frame_and_goes_with_the_machine():
    with Server() as s:
        sb = s.create()
        assert not nets(s)
        wire = want(sb)
        assert refused(wire) and refused(wire, "127.0.0.1") and refused(wire, "10.0.2.2")
        assert len(nets(s)) == 1
        sb.request("POST", "/hibernate").expect(200)
        wait_for("it to end with the machine", lambda: not nets(s))
        sb.request("POST", "/wake", {}).expect(200)
        assert not nets(s)
        assert refused(want(sb))
        sb.request("DELETE").expect(204)
        wait_for("it to end with the sandbox", lambda: not nets(s))
        s.assert_nothing_left()


@test
def a_network_that_dies_or_cannot_start_is_started_again():
    with Server() as s:
        sb = s.create()
        wire = want(sb)
        [(pid, _)] = nets(s)
        os.kill(pid, signal.SIGKILL)
        assert wire.knock(PRIVATE, 80) is None, "the end"
        sb.control("net_detach")
        assert refused(want(sb))
        wait_for("one, not two", lambda: len(nets(s)) == 1 and (pid, sb.id) not in nets(s))
        sb.control("net_detach")
        s.fault("net_attach", "refuse EIO")
        sb.event(event="net_wanted")
        wait_for("the refusal", lambda: "no network" in s.log())
        assert refused(want(sb))


@test
def the_policy_of_a_running_sandbox_changes_and_survives_the_server():
    with Server() as s:
        sb = s.create(networkEnabled=False)
        assert sb.info()["networkEnabled"] is False
        wire = want(sb)
        pids = nets(s)
        # A public address, which nothing is sent to: the policy is closed.
        assert refused(wire, "1.1.1.1", 443)
        sb.request("PUT", "/network", {}).expect(400, "networkEnabled")
        sb.request("PUT", "/network", {"networkEnabled": "yes"}).expect(400)
        s.request("PUT", "/sandboxes/sb-00000000/network", {}).expect(404)
        assert sb.request("PUT", "/network", {"networkEnabled": True}).expect(200).json() == {
            "sandboxID": sb.id, "networkEnabled": True}
        assert sb.info()["networkEnabled"] is True
        assert refused(wire), "private ones stay closed"
        s.kill()
        s.start()
        assert sb.info()["networkEnabled"] is True
        sb.request("PUT", "/network", {"networkEnabled": False}).expect(200)
        assert refused(wire, "1.1.1.1", 443)
        assert nets(s) == pids, "the one of before goes on"
        assert '"sandboxId"' in wire.get("/v1/status")[1], "and speaks with the new server"
        sb.request("POST", "/hibernate").expect(200)
        sb.request("PUT", "/network", {"networkEnabled": True}).expect(200)
        assert sb.info()["networkEnabled"] is True and sb.info()["status"] == "hibernated"
        wait_for("it to end", lambda: not nets(s))


@test
def a_network_that_is_wanted_while_there_is_no_server_comes_with_the_next():
    with Server() as s:
        sb = s.create()
        s.kill()
        sb.event(event="net_wanted")
        s.start()
        wait_for("a network", lambda: sb.control("info")["net"]["attached"])
        assert refused(Wire(sb))


@test
def the_metadata_service_answers():
    with Server("--region", "here") as s:
        sb = s.create(templateID="base", memoryMB=512, cpuCount=1, networkEnabled=False)
        wire = want(sb)
        head, body = wire.get("/v1/status")
        assert head.startswith("HTTP/1.1 200 ") and json.loads(body)["sandboxId"] == sb.id, (head, body)
        assert json.loads(body)["uptime"] >= 0
        assert json.loads(wire.get("/v1/metadata")[1]) == {"region": "here", "template": "base"}
        limits = json.loads(wire.get("/v1/limits")[1])
        assert limits["memLimit"] == 512 << 20 and limits["cpuPercent"] == 100, limits
        assert limits["memUsage"] > 0 and limits["netOutput"] > 0, limits
        assert "/v1/limits" in wire.get("/")[1]
        assert wire.get("/v1/nothing")[0].startswith("HTTP/1.1 404 ")
        post = "POST {} HTTP/1.1\r\nContent-Length: 17\r\n\r\n"
        assert json.loads(wire.get("/v1/scale", post, '{"memoryMB":2048}')[1]) == {
            "ok": True, "memoryMB": 2048, "cpuPercent": 100}
        assert sb.info()["memoryMB"] == 2048
        sb.request("PUT", "/scaling-lock", {"locked": True}).expect(200)
        assert wire.get("/v1/scale", post, '{"memoryMB":1024}')[0].startswith("HTTP/1.1 403 ")
        s.kill()
        assert wire.get("/v1/status")[0].startswith("HTTP/1.1 503 "), "no server"


@test
def limits_hold_for_every_machine_that_gets_a_network():
    options = {"--net-in-bytes": 12500000, "--net-out-bytes": 1000000, "--net-in-frames": 5000, "--net-out-frames": 700}
    limits = {"in": {"bytes_per_s": 12500000, "frames_per_s": 5000}, "out": {"bytes_per_s": 1000000, "frames_per_s": 700}}
    with Server(*(str(word) for pair in options.items() for word in pair)) as s:
        sb = s.create()

        def limits_of(sandbox):
            want(sandbox)
            return sandbox.control("info")["net"]["limits"]

        assert limits_of(sb) == limits
        checkpoint = sb.request("POST", "/checkpoints", {"name": "c"}).expect(201).json()["id"]
        fork = s.request("POST", f"/sandboxes/from-checkpoint/{checkpoint}", {}).expect(201).json()["sandboxID"]
        assert limits_of(Sandbox(s, fork)) == limits
        sb.request("POST", "/hibernate").expect(200)
        sb.request("POST", "/wake", {}).expect(200)
        assert limits_of(sb) == limits, "another process, which was told nothing"
    bad = Server("--net-in-bytes", "-1", start=False)
    try:
        bad.start()
        raise RuntimeError("it started")
    except AssertionError as e:
        assert "net-in-bytes" in str(e), e
    finally:
        bad.close()


@test
def ranges_that_the_server_opens_and_closes_are_checked():
    with Server("--net-allow", "10.0.0.0/8", "--net-deny", "10.1.0.0/16") as s:
        assert refused(want(s.create()), "10.1.2.3", 80)
    s = Server("--net-deny", "10.0.0.0/33", start=False)
    try:
        s.start()
        raise AssertionError("it started")
    except AssertionError as e:
        assert "10.0.0.0/33" in str(e), e
    finally:
        s.close()
