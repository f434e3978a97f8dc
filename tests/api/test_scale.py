# SPDX-License-Identifier: Apache-2.0
"""Scaling (api.md 12)."""
import os

from harness import Sandbox, Server, test, wait_for

# In place of the guest's /proc/meminfo: a file in its home.
GUEST = {"DORMOUSE_GUEST_MEMINFO": "meminfo"}


def create(s, used_mib=200, **fields):
    b = s.create(memoryMB=1024, **fields)
    use(b, used_mib)
    return b


def use(b, used_mib, total_mib=1000):
    b.used = used_mib
    text = f"MemTotal: {total_mib << 10} kB\nMemFree: 1 kB\nMemAvailable: {total_mib - used_mib << 10} kB\n"
    b.request("PUT", "/files?path=meminfo", text.encode()).expect(204)


def scale(b, mib):
    """What the guest sees is always 24 MB less than what it has."""
    use(b, b.used, size(b) - 24)
    return b.request("POST", "/scale", {"memoryMB": mib})


def size(b):
    return b.control("info")["memory"]["now_mib"]


@test
def memory_is_scaled_up_and_down_and_outlives_the_daemon():
    with Server(env=GUEST) as s:
        b = create(s)
        up = scale(b, 2048).expect(200).json()
        assert up == {"ok": True, "sandboxID": b.id, "memoryMB": 2048, "cpuPercent": 100, "workerID": "w-local-1",
                      "autoscaleDisabled": False}
        assert size(b) == 2048 and b.info()["memoryMB"] == 2048
        s.kill()
        s.start()
        assert b.info()["memoryMB"] == 2048 and size(b) == 2048
        assert b.request("GET", "/limits").expect(200).json()["memoryMB"] == 2048
        assert scale(b, 511).expect(200).json()["memoryMB"] == 512
        assert size(b) == 512 and s.request("GET", "/api/top").json()[0]["memoryMB"] == 512
        scale(b, 1024).expect(200)
        assert size(b) == 1024 and b.info()["memoryMB"] == 1024


@test
def a_size_is_kept_by_hibernation_boots_checkpoints_and_forks():
    with Server(env=GUEST) as s:
        b = create(s)
        scale(b, 2048).expect(200)
        cp = b.request("POST", "/checkpoints", {"name": "large"}).expect(201).json()
        wait_for("ready", lambda: b.request("GET", "/checkpoints").json()[0]["status"] == "ready")
        assert cp["sandboxConfig"]["memoryMB"] == 2048
        b.request("POST", "/hibernate").expect(200)
        assert b.info()["memoryMB"] == 2048
        b.request("POST", "/wake").expect(200)
        assert size(b) == 2048
        # A boot in another process, and one of a machine that is given it again.
        b.request("POST", "/power-cycle").expect(204)
        assert size(b) == 2048
        scale(b, 1536).expect(200)
        b.request("POST", f"/checkpoints/{cp['id']}/restore").expect(200)
        assert size(b) == 2048 and b.info()["memoryMB"] == 2048
        fork = s.request("POST", f"/api/sandboxes/from-checkpoint/{cp['id']}", {}).expect(201).json()
        assert fork["memoryMB"] == 2048 and "coldBoot" not in fork, fork
        with_more = s.request("POST", f"/api/sandboxes/from-checkpoint/{cp['id']}", {"memoryMB": 3072}).expect(201).json()
        assert with_more["memoryMB"] == 3072 and "coldBoot" not in with_more, with_more
        grown = Sandbox(s, with_more["sandboxID"])
        assert size(grown) == 3072 and grown.control("info")["restored"]
        grown.request("POST", "/power-cycle").expect(204)
        assert size(grown) == 3072 and grown.info()["memoryMB"] == 3072
        s.request("POST", f"/api/sandboxes/from-checkpoint/{cp['id']}", {"memoryMB": 1 << 20}).expect(400, "memoryMB")
        # What cannot grow, an older machine perhaps, boots with it.
        s.fault("memory", "refuse ENOTSUP")
        cold = s.request("POST", f"/api/sandboxes/from-checkpoint/{cp['id']}", {"memoryMB": 3073}).expect(201).json()
        assert cold["memoryMB"] == 3074 and cold["coldBoot"] is True and "cannot be scaled" in cold["message"], cold
        assert size(Sandbox(s, cold["sandboxID"])) == 3074
        # A hibernated one is woken.
        use(b, 200, 2024)
        b.request("POST", "/hibernate").expect(200)
        b.request("POST", "/scale", {"memoryMB": 1024}).expect(200)
        assert size(b) == 1024 and b.info()["status"] == "running"


@test
def what_cannot_be_is_refused_and_changes_nothing():
    with Server("--max-memory", "4096", env=GUEST) as s:
        b = create(s, used_mib=600)
        for body in ({}, {"memoryMB": 0}, {"memoryMB": -1}, {"memoryMB": "x"}, {"memoryMB": 4098}, {"memoryMB": 63}, b"{"):
            b.request("POST", "/scale", body).expect(400, "error")
            b.request("PUT", "/limits", body).expect(400, "error")
            s.request("POST", "/api/sandboxes/sb-00000000/scale", body).expect(400)
        b.request("PUT", "/limits", {"memoryMB": 1024, "cpuPercent": 401}).expect(400, "cpuPercent")
        s.request("POST", "/api/sandboxes/sb-00000000/scale", {"memoryMB": 1024}).expect(404)
        scale(b, 512).expect(409, '"code":"oom_floor"', "uses 600 MB")
        use(b, 100)
        s.fault("memory", "refuse EINVAL")
        scale(b, 2048).expect(400, "cannot be scaled")
        assert b.info()["memoryMB"] == 1024 and size(b) == 1024
        b.request("DELETE").expect(204)
        b.request("POST", "/scale", {"memoryMB": 2048}).expect(410)


