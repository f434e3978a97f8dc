# SPDX-License-Identifier: Apache-2.0
"""GET /metrics and the log."""
import json
import os
import re

from harness import KEY, Server, test, wait_for
from test_proxy import Site

SAMPLE = re.compile(r'(dormouse_\w+)(\{(?:\w+="[^"\\\n]*",?)*\})? (\d+(?:\.\d+)?)')


def metrics(s):
    """{name and labels: value}, after a look at the form."""
    answer = s.request("GET", "/metrics").expect(200)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    kinds, values = {}, {}
    for line in text.splitlines():
        if line.startswith("#"):
            _, what, name, rest = line.split(" ", 3)
            kinds.setdefault(name, []).append(what)
            continue
        name, labels, value = SAMPLE.fullmatch(line).groups()
        base = re.sub("_(bucket|sum|count)$", "", name)
        assert kinds.get(name, kinds.get(base)) == ["HELP", "TYPE"], line
        key = name + (labels or "")
        assert key not in values, key
        values[key] = float(value)
    return values


def http(values, method, route, status):
    return values.get(f'dormouse_http_requests_total{{method="{method}",route="{route}",status="{status}"}}', 0)


@test
def metrics_count_what_was_done():
    with Server("--pool-size", "2") as s:
        b, gone = s.create(), s.create()
        for i in range(3):
            b.run("true")
        b.request("GET", "/files?path=missing").expect(500)
        s.request("GET", "/nothing").expect(404)
        s.request("GET", "/workers", tcp=True).expect(401)
        b.request("POST", "/hibernate").expect(200)
        b.request("POST", "/wake").expect(200)
        b.request("POST", "/hibernate").expect(200)
        s.fault("restore", "refuse ENOMEM")
        b.request("POST", "/wake").expect(503)
        b.request("POST", "/fork").expect(201)
        gone.request("DELETE").expect(204)
        # A request counts when it has ended, which its client may know before the server.
        m = wait_for("the last request to be counted", lambda: next((m for m in [metrics(s)] if http(m, "DELETE", "/sandboxes/:id", 204)), None))
        assert http(m, "POST", "/sandboxes", 201) == 2 and http(m, "POST", "/sandboxes/:id/exec/run", 200) == 3
        assert http(m, "GET", "/sandboxes/:id/files", 500) == 1 and http(m, "", "", 404) == 1 and http(m, "GET", "/workers", 401) == 1
        run = 'method="POST",route="/sandboxes/:id/exec/run"'
        assert m[f"dormouse_http_request_duration_seconds_count{{{run}}}"] == 3
        buckets = [v for k, v in m.items() if k.startswith(f"dormouse_http_request_duration_seconds_bucket{{{run},")]
        assert buckets == sorted(buckets) and buckets[-1] == 3 and len(buckets) == 16
        assert 0 < m[f"dormouse_http_request_duration_seconds_sum{{{run}}}"] < 60
        done = {op: m.get(f'dormouse_sandbox_operation_duration_seconds_count{{operation="{op}"}}', 0)
                for op in ("create", "fork", "hibernate", "wake", "checkpoint", "restore")}
        assert done == {"create": 2, "fork": 1, "hibernate": 2, "wake": 2, "checkpoint": 1, "restore": 0}, done
        assert m['dormouse_sandbox_operation_failures_total{operation="wake"}'] == 1
        assert {st: m[f'dormouse_sandboxes{{status="{st}"}}'] for st in ("running", "hibernated", "stopped", "error")} == {
            "running": 2, "hibernated": 0, "stopped": 0, "error": 0}
        assert m["dormouse_pool_size"] == 2 and m["dormouse_sandboxes_max"] == 1000 and m["dormouse_http_requests_in_progress"] >= 1
        assert [k for k in m if k.startswith("dormouse_build_info{version=")]
        wait_for("the pool", lambda: metrics(s)["dormouse_pool_shells"] == 2)


@test
def metrics_show_connections_and_commands_and_need_a_key():
    with Server() as s:
        b = s.create()
        before = metrics(s)
        held = [s.connect(tcp=True) for _ in range(3)]
        for c in held:
            s.request("GET", "/healthz", connection=c).expect(200)
        b.start("sleep 1000")
        m = metrics(s)
        assert m["dormouse_http_connections"] >= before["dormouse_http_connections"] + 2, (before, m)
        assert m["dormouse_http_connections"] >= 4 and m["dormouse_commands_in_background"] == 1
        for c in held:
            c.close()
        wait_for("the connections to end", lambda: metrics(s)["dormouse_http_connections"] <= 1)
        s.request("GET", "/metrics", tcp=True).expect(401)
        s.request("GET", "/metrics?api_key=" + KEY, tcp=True).expect(200)


@test
def the_log_can_be_json_with_sandbox_ids():
    with Server("--log-format", "json") as s:
        b = s.create()
        b.request("POST", "/hibernate").expect(200)
        b.run('printf "quote\\" \\\\ \\n"')
        lines = [json.loads(line) for line in s.log().splitlines()]
        assert {"time", "level", "name", "message"} <= set(lines[0]) and lines[0]["name"] == "dormoused"
        own = [line["message"] for line in lines if line.get("sandbox") == b.id]
        assert any("running after" in m for m in own) and any("hibernated" in m for m in own) and any("woken" in m for m in own), own
        assert "sandbox" not in lines[0]


@test
def top_shows_what_running_sandboxes_take():
    with Server() as s:
        b, asleep = s.create(alias="busy", timeout=77), s.create()
        asleep.request("POST", "/hibernate").expect(200)
        before, = s.request("GET", "/top").expect(200).json()
        assert before["sandboxID"] == b.id and before["alias"] == "busy" and before["timeout"] == 77 and before["memoryMB"] == 1024, before
        assert before["residentBytes"] > 1 << 20 and before["cpuMs"] >= 0
        b.run("true")
        after, = s.request("GET", "/top").json()
        assert after["lastUsedAt"] > before["lastUsedAt"] and after["cpuMs"] >= before["cpuMs"]
        with open(f"/proc/{b.pid()}/stat") as f:
            ticks = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        assert before["cpuMs"] <= ticks * 1000 / os.sysconf("SC_CLK_TCK")
        s.request("GET", "/top", tcp=True).expect(401)


@test
def metrics_count_what_previews_move():
    with Server() as s:
        site = Site(s.create())
        body = b"x" * 300_000
        assert site.request("POST", "/echo", body).expect(200).body
        m = wait_for("its connection to end", lambda: next((m for m in [metrics(s)] if not m["dormouse_preview_connections"]), None))
        assert m["dormouse_preview_connections_total"] == 1 and m["dormouse_preview_connections_refused_total"] == 0
        assert len(body) < m['dormouse_preview_bytes_total{direction="up"}'] < len(body) + 2000
        assert 0 < m['dormouse_preview_bytes_total{direction="down"}'] < len(body) + 2000
