#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the requests of the Python client 0.6 (api.md 19.2), with the libraries that it uses, and checks the answers.

    /usr/bin/python3 tests/api/python_client.py URL KEY

httpx and websockets are packages of Debian, so this runs in Debian's interpreter. test_python.py starts it.
"""
import asyncio
import json
import sys
import time

import httpx
import websockets


class Refused(Exception):
    """What raise_for_status() is to users of the client."""

    def __init__(self, response):
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text[:300]}")
        self.status = response.status_code


def checked(response):
    if response.status_code >= 300:
        raise Refused(response)
    return response


class Sandbox:
    """The client's way: one connection pool with the API key, and one with the token, if there is one."""

    def __init__(self, url, key, data):
        self.id, self.status = data["sandboxID"], data["status"]
        self.url, self.key = url, key
        self.connect_url, self.token = data.get("connectURL", ""), data.get("token", "")
        self.control = control(url, key)
        if self.connect_url and self.token:
            self.data = httpx.AsyncClient(base_url=self.connect_url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30.0)
        else:
            self.data = self.control

    @classmethod
    async def create(cls, url, key, template="base", timeout=0, **more):
        async with control(url, key) as c:
            body = {"templateID": template, "timeout": timeout, **more}
            return cls(url, key, checked(await c.post("/sandboxes", json=body)).json())

    @classmethod
    async def connect(cls, url, key, id):
        async with control(url, key) as c:
            return cls(url, key, checked(await c.get(f"/sandboxes/{id}")).json())

    @classmethod
    async def create_from_checkpoint(cls, url, key, checkpoint, timeout=0):
        async with control(url, key) as c:
            answer = await c.post(f"/sandboxes/from-checkpoint/{checkpoint}", json={"timeout": timeout}, timeout=120.0)
            return cls(url, key, checked(answer).json())

    async def close(self):
        await self.data.aclose()
        await self.control.aclose()

    async def kill(self):
        checked(await self.control.delete(f"/sandboxes/{self.id}"))

    async def is_running(self):
        answer = await self.control.get(f"/sandboxes/{self.id}")
        return checked(answer).json()["status"] == "running"

    async def hibernate(self):
        checked(await self.control.post(f"/sandboxes/{self.id}/hibernate"))

    async def wake(self, timeout=None):
        more = {} if timeout is None else {"json": {"timeout": timeout}}
        return checked(await self.control.post(f"/sandboxes/{self.id}/wake", **more)).json()

    async def set_timeout(self, timeout):
        checked(await self.control.post(f"/sandboxes/{self.id}/timeout", json={"timeout": timeout}))

    async def run(self, command, timeout=60, env=None, cwd=None):
        body = {"cmd": "sh", "args": ["-c", command], "timeout": timeout}
        if env:
            body["envs"] = env
        if cwd:
            body["cwd"] = cwd
        answer = await self.data.post(f"/sandboxes/{self.id}/exec/run", json=body)
        return checked(answer).json()

    async def start(self, command, args=(), **more):
        body = {"cmd": command, "args": list(args), **more}
        return checked(await self.data.post(f"/sandboxes/{self.id}/exec", json=body)).json()["sessionID"]

    def attach(self, session):
        """Text that was sent in it is a reason for the client's library to fail, and so are messages above 1 MiB."""
        base = (self.connect_url or self.url + "/api").replace("http", "ws", 1)
        credentials = f"token={self.token}" if self.token else f"api_key={self.key}"
        return websockets.connect(f"{base}/sandboxes/{self.id}/exec/{session}?{credentials}")

    async def terminal(self, connected=True, **size):
        """Over connectURL with the token, or, as without one, over the plain address with the key."""
        base, key = (self.connect_url, self.token) if connected else (self.url, self.key)
        async with httpx.AsyncClient(timeout=30.0) as c:
            made = checked(await c.post(f"{base}/sandboxes/{self.id}/pty", json=size, headers={"X-API-Key": key})).json()
        address = f"{base.replace('http', 'ws', 1)}/sandboxes/{self.id}/pty/{made['sessionID']}?api_key={key}"
        return websockets.connect(address, extra_headers={"X-API-Key": key})

    async def sessions(self):
        listed = checked(await self.data.get(f"/sandboxes/{self.id}/exec")).json()
        return {s["sessionID"]: s["running"] for s in listed}

    async def kill_session(self, session, signal=9):
        checked(await self.data.post(f"/sandboxes/{self.id}/exec/{session}/kill", json={"signal": signal}))

    async def file(self, method, route="", path=None, **more):
        return await self.data.request(method, f"/sandboxes/{self.id}/files{route}", params={"path": path}, **more)

    async def exists(self, path):
        return (await self.file("GET", "", path)).status_code == 200


