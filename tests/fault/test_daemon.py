# SPDX-License-Identifier: Apache-2.0
"""dormoused: killed and failed at each of its durable writes, SQLite's included.

The VMM is the stand-in of tests/api, whose own writes do not count. After a kill another daemon starts on what
is there; after an error the same one goes on. Then the old state or the new one is there, and each
file belongs to somebody.
"""
import http.client
import json
import os
import signal
import sqlite3
import sys
import uuid

from faults import TOP, WHERE, Count, environment, points, tally

sys.path.append(os.path.join(TOP, "tests", "api"))  # its names give way to those of this folder
sys.dont_write_bytecode = True
import harness  # noqa: E402
from harness import Sandbox, Server  # noqa: E402
from test_checkpoints import Points, files, fork, gc  # noqa: E402
from test_layers import chain  # noqa: E402

harness.FOLDER = WHERE or "/tmp"
MORE = 20  # writes beyond those of the first run that are tried: threads make their number vary
DEATHS = (ConnectionError, http.client.HTTPException, FileNotFoundError)


class Died(Exception):
    """The daemon was killed."""


class Rig:
    """A daemon under the shim, with a sandbox that says "two" and its checkpoint that says "one"."""

    def __init__(self, action, *options):
        self.count = Count()
        self.action = action
        self.server = s = Server("--tools", os.path.join(harness.HERE, "tools"), *options, start=False)
        s.env = environment(self.count, s.state + "/", action, alone=True)
        s.start()
        self.points = p = Points(s)
        p.write("one")
        self.one = p.take("one")
        p.write("two")

    def close(self):
        try:
            self.server.close()
        finally:
            self.count.close()

    def alive(self):
        return self.server.process.poll() is None

    def restart(self):
        status = self.server.process.wait(timeout=30)
        assert status == -signal.SIGKILL, f"status {status}: {self.server.log()[-2000:]}"
        self.server.start()

    # --- what is there -------------------------------------------------------------------------------
    def sandboxes(self):
        return {b["sandboxID"]: b for b in self.server.request("GET", "/sandboxes").expect(200).json()}

    def rows(self, query):
        db = sqlite3.connect(f"file:{self.server.state}/dormouse.db?mode=ro", uri=True)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def images_fit(self):
        forms = {id: ["ram.cold" if cold else "ram", "state"] for id, cold in
                 self.rows("SELECT id, cold FROM checkpoints WHERE status='ready' AND is_full=1")}
        there = {id: files(self.server, "checkpoints/" + id) for id in files(self.server, "checkpoints")}
        return there == forms or (gc(self.server) and False)

    def account(self):
        """Every file has an owner, and every owner has its files."""
        gc(self.server)
        boxes = self.rows("SELECT id, layers, pending, status, hibernation FROM sandboxes WHERE deleted=0")
        points_ = self.rows("SELECT id, layers, status FROM checkpoints")
        named, may = set(), set()
        for _, layers, pending, *_ in boxes:
            named |= set(json.loads(layers))
            may |= set(json.loads(pending or "[]"))
        for _, layers, status in points_:
            if status != "failed":
                named |= set(json.loads(layers))
        there = {f.split(".")[0] for f in files(self.server, "layers")}
        assert named <= there, f"lost layers: {named - there}"
        assert there <= named | may, f"leaked layers: {there - named - may}"
        # Upkeep works behind the collection, and holds what it works with.
        harness.wait_for("images and checkpoints to agree", self.images_fit)
        assert set(files(self.server, "sandboxes")) == {b[0] for b in boxes}, "directories"
        for id, _, _, _, hibernation in boxes:
            images = [f for f in files(self.server, "sandboxes/" + id) if len(f) == 36]
            assert images == ([hibernation] if hibernation else []), f"images of hibernations: {images}"
        running = {b[0] for b in boxes if b[3] == "running"}
        harness.wait_for("no VMM process too many", lambda: sorted(running) == sorted(id for _, id in self.server.vmms()))

    def both(self, box=None):
        """What disk and memory say: of one instant, always."""
        box = box or self.points.box
        disk = box.run("cat state")["stdout"].strip()
        return disk, box.control("info")["fake_memory"]

    def expect(self, *texts, box=None):
        said = self.both(box)
        assert said in [(t, t) for t in texts], f"disk and memory: {said}"
        return said[0]


