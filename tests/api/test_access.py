# SPDX-License-Identifier: Apache-2.0
"""Who gets where: tokens of sandboxes (api.md 2.3, 19.2) and signed URLs (5.4)."""
import os
import re
import time
from urllib.parse import parse_qs, quote, urlsplit

from harness import KEY, Server, test

CREDENTIALS = {
    "bearer": lambda t: ({"Authorization": "Bearer " + t}, ""), "api key header": lambda t: ({"X-API-Key": t}, ""),
    "api_key=": lambda t: ({}, "api_key=" + quote(t)), "token=": lambda t: ({}, "token=" + quote(t)),
    "both": lambda t: ({"X-API-Key": t}, "api_key=" + quote(t)),
}


def over_tcp(s, method="POST", path="/api/sandboxes", body=None, **headers):
    return s.request(method, path, body, headers={"X-API-Key": KEY, **{k.replace("_", "-"): v for k, v in headers.items()}}, tcp=True)


def with_token(s, how, token, method, path, body=None):
    headers, query = CREDENTIALS[how](token)
    return s.request(method, path + (("&" if "?" in path else "?") + query if query else ""), body, headers=headers, tcp=True)


def refused(answer):
    assert answer.status in (401, 403), answer.status
    assert "invalid" in answer.json()["error"], answer.body


# --- tokens ---------------------------------------------------------------------------------------------

@test
def a_token_opens_its_sandbox_and_no_other():
    with Server() as s:
        a, other = over_tcp(s).expect(201).json(), over_tcp(s).expect(201).json()
        assert a["token"] and a["token"] != other["token"]
        own, foreign = f"/api/sandboxes/{a['sandboxID']}", f"/api/sandboxes/{other['sandboxID']}"
        for how in CREDENTIALS:
            def ask(*args, token=a["token"]):
                return with_token(s, how, token, *args)

            assert ask("POST", own + "/exec/run", {"cmd": "echo hi"}).expect(200).json()["stdout"] == "hi\n"
            ask("PUT", own + "/files?path=x", b"1").expect(204)
            assert ask("GET", own + "/files?path=x").expect(200).body == b"1"
            ask("GET", own[4:]).expect(200)
            for method, path in (("GET", foreign), ("POST", foreign + "/exec/run"), ("PUT", foreign + "/files?path=x"), ("GET", "/api/sandboxes"),
                                 ("POST", "/api/sandboxes"), ("GET", "/workers"), ("GET", "/api/tags"), ("GET", "/api/nothing"),
                                 ("POST", own + "/fork"), ("GET", "/api/sandboxes/sb-00000000"), ("GET", own + "/nothing"),
                                 ("POST", "/api/sandboxes/from-checkpoint/00000000-0000-4000-8000-000000000000")):
                refused(ask(method, path))
            for wrong in a["token"][:-1], a["token"] + "0", "osbt_", "osbt_" + "0" * 64, a["token"][5:], "nothing":
                refused(ask("GET", own, token=wrong))
        assert over_tcp(s, "GET", foreign).expect(200).json()["token"] == other["token"]


@test
def an_api_key_is_no_bearer_token():
    with Server() as s:
        a = over_tcp(s).expect(201).json()
        own = f"/api/sandboxes/{a['sandboxID']}"
        for how in "bearer", "token=":
            refused(with_token(s, how, KEY, "GET", own))
            refused(with_token(s, how, KEY, "GET", "/workers"))
        for header in "Basic eDp5", "Bearer", "Bearer ", a["token"], "":
            assert s.request("GET", own, headers={"Authorization": header}, tcp=True).status in (401, 403), header
        s.request("GET", own, headers={"Authorization": "bearer  " + a["token"]}, tcp=True).expect(200)
        s.request("GET", own + "?token=", tcp=True).expect(401, "missing API key")


@test
def tokens_and_addresses_come_over_tcp_together_or_not_at_all():
    with Server("--public-url", "https://public.example/") as s:
        b = s.create()
        local = b.info()
        assert local["token"] == local["connectURL"] == "", "over the Unix socket"
        for host, proto, url in (("box.example:8080", None, "http://box.example:8080/api"), ("[::1]:80", "https", "https://[::1]:80/api"),
                                 ("x", "gopher", "http://x/api"), ('a"b', None, "https://public.example/api")):
            headers = {"Host": host, **({"X-Forwarded-Proto": proto} if proto else {})}
            for method, path, body in (("GET", b.url, None), ("POST", b.url + "/wake", {})):
                got = over_tcp(s, method, path, body, **headers).expect(200).json()
                assert got["connectURL"] == url and got["token"], (host, got)
            assert over_tcp(s, "GET", "/api/sandboxes", None, **headers).json()[0]["connectURL"] == url
        checkpoint = b.request("POST", "/checkpoints", {"name": "c"}).expect(201).json()["id"]
        fork = over_tcp(s, "POST", f"/api/sandboxes/from-checkpoint/{checkpoint}", {}).expect(201).json()
        assert fork["connectURL"] and fork["token"] not in ("", got["token"])


@test
def tokens_hold_as_long_as_the_sandbox():
    with Server() as s:
        a = over_tcp(s).expect(201).json()
        own = f"/api/sandboxes/{a['sandboxID']}"
        assert over_tcp(s, "POST", own + "/token/refresh").expect(200).json() == {"token": a["token"]}
        assert with_token(s, "bearer", a["token"], "POST", own + "/token/refresh", {}).expect(200).json()["token"] == a["token"]
        over_tcp(s, "POST", "/api/sandboxes/sb-00000000/token/refresh").expect(404)
        assert os.stat(s.state + "/secret").st_mode & 0o777 == 0o600
        s.kill()
        s.start()
        with_token(s, "bearer", a["token"], "POST", own + "/exec/run", {"cmd": "true"}).expect(200)
        with_token(s, "bearer", a["token"], "DELETE", own).expect(204)
        with_token(s, "bearer", a["token"], "POST", own + "/exec/run", {"cmd": "true"}).expect(410)
        s.kill()
        os.unlink(s.state + "/secret")
        s.start()
        refused(with_token(s, "bearer", a["token"], "GET", own))