def control(url, key):
    return httpx.AsyncClient(base_url=url + "/api", headers={"X-API-Key": key}, timeout=30.0)


async def refused(work, *statuses):
    try:
        await work
    except Refused as e:
        assert e.status in statuses, e
        return
    raise AssertionError(f"not refused with {statuses}")


# --- what a program does with it --------------------------------------------------------------------------

async def commands(s):
    assert await s.run("echo out; echo err >&2; exit 3") == {"exitCode": 3, "stdout": "out\n", "stderr": "err\n"}
    assert (await s.run('echo "$A $B"; pwd', env={"A": "a b", "B": "ü"}, cwd="/tmp"))["stdout"] == "a b ü\n/tmp\n"
    timed_out = await s.run("sleep 100", timeout=1)
    assert timed_out["exitCode"] == -1 and "Process timed out" in timed_out["stderr"], timed_out
    answers = await asyncio.gather(*(s.run(f"echo {i}") for i in range(20)))
    assert [a["stdout"] for a in answers] == [f"{i}\n" for i in range(20)]
    session = await s.start("sleep", ["1000"])
    assert (await s.sessions())[session] is True
    await s.kill_session(session)
    while (await s.sessions())[session]:
        await asyncio.sleep(0.02)
    await s.kill_session(session, 15)


async def longer_than_a_read_may_last(s):
    begun = time.monotonic()
    assert (await s.run("sleep 31; echo done", timeout=100))["stdout"] == "done\n"
    assert time.monotonic() - begun > 30.5


async def output_of(ws):
    """What an attached command says to its end: stdout, stderr, exit code; and how often the replay ended."""
    out, replays, exits = {1: b"", 2: b""}, 0, []
    async for message in ws:
        assert isinstance(message, bytes)
        if message[0] in out:
            out[message[0]] += message[1:]
        elif message[0] == 3:
            exits.append(int.from_bytes(message[1:], "big", signed=True))
        else:
            assert message == b"\4", message[:20]
            replays += 1
    assert ws.close_code == 1000 and replays == 1 and len(exits) == 1, (ws.close_code, replays, exits)
    return out[1], out[2], exits[0]


async def attached_commands(s):
    session = await s.start("sh", ["-c", 'read a; read b; echo "$a-$b"; echo err >&2; head -c 3000000 /dev/zero | tr "\\0" x; exit 7'])
    async with s.attach(session) as ws:
        await ws.send(b"\0one\n")
        await ws.send(b"\0tw")
        await ws.send(b"\0o\n")
        assert await output_of(ws) == (b"one-two\n" + b"x" * 3000000, b"err\n", 7)
    async with s.attach(session) as ws:  # again, after its end: the last MiB at least
        out, err, code = await output_of(ws)
        assert code == 7 and out.endswith(b"x" * (1 << 20)) and err in (b"", b"err\n")
    # Asleep in the middle: the command goes on where it was.
    session = await s.start("cat")
    async with s.attach(session) as ws:
        await ws.send(b"\0before\n")
        while (await ws.recv())[:1] != b"\1":
            pass
    await s.hibernate()
    async with s.attach(session) as ws:
        await ws.send(b"\0after\n")
        seen = b""
        while not seen.endswith(b"after\n"):
            message = await ws.recv()
            seen += message[1:] if message[0] == 1 else b""
        assert seen == b"before\nafter\n", seen
        await s.kill_session(session)
        assert (await output_of_rest(ws)) == 137
    for token, status in (("wrong", 403), (s.key, 403)):
        address = f"{s.connect_url.replace('http', 'ws', 1)}/sandboxes/{s.id}/exec/{session}?token={token}"
        try:
            async with websockets.connect(address):
                raise AssertionError("accepted")
        except websockets.InvalidStatusCode as e:
            assert e.status_code == status, e


async def output_of_rest(ws):
    code = None
    async for message in ws:
        if message[0] == 3:
            code = int.from_bytes(message[1:], "big", signed=True)
    assert ws.close_code == 1000
    return code


async def terminals(s):
    for connected in True, False:
        async with await s.terminal(connected, cols=100, rows=30) as ws:
            await ws.send("stty size; echo answer $((6 * 7)); exit\n" if connected else b"stty size; echo answer $((6 * 7)); exit\n")
            seen = b""
            async for message in ws:
                assert isinstance(message, bytes)
                seen += message
            assert ws.close_code == 1000 and b"30 100" in seen and b"answer 42" in seen, (ws.close_code, seen)