# --- the operations ----------------------------------------------------------------------------------
class Operation:
    """prepare(), then do() under the fault; check(done) whatever has become of it, and clean up."""

    options = ()

    def __init__(self, rig):
        self.rig, self.server, self.box = rig, rig.server, rig.points.box

    def prepare(self):
        pass

    def must(self, answer, status):
        """The answer, if it is the one that success gives."""
        if answer.status != status:
            text = answer.json()["error"]
            # What a client can do something with.
            assert answer.status in (500, 502, 503) and text, f"{answer.status}: {text}"
            raise Failed(text)
        return answer


class Failed(Exception):
    """The daemon said so."""


class Create(Operation):
    def request(self):
        return self.server.request("POST", "/api/sandboxes", {})

    said = ("", "")

    def prepare(self):
        self.before = self.rig.sandboxes().keys()
        self.id = None

    def do(self):
        self.id = self.must(self.request(), 201).json()["sandboxID"]

    def check(self, done):
        new = self.rig.sandboxes().keys() - self.before
        assert not done or self.id in new, "what was announced is gone"
        assert len(new) <= 1, new
        for id in new:
            box = Sandbox(self.server, id)
            assert self.rig.both(box) == self.said, "its content"
            box.request("DELETE").expect(204)


class Fork(Create):
    said = ("one", "one")

    def request(self):
        return fork(self.server, self.rig.one)


class Checkpoint(Operation):
    kind = "full"

    def prepare(self):
        self.name = str(uuid.uuid4())
        self.rig.points.write("two")

    def do(self):
        id = self.must(self.rig.points.post(self.name, kind=self.kind), 201).json()["id"]
        # With errors it ends only when there is room again to say so: check() waits for that.
        harness.wait_for("its end", lambda: f" checkpoint {id}" in self.server.log() or not self.rig.alive())
        if self.rig.points.get(id)["status"] != "ready":
            raise Failed(id)

    def check(self, done):
        self.rig.expect("two")
        c = next((c for c in self.rig.points.list() if c["name"] == self.name), None)
        assert not done or (c and c["status"] == "ready"), f"what was ready is {c}"
        if not c:
            return
        c = self.rig.points.ended(c["id"])
        if c["status"] == "ready":
            box = self.rig.points.fork(c["id"])
            assert self.rig.both(box) == ("two", "two" if self.kind == "full" else ""), "its fork"
            box.request("DELETE").expect(204)
        else:
            assert c["errorMsg"], c
        self.box.request("DELETE", "/checkpoints/" + c["id"]).expect(204)


class DiskCheckpoint(Checkpoint):
    kind = "disk_only"


class Restore(Operation):
    def prepare(self):
        self.rig.points.write("two")

    def do(self):
        self.must(self.rig.points.restore(self.rig.one), 200)

    def check(self, done):
        self.rig.expect(*(["one"] if done else ["one", "two"]))


class Hibernate(Operation):
    def prepare(self):
        self.rig.points.write("two")

    def do(self):
        self.must(self.box.request("POST", "/hibernate"), 200)

    def check(self, done):
        status = self.box.info()["status"]
        assert status == "hibernated" or (not done and status == "running"), status
        if self.rig.action != "EIO":
            self.rig.account()
        self.rig.expect("two")


class Wake(Operation):
    def prepare(self):
        self.rig.points.write("two")
        self.box.request("POST", "/hibernate").expect(200)

    def do(self):
        answer = self.must(self.box.request("POST", "/wake", {}), 200).json()
        assert not answer.get("coldBoot"), answer

    def check(self, done):
        status = self.box.info()["status"]
        assert status == "running" or (not done and status == "hibernated"), status
        self.rig.expect("two")


class DeleteSandbox(Operation):
    def prepare(self):
        self.victim = self.rig.points.fork(self.rig.one)

    def do(self):
        self.must(self.victim.request("DELETE"), 204)

    def check(self, done):
        if self.victim.id in self.rig.sandboxes():
            assert not done, "it is still there"
            self.rig.expect("one", box=self.victim)
        # On a full disk the files go before the row: then it is stopped, and the next try ends it.
        self.victim.request("DELETE").expect(204)
        self.rig.expect("two")


class DeleteCheckpoint(Operation):
    def prepare(self):
        self.rig.points.write("two")
        self.id = self.rig.points.take(str(uuid.uuid4()))

    def do(self):
        self.must(self.box.request("DELETE", "/checkpoints/" + self.id), 204)
        gc(self.server)

    def check(self, done):
        if self.rig.points.get(self.id):
            assert not done, "it is still there"
            box = self.rig.points.fork(self.id)
            self.rig.expect("two", box=box)
            box.request("DELETE").expect(204)
            self.box.request("DELETE", "/checkpoints/" + self.id).expect(204)
        self.rig.expect("two")


