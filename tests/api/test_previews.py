# SPDX-License-Identifier: Apache-2.0
"""Preview URLs: the API (api.md 11)."""
import re
import signal
import sqlite3

from harness import Server, test, wait_for

NOBODY = "sb-00000000"
WORD = "correct-horse-battery"


@test
def a_preview_is_made_once_per_port():
    with Server() as s:
        box = s.create()
        first = box.request("POST", "/preview", {"port": 3000, "authConfig": {"a": 1}}).expect(201).json()
        assert first["hostname"] == f"{box.id}-p3000.localhost:{s.port}", first
        assert first["sandboxId"] == box.id and first["port"] == 3000 and first["authConfig"] == {"a": 1}
        assert first["sslStatus"] == "active" and "customHostname" not in first
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first["id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["createdAt"])
        assert box.request("POST", "/preview", {"port": 3000, "authConfig": {}}).expect(200).json() == first
        second = box.request("POST", "/preview", {"port": 80, "domain": "app.example.org"}).expect(201).json()
        assert second["customHostname"] == "app.example.org" and second["authConfig"] == {}
        assert box.request("GET", "/preview").expect(200).json() == [second, first]
        box.request("DELETE", "/preview/3000").expect(204)
        box.request("DELETE", "/preview/3000").expect(404, "preview URL not found")
        assert box.request("GET", "/preview").expect(200).json() == [second]


@test
def impossible_previews_are_refused():
    with Server() as s:
        box = s.create()
        for body in ({}, {"port": 0}, {"port": 65536}, {"port": "80"}, {"port": None}):
            box.request("POST", "/preview", body).expect(400, "port")
            # The body is looked at first.
            s.request("POST", f"/sandboxes/{NOBODY}/preview", body).expect(400, "port")
        box.request("POST", "/preview", {"port": 80, "authConfig": 1}).expect(400, "authConfig")
        box.request("POST", "/preview", {"port": 80, "domain": "x" * 254}).expect(400, "domain")
        for port in ("0", "65536", "x", "80x", "-1"):
            box.request("DELETE", "/preview/" + port).expect(400, "port")
        s.request("POST", f"/sandboxes/{NOBODY}/preview", {"port": 80}).expect(400)
        s.request("GET", f"/sandboxes/{NOBODY}/preview").expect(404)
        s.request("DELETE", f"/sandboxes/{NOBODY}/preview/80").expect(404)
        s.request("POST", f"/sandboxes/{NOBODY}/preview/rotate").expect(404)
        box.request("POST", "/preview", {"port": 80}).expect(201)
        box.request("DELETE").expect(204)
        box.request("POST", "/preview", {"port": 81}).expect(400)
        box.request("POST", "/preview/rotate").expect(410)
        assert box.request("GET", "/preview").expect(200).json() == []


@test
def previews_survive_hibernation_and_a_restart():
    with Server() as s:
        box = s.create()
        one = box.request("POST", "/preview", {"port": 80}).expect(201).json()
        box.request("POST", "/hibernate").expect(200)
        two = box.request("POST", "/preview", {"port": 81}).expect(201).json()
        assert box.info()["status"] == "hibernated"
        s.kill(signal.SIGKILL)
        s.start()
        ids = [p["id"] for p in box.request("GET", "/preview").expect(200).json()]
        assert ids == [one["id"], two["id"]]
        box.request("POST", "/wake").expect(200)
        assert len(box.request("GET", "/preview").expect(200).json()) == 2


@test
def the_domain_is_the_configured_one():
    with Server("--sandbox-domain", "boxes.example.org") as s:
        box = s.create()
        assert box.info()["sandboxDomain"] == "boxes.example.org"
        made = box.request("POST", "/preview", {"port": 80}).expect(201).json()
        assert made["hostname"] == f"{box.id}-p80.boxes.example.org"
    with Server() as s:
        assert s.create().info()["sandboxDomain"] == f"localhost:{s.port}"


def stored_hash(s, id):
    with sqlite3.connect(s.state + "/dormouse.db") as db:
        return db.execute("SELECT preview_hash FROM sandboxes WHERE id=?", (id,)).fetchone()[0]


@test
def a_token_is_told_once_and_kept_as_a_hash():
    with Server() as s:
        body = s.request("POST", "/sandboxes", {"previewAuth": {"scheme": "bearer", "token": "auto"}}).expect(201).json()
        token = body["previewAuthToken"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token), token
        info = s.request("GET", "/sandboxes/" + body["sandboxID"])
        assert b"previewAuthToken" not in info.expect(200).body
        assert re.fullmatch("[0-9a-f]{64}", stored_hash(s, body["sandboxID"]))
        with open(s.state + "/dormouse.db", "rb") as f:
            assert token.encode() not in f.read()
        assert token not in s.log()
        own = s.request("POST", "/sandboxes", {"previewAuth": {"token": WORD}}).expect(201).json()
        assert own["previewAuthToken"] == WORD
        rotated = s.request("POST", f"/sandboxes/{own['sandboxID']}/preview/rotate").expect(200).json()
        assert rotated["scheme"] == "bearer" and len(rotated["previewAuthToken"]) == 43
        plain = s.create()
        assert stored_hash(s, plain.id) == ""
        before = stored_hash(s, own["sandboxID"])
        s.kill(signal.SIGKILL)
        s.start()
        assert stored_hash(s, own["sandboxID"]) == before


@test
def bad_preview_auth_is_refused_and_makes_nothing():
    with Server() as s:
        for auth in ({"scheme": "basic"}, {"scheme": 1}, {"token": "x" * 15}, {"token": "x" * 513}, {"token": 1}, [], "auto",
                     {"token": "blank in the middle"}, {"token": "newline-in-the-end\n"}, {"token": "not-ascii-\u00e9-at-all"}):
            s.request("POST", "/sandboxes", {"previewAuth": auth}).expect(400, "previewAuth")
        assert s.folders() == []


@test
def forks_do_not_inherit_the_token():
    with Server() as s:
        body = s.request("POST", "/sandboxes", {"previewAuth": {"scheme": "bearer"}}).expect(201).json()
        parent = body["sandboxID"]
        s.request("POST", f"/sandboxes/{parent}/preview", {"port": 80}).expect(201)
        fork = s.request("POST", f"/sandboxes/{parent}/fork").expect(201).json()
        assert stored_hash(s, fork["sandboxID"]) == "" and "previewAuthToken" not in fork
        assert s.request("GET", f"/sandboxes/{fork['sandboxID']}/preview").expect(200).json() == []
        own = s.request("POST", f"/sandboxes/{parent}/fork", {"previewAuth": {"token": WORD}}).expect(201).json()
        assert own["previewAuthToken"] == WORD and stored_hash(s, own["sandboxID"])
        # A rollback is of the machine, not of who may look at it.
        before = stored_hash(s, parent)
        cp = s.request("POST", f"/sandboxes/{parent}/checkpoints", {"name": "a"}).expect(201).json()["id"]
        points = lambda: s.request("GET", f"/sandboxes/{parent}/checkpoints").json()  # noqa: E731
        wait_for("the checkpoints", lambda: all(c["status"] == "ready" for c in points()))
        s.request("POST", f"/sandboxes/{parent}/preview/rotate").expect(200)
        after = stored_hash(s, parent)
        s.request("POST", f"/sandboxes/{parent}/checkpoints/{cp}/restore").expect(200)
        assert before != after == stored_hash(s, parent)