async def files(s):
    name = "/tmp/python client ü &?.txt"
    assert not await s.exists(name)
    assert checked(await s.file("PUT", "", name, content=b"one\0two")).status_code == 204
    assert (await s.file("GET", "", name)).content == b"one\0two" and await s.exists(name) and await s.exists("/tmp")
    checked(await s.file("POST", "/mkdir", "/tmp/python-client/a/b"))
    checked(await s.file("PUT", "", "/tmp/python-client/f", content="text"))
    entries = checked(await s.file("GET", "/list", "/tmp/python-client")).json()
    assert [(e["name"], e["isDir"], e["path"], e.get("size", 0) if not e["isDir"] else 0) for e in entries] == [
        ("a", True, "/tmp/python-client/a", 0), ("f", False, "/tmp/python-client/f", 4)], entries
    for path in name, "/tmp/python-client":
        checked(await s.file("DELETE", "", path))
        assert not await s.exists(path)

    async def blocks():
        for i in range(64):
            yield bytes([i]) * 65536
    checked(await s.file("PUT", "", name, content=blocks()))
    assert (await s.file("GET", "", name)).content == b"".join(bytes([i]) * 65536 for i in range(64))
    for operation, use in ("download", "GET"), ("upload", "PUT"):
        made = checked(await s.control.post(f"/sandboxes/{s.id}/files/{operation}-url", json={"path": name, "expiresIn": 60})).json()
        async with httpx.AsyncClient() as anonymous:
            checked(await anonymous.request(use, made["url"], **({"content": b"x"} if use == "PUT" else {})))
    assert (await s.file("GET", "", name)).content == b"x"
    checked(await s.file("DELETE", "", name))


async def lifecycle(s, url, key):
    assert await s.is_running()
    await s.hibernate()
    assert not await s.is_running()
    assert (await s.wake())["status"] == "running"
    await s.hibernate()
    assert (await s.wake(timeout=900))["timeout"] == 900
    await s.set_timeout(0)
    again = await Sandbox.connect(url, key, s.id)
    assert again.status == "running" and (again.token, again.connect_url) == (s.token, s.connect_url)
    await again.hibernate()
    assert (await again.run("echo woken"))["stdout"] == "woken\n"
    made = checked(await s.control.post(f"/sandboxes/{s.id}/checkpoints", json={"name": "python"})).json()
    fork = await Sandbox.create_from_checkpoint(url, key, made["id"])
    assert (await fork.run("echo fork"))["stdout"] == "fork\n" and fork.token != s.token
    checked(await s.control.post(f"/sandboxes/{s.id}/checkpoints/{made['id']}/restore"))
    assert (await s.run("echo back"))["stdout"] == "back\n"
    checked(await s.control.delete(f"/sandboxes/{s.id}/checkpoints/{made['id']}"))
    await fork.kill()
    await refused(fork.run("true"), 410)
    for x in again, fork:
        await x.close()


async def credentials(s, url, key):
    """Section 2.3: the token is good for its sandbox, in all four places; a key is no token."""
    other = await Sandbox.create(url, key)
    path = f"/api/sandboxes/{s.id}"
    async with httpx.AsyncClient(base_url=url) as c:
        for how in ({"headers": {"Authorization": f"Bearer {s.token}"}}, {"headers": {"X-API-Key": s.token}}, {"params": {"token": s.token}},
                    {"params": {"api_key": s.token}}, {"headers": {"X-API-Key": s.token}, "params": {"api_key": s.token}}):
            checked(await c.get(path, **how))
            assert (await c.get(f"/api/sandboxes/{other.id}", **how)).status_code in (401, 403)
            assert (await c.get("/api/sandboxes", **how)).status_code in (401, 403)
        assert (await c.get(path, headers={"Authorization": f"Bearer {key}"})).status_code in (401, 403)
        assert (await c.get(path)).status_code == 401
    await other.kill()
    await other.close()


async def main(url, key):
    s = await Sandbox.create(url, key, timeout=0, envs={"FROM": "create"}, metadata={"a": "b"}, memoryMB=512, diskMB=20480)
    assert s.connect_url == f"{url}/api" and s.token, "both over TCP"
    long = asyncio.create_task(longer_than_a_read_may_last(await Sandbox.create(url, key)))
    steps = [credentials(s, url, key), commands(s), attached_commands(s), terminals(s), files(s), lifecycle(s, url, key)]
    for step in steps:
        print(step.__name__, flush=True)
        await step
    await long
    await refused(Sandbox.connect(url, key, "sb-00000000"), 404)
    await refused(Sandbox.connect(url, "wrong", s.id), 403)
    async with control(url, key) as c:
        for item in checked(await c.get("/sandboxes")).json():
            checked(await c.delete(f"/sandboxes/{item['sandboxID']}"))
    await s.close()
    print(json.dumps({"done": True}))


asyncio.run(main(sys.argv[1].rstrip("/"), sys.argv[2]))