class Collect(Operation):
    def prepare(self):
        """Garbage, as crashes leave it."""
        state = self.server.state
        with open(f"{state}/layers/{uuid.uuid4()}.layer", "w", encoding="ascii") as f:
            f.write("x")
        with open(f"{state}/layers/{uuid.uuid4()}.layer.part", "w", encoding="ascii") as f:
            f.write("x")
        folder = f"{state}/checkpoints/{uuid.uuid4()}"
        os.mkdir(folder)
        for name in ("ram", "state"):
            with open(f"{folder}/{name}", "w", encoding="ascii") as f:
                f.write("x")

    def do(self):
        self.must(self.server.request("POST", "/store/gc"), 200)

    def check(self, done):
        self.rig.expect("two")


class CollectBeside(Collect):
    """The layers of a real disk are a checkpoint's: not one may go, or change."""

    def prepare(self):
        super().prepare()
        if hasattr(self.rig, "real"):
            return
        folder = f"{self.server.state}/layers"
        chain().copy(folder)
        self.rig.real = [str(uuid.uuid4()) for _ in chain().layers]
        for before, id in zip(chain().paths(folder), self.rig.real):
            os.rename(before, f"{folder}/{id}.layer")
        id = self.rig.points.take("real", kind="disk_only")
        db = sqlite3.connect(f"{self.server.state}/dormouse.db", timeout=30)
        with db:
            db.execute("UPDATE checkpoints SET layers=?, base_image=? WHERE id=?",
                       (json.dumps(self.rig.real), chain().base, id))
        db.close()

    def check(self, done):
        super().check(done)
        chain().check(*(f"{self.server.state}/layers/{id}.layer" for id in self.rig.real))


class Upkeep(Operation):
    """What the daemon does by itself: asked for, and waited for."""

    def store(self):
        return self.must(self.server.request("GET", "/store"), 200).json()

    def failures(self):
        return self.store()["upkeep"]["failures"]

    def until(self, what, done, failures=None):
        """@failures: as many as there were before it could begin; None: it begins with the next pass."""
        failures = self.failures() if failures is None else failures

        def asked():
            if not self.rig.alive():
                raise Died()
            # Only the first pass is asked for: there is nothing to collect for it.
            store = self.store()
            if store["upkeep"]["failures"] > failures:
                raise Failed("its upkeep")
            if done(store):
                return True
            self.must(self.server.request("POST", "/store/gc"), 200)
            return False
        harness.wait_for(what, asked)


class Flatten(Upkeep):
    options = ("--flatten-above", "4")

    def prepare(self):
        self.victim = self.rig.points.fork(self.rig.one)
        self.deep = Points.__new__(Points)
        self.deep.server, self.deep.box = self.server, self.victim
        self.ids = [self.deep.take(f"d{i}", kind="disk_only") for i in range(3)]

    def chain(self, store):
        return next(c["layers"] for c in store["checkpoints"] if c["id"] == self.ids[-1])

    def do(self):
        self.until("a short chain", lambda s: self.chain(s) <= 4)

    def check(self, done):
        self.rig.account()
        for id in self.ids:
            box = self.rig.points.fork(id)
            assert box.run("cat state")["stdout"] == "one\n", "what a layer says"
            box.request("DELETE").expect(204)
        self.victim.request("DELETE").expect(204)
        for id in self.ids:
            self.victim.request("DELETE", "/checkpoints/" + id).expect(204)


class Pack(Upkeep):
    options = ("--cold-after", "1")

    def prepare(self):
        self.rig.points.write("two")
        self.id = self.rig.points.take(str(uuid.uuid4()))

    def do(self):
        self.until("it to be packed", lambda s: next(c["cold"] for c in s["checkpoints"] if c["id"] == self.id))
        if self.rig.action != "EIO":  # then it cannot be removed
            self.until("the other form to go", lambda s: files(self.server, "checkpoints/" + self.id) == ["ram.cold", "state"])

    def check(self, done):
        box = self.rig.points.fork(self.id)
        self.rig.expect("two", box=box)
        box.request("DELETE").expect(204)
        self.box.request("DELETE", "/checkpoints/" + self.id).expect(204)