# --- signed URLs ----------------------------------------------------------------------------------------

def sign(s, b, operation, **body):
    return over_tcp(s, "POST", f"{b.url}/files/{operation}-url", body).expect(200).json()


def use(s, url, body=None):
    parts = urlsplit(url)
    return s.request("GET" if body is None else "PUT", f"{parts.path}?{parts.query}", body, tcp=True)


@test
def signed_urls_read_and_write_one_file_without_credentials():
    with Server() as s:
        b = s.create()
        for path in "/tmp/d/" + s.folder[-4:] + " ü+%41&=#?\n", "relative":
            up, down = sign(s, b, "upload", path=path), sign(s, b, "download", path=path)
            assert down["url"].startswith(f"http://127.0.0.1:{s.port}{b.url}/files/download?path=") and "signature=" in down["url"]
            query = parse_qs(urlsplit(down["url"]).query)
            assert query["path"] == [path] and len(query["signature"][0]) == 64
            assert abs(int(query["expires"][0]) - time.time() - 3600) < 10
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", down["expiresAt"])
            use(s, up["url"], b"one").expect(204)
            assert use(s, down["url"]).expect(200).body == b"one"
            use(s, up["url"], b"").expect(204)
            assert use(s, down["url"]).expect(200).body == b"", "the file as it is now"
            assert use(s, down["url"]).headers["Access-Control-Allow-Origin"] == "*"
        big = os.urandom(1 << 20) * 24
        use(s, up["url"], big).expect(204)
        b.request("POST", "/hibernate").expect(200)
        assert use(s, down["url"]).expect(200).body == big
        assert b.info()["status"] == "running", "it was woken"
        s.kill()
        s.start()
        assert use(s, down["url"]).expect(200).body == big


@test
def signed_urls_are_good_for_what_they_say_and_no_longer():
    with Server() as s:
        a, b = s.create(), s.create()
        for sandbox in a, b:
            sandbox.request("PUT", "/files?path=x", b"1").expect(204)
        up, down = sign(s, a, "upload", path="x")["url"], sign(s, a, "download", path="x")["url"]
        use(s, down.replace("/download", "/upload"), b"2").expect(403, "invalid signature")
        use(s, up.replace("/upload", "/download")).expect(403, "invalid signature")
        use(s, down.replace(a.id, b.id)).expect(403, "invalid signature")
        use(s, down.replace(a.id, "sb-00000000")).expect(403, "invalid signature")
        use(s, down.replace("path=x", "path=y")).expect(403, "invalid signature")
        expires = parse_qs(urlsplit(down).query)["expires"][0]
        use(s, down.replace(expires, str(int(expires) + 1))).expect(403, "invalid signature")
        use(s, down.replace(expires, "1")).expect(403, "signed URL expired")
        for part in "path=x&", "expires=" + expires + "&", "&signature=" + down.split("signature=")[1]:
            use(s, down.replace(part, "")).expect(400, "required")
        use(s, down.replace(expires, "soon")).expect(400, "expires")
        use(s, down.replace(expires, "9" * 30)).expect(400, "expires")
        use(s, up[:-1], b"2").expect(403)
        assert a.request("GET", "/files?path=x").body == b"1"
        short = sign(s, a, "download", path="x", expiresIn=1)["url"]
        use(s, short).expect(200) if time.time() < int(parse_qs(urlsplit(short).query)["expires"][0]) - 0.2 else None
        while time.time() < int(parse_qs(urlsplit(short).query)["expires"][0]):
            time.sleep(0.05)
        use(s, short).expect(403, "signed URL expired")
        a.request("DELETE").expect(204)
        use(s, down).expect(410)


@test
def signed_urls_are_made_for_files_of_known_sandboxes():
    with Server() as s:
        b = s.create()
        for given, seconds in ((86401, 86400), (1 << 40, 86400), (0, 3600), (-5, 3600), (60, 60)):
            url = sign(s, b, "download", path="x", expiresIn=given)["url"]
            assert abs(int(parse_qs(urlsplit(url).query)["expires"][0]) - time.time() - seconds) < 10, given
        for operation in "download-url", "upload-url":
            for bad in {}, {"path": ""}, {"path": 1}, {"path": "x", "expiresIn": "1"}, {"path": "x\0"}:
                over_tcp(s, "POST", f"{b.url}/files/{operation}", bad).expect(400)
            over_tcp(s, "POST", f"/api/sandboxes/sb-00000000/files/{operation}", {}).expect(404)
            s.request("POST", f"{b.url}/files/{operation}", {"path": "x"}, tcp=True).expect(401)
        b.request("POST", "/files/download-url", {"path": "x"}).expect(400, "--public-url")
        b.request("POST", "/hibernate").expect(200)
        sign(s, b, "upload", path="x")
        assert b.info()["status"] == "hibernated", "making one is no work in it"
    with Server("--public-url", "https://public.example") as s:
        b = s.create()
        assert b.request("POST", "/files/download-url", {"path": "x"}).json()["url"].startswith("https://public.example" + b.url)


@test
def the_wake_hint_of_clients_is_accepted():
    with Server() as s:
        b = s.create()
        b.request("PUT", "/files?path=x", b"1").expect(204)
        b.request("POST", "/hibernate").expect(200)
        assert b.request("GET", "/files?path=x", headers={"X-OSB-Async-Wake": "1"}).expect(200).body == b"1"