@test
def what_the_guest_does_not_unplug_goes_into_the_balloon():
    with Server(env=GUEST) as s:
        b = create(s)
        scale(b, 2048).expect(200)
        os.makedirs(f"{s.state}/fake", exist_ok=True)
        open(f"{s.state}/fake/stuck", "w").close()
        assert "pending" not in scale(b, 1024).expect(200).json()
        assert size(b) == 1024


@test
def a_lock_keeps_the_size_and_switches_autoscaling_off():
    with Server(env=GUEST) as s:
        b = create(s)

        def put(what, **body):
            return b.request("PUT", "/" + what, body)

        off = {"sandboxID": b.id, "enabled": False, "minMemoryMB": 0, "maxMemoryMB": 0}
        assert b.request("GET", "/autoscale").expect(200).json() == off
        assert b.request("GET", "/scaling-lock").expect(200).json() == {"sandboxID": b.id, "locked": False}
        on = put("autoscale", enabled=True, minMemoryMB=1024, maxMemoryMB=4096).expect(200).json()
        assert on == {"sandboxID": b.id, "enabled": True, "minMemoryMB": 1024, "maxMemoryMB": 4096}
        s.kill()
        s.start()
        assert b.request("GET", "/autoscale").json() == on
        assert scale(b, 2048).expect(200).json()["autoscaleDisabled"]
        assert b.request("GET", "/autoscale").json() == off
        put("autoscale", enabled=True, minMemoryMB=1024, maxMemoryMB=4096).expect(200)
        assert put("scaling-lock", locked=True).expect(200).json() == {"sandboxID": b.id, "locked": True}
        assert b.request("GET", "/autoscale").json() == off
        scale(b, 1024).expect(403, '"code":"scaling_locked"')
        b.request("PUT", "/limits", {"memoryMB": 1024}).expect(403, '"code":"scaling_locked"')
        put("autoscale", enabled=True, minMemoryMB=1024, maxMemoryMB=4096).expect(403, '"code":"scaling_locked"')
        put("autoscale", enabled=False, minMemoryMB=-7).expect(200)
        assert size(b) == 2048
        put("scaling-lock", locked=False).expect(200)
        assert b.request("GET", "/autoscale").json() == off
        scale(b, 1024).expect(200)
        for bad in ({}, {"enabled": 1}, {"enabled": True}, {"enabled": True, "minMemoryMB": 2048, "maxMemoryMB": 1024},
                    {"enabled": True, "minMemoryMB": 1024, "maxMemoryMB": 1 << 30}):
            b.request("PUT", "/autoscale", bad).expect(400)
        for bad in ({}, {"locked": 1}):
            b.request("PUT", "/scaling-lock", bad).expect(400)
        for what in "autoscale", "scaling-lock", "limits":
            s.request("GET", f"/api/sandboxes/sb-00000000/{what}").expect(404)


@test
def a_size_beyond_the_bounds_is_brought_within_them():
    with Server(env=GUEST) as s:
        b = create(s)
        b.request("PUT", "/autoscale", {"enabled": True, "minMemoryMB": 2048, "maxMemoryMB": 4096}).expect(200)
        wait_for("2048 MB", lambda: b.info()["memoryMB"] == 2048)
        assert b.request("GET", "/autoscale").json()["enabled"], "that is no scaling by hand"
        wait_for("in the guest", lambda: size(b) == 2048)


@test
def cpu_is_limited_by_a_cgroup_where_there_is_one():
    with Server("--cgroup", "/nonexistent/dormouse", env=GUEST) as s:
        b = create(s, cpuCount=2)
        done = b.request("PUT", "/limits", {"memoryMB": 2048, "cpuPercent": 50}).expect(200).json()
        assert (done["memoryMB"], done["cpuPercent"]) == (2048, 200), done
        assert "cgroup" in done["degraded"], done
        whole = b.request("PUT", "/limits", {"memoryMB": 2048, "cpuPercent": 200}).expect(200).json()
        assert "degraded" not in whole
    with Server(env=GUEST) as s:
        # What stands for a cgroup, whose files are there when it is.
        root = f"{s.folder}/cgroup"
        s.options += ["--cgroup", root]
        s.kill()
        s.start()
        b = create(s)
        os.makedirs(f"{root}/{b.id}")
        for name in "cpu.max", "cgroup.procs":
            open(f"{root}/{b.id}/{name}", "w").close()
        done = b.request("PUT", "/limits", {"memoryMB": 1024, "cpuPercent": 50}).expect(200).json()
        assert done["cpuPercent"] == 50 and "degraded" not in done, done
        with open(f"{root}/{b.id}/cpu.max") as f:
            assert f.read() == "50000 100000"
        with open(f"{root}/{b.id}/cgroup.procs") as f:
            assert int(f.read()) == b.pid()
        # Another process gets it, too.
        b.request("POST", "/power-cycle").expect(204)
        with open(f"{root}/{b.id}/cgroup.procs") as f:
            assert int(f.read()) == b.pid()
        assert b.request("GET", "/limits").json()["cpuPercent"] == 50


@test
def memory_in_use_is_told():
    with Server(env=GUEST) as s:
        b = create(s, used_mib=300)
        told = b.request("GET", "/limits").expect(200).json()
        assert told["memory"] == {"totalMB": 1000, "usedMB": 300, "residentMB": 0, "balloonedMB": 0, "reportedFreeMB": 0}
        b.request("POST", "/hibernate").expect(200)
        assert "memory" not in b.request("GET", "/limits").expect(200).json()
        assert b.info()["status"] == "hibernated", "asking is no use"