class Unpack(Pack):
    """The use of a packed image, and what comes of it."""

    def prepare(self):
        super().prepare()
        super().do()
        self.forked = None

    def do(self):
        before, failures = self.store()["upkeep"]["unpackedImages"], self.failures()
        self.forked = Sandbox(self.server, self.must(fork(self.server, self.id), 201).json()["sandboxID"])
        self.must(self.forked.request("DELETE"), 204)
        self.until("it to be unpacked", lambda s: s["upkeep"]["unpackedImages"] > before, failures)

    def check(self, done):
        for id in self.rig.sandboxes().keys() - {self.box.id}:
            Sandbox(self.server, id).request("DELETE").expect(204)
        if self.forked:
            # On a full disk it may have been stopped only: see DeleteSandbox.
            self.forked.request("DELETE").expect(204)
        super().check(done)


class Start(Operation):
    """A start on what a crash has left: sandboxes and checkpoints half made, garbage."""

    def prepare(self):
        Collect.prepare(self)
        server = self.server
        os.mkdir(f"{server.state}/sandboxes/sb-{uuid.uuid4().hex[:8]}")
        server.hold("checkpoint-write")
        self.rig.points.write("two")
        self.name = str(uuid.uuid4())
        self.rig.points.post(self.name).expect(201)
        server.kill()
        server.release("checkpoint-write")

    def do(self):
        try:
            self.server.start()
        except AssertionError as e:
            raise Died() from e
        gc(self.server)

    def check(self, done):
        self.rig.expect("two")
        for c in self.rig.points.list():
            assert c["id"] == self.rig.one or c["status"] == "failed", c
            if c["id"] != self.rig.one:
                self.box.request("DELETE", "/checkpoints/" + c["id"]).expect(204)


# --- the sweeps ---------------------------------------------------------------------------------------
def settle(rig):
    """What the operation has left to threads of the daemon is done, or the daemon is dead."""
    try:
        gc(rig.server)
    except AssertionError:
        pass  # with an error: it goes on failing


def one(rig, kind, at):
    """Return: how many writes there were, or whether the fault was met."""
    op = kind(rig)
    settle(rig)
    op.prepare()
    done, before, said = False, rig.count.value(), len(rig.server.log())
    failure = ""
    point = rig.count.arm(at)
    try:
        op.do()
        done = True
        settle(rig)
    except (Died, Failed, *DEATHS) as e:
        failure = str(e)
    met, total = at and rig.count.value() >= point, rig.count.value() - before
    if met and rig.action == "kill":
        rig.server.process.wait(timeout=30)
    rig.count.arm(0)
    if not rig.alive():
        rig.restart()
        rig.account()
    elif met and "state database" in failure + rig.server.log()[said:]:
        harness.wait_for("the database to forget what failed",
                         lambda: "it can be written again" in rig.server.log()[said:])
    op.check(done)
    if met and rig.action == "EIO":
        # What could not be removed is removed by the next start.
        rig.server.kill()
        rig.server.start()
    rig.account()
    return met if at else total


def sweep(kind, action):
    rig = Rig(action, *kind.options)
    try:
        total = one(rig, kind, 0)
        assert total > 0, "no write was seen: the shim is not in place"
        chosen = points(total)
        for at in chosen:
            try_one(rig, kind, action, at, total)
        at = total
        while len(chosen) == total and at < total + MORE and try_one(rig, kind, action, at + 1, total):
            at += 1
        rig.expect("two", "one")
        return tally(chosen, total)
    except Exception:
        print("# " + "\n# ".join(rig.server.log().splitlines()[-25:]))
        raise
    finally:
        rig.close()


def try_one(rig, kind, action, at, total):
    try:
        return one(rig, kind, at)
    except Exception as e:
        raise AssertionError(f"{action} at write {at} of {total}: {type(e).__name__}: {e}") from e


ACTIONS = {"kill": "killed at each write", "ENOSPC": "no space from each write on",
           "EIO": "I/O errors from each write on"}
KINDS = {"create": Create, "fork": Fork, "checkpoint": Checkpoint, "checkpoint of the disk": DiskCheckpoint,
         "restore": Restore, "hibernate": Hibernate, "wake": Wake, "deletion": DeleteSandbox,
         "deletion of a checkpoint": DeleteCheckpoint, "garbage collection": Collect,
         "garbage collection beside an ext4": CollectBeside, "flattening": Flatten, "packing": Pack, "unpacking": Unpack,
         "start": Start}
TESTS = [(f"dormoused {name}, {what}", lambda k=kind, a=action: sweep(k, a))
         for name, kind in KINDS.items() for action, what in ACTIONS.items()
         if action == "kill" or kind not in (Start, CollectBeside)]
