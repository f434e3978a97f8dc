# SPDX-License-Identifier: Apache-2.0
"""Container images become templates: real archives through the real dormouse-oci, in its jail.

What a guest makes of them is shown in tests/sdk.
"""
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading

import harness
from harness import Sandbox, Server, test, wait_for
from test_cli import cli
from test_images import parse_events

BUILD = os.path.join(harness.TOP, "build")
TOOLS = ("--tools", BUILD)
OCI = "application/vnd.oci.image."


def entry(name, data=b"", type=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = type, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for info, data in entries:
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def config(layers, **more):
    return json.dumps({"architecture": "amd64", "os": "linux", "config": more.pop("config", {}),
                       "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(x) for x in layers]}, **more}).encode()


def saved(*layers, tags=["app:1"], **more):
    """As docker save made them before they were OCI layouts, too."""
    text = config(layers, **more)
    name = digest(text) + ".json"
    names = [f"{i}/layer.tar" for i in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": tags, "Layers": names}]
    return tar(*[entry(n, x) for n, x in zip(names, layers)], entry(name, text),
               entry("manifest.json", json.dumps(manifest).encode()))


def layout(*layers, pack=gzip.compress, kind="tar+gzip", name="one", edit=lambda manifest: None):
    """Files of an OCI image layout: {name: content}."""
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data, media):
        files["blobs/sha256/" + digest(data)] = data
        return {"mediaType": OCI + media, "digest": "sha256:" + digest(data), "size": len(data)}

    manifest = {"schemaVersion": 2, "config": blob(config(layers), "config.v1+json"),
                "layers": [blob(pack(x), "layer.v1." + kind) for x in layers]}
    edit(manifest)
    head = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    head["annotations"] = {"org.opencontainers.image.ref.name": name}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [head]}).encode()
    return files


def tar_of(files):
    return tar(*[entry("./" + n, x) for n, x in files.items()])


ROOT = tar(entry("./", type=tarfile.DIRTYPE, mode=0o755), entry("usr/bin", type=tarfile.DIRTYPE, mode=0o755),
           entry("bin", type=tarfile.SYMTYPE, linkname="usr/bin"), entry("bin/tool", b"tool", mode=0o4755, uid=7, gid=70000),
           entry("usr/bin/same", type=tarfile.LNKTYPE, linkname="bin/tool"),
           entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:12:34::/:/bin/sh\n", mode=0o644),
           entry("gone/file", b"x"), entry("kept", b"old"), entry("dev/zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
           entry("pipe", type=tarfile.FIFOTYPE))
TOP = tar(entry(".wh.gone"), entry("kept", b"new", mode=0o600), entry("/absolute", b"below"),
          entry("out", type=tarfile.SYMTYPE, linkname="../../../../etc/passwd"))


def post(s, archive, query="name=app", headers={}):
    return s.request("POST", "/images/import?" + query, archive, headers)


def debugfs(path, command):
    return subprocess.run(["debugfs", "-R", command, path], capture_output=True, text=True, check=True).stdout


def image_path(s, name="app"):
    return os.path.join(s.state, "images", name + ".ext4")


def assert_nothing(s):
    assert os.listdir(s.state + "/images") == [], os.listdir(s.state + "/images")
    assert "app" not in [t["name"] for t in s.request("GET", "/templates").json()]


@test
def an_archive_becomes_a_template_with_all_that_its_layers_say():
    with Server(*TOOLS) as s:
        archive = saved(ROOT, TOP, config={"Env": ["A=b 'c' $d", "PATH=/bin"], "WorkingDir": "/srv/work", "User": "app"})
        events = parse_events(post(s, archive, headers={"Accept": "text/event-stream"}).expect(200))
        logs = [d["message"] for e, d in events if e == "build_log"]
        assert [d["step"] for e, d in events if e == "build_log"][:2] == [1, 2], events
        assert logs[0].startswith("Step 1/2: layer sha256:" + digest(ROOT)[:12]) and logs[-1] == "Booting it once", logs
        assert events[-1][1]["templateID"] == "app" and events[-1][1]["sizeBytes"] > 0, events[-1]
        path = image_path(s)
        subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)
        tool = debugfs(path, "stat /usr/bin/tool")
        assert "Mode:  04755" in tool and "User:     7   Group: 70000" in tool and "Links: 2" in tool, tool
        assert "Device major/minor number: 01:05" in debugfs(path, "stat /dev/zero")
        assert debugfs(path, "cat /kept") == "new" and "Mode:  0600" in debugfs(path, "stat /kept")
        assert debugfs(path, "cat /absolute") == "below" and "gone" not in debugfs(path, "ls /")
        assert "../../../../etc/passwd" in debugfs(path, "stat /out")
        assert debugfs(path, "cat /etc/environment") == "A=\"b 'c' $d\"\nPATH=\"/bin\"\n"
        assert debugfs(path, "cat /etc/dormouse-image") == "user=app\nworkdir=/srv/work\n"
        assert "Type: directory" in debugfs(path, "stat /srv/work")
        agent = os.path.getsize(BUILD + "/dormouse-agent")
        assert f"Size: {agent}" in debugfs(path, "stat /sbin/dormouse-agent")
        # It is a template like any other, and that of the next server, too.
        assert s.request("GET", "/templates/app").expect(200).json()["status"] == "ready"
        s.create(templateID="app").request("DELETE").expect(204)
        post(s, archive).expect(409, "template app")
        s.kill()
        s.start()
        step = {"type": "run", "args": {"commands": ["true"]}}
        answer = s.request("POST", "/sandboxes", {"image": {"base": "app", "steps": [step]}}).expect(201)
        Sandbox(s, answer.json()["sandboxID"]).request("DELETE").expect(204)
        assert os.listdir(s.state + "/images") == ["app.ext4"]


@test
def layouts_come_as_tars_and_as_directories_packed_or_not():
    with Server(*TOOLS) as s:
        files = layout(ROOT, TOP)
        post(s, tar_of(files), "name=a").expect(201)
        post(s, gzip.compress(tar_of(files)), "name=b&ref=one").expect(201)
        post(s, tar_of(layout(ROOT, pack=bytes, kind="tar")), "name=c").expect(201)
        packed = layout(ROOT, kind="tar+zstd",
                        pack=lambda x: subprocess.run(["zstd", "-c"], input=x, capture_output=True, check=True).stdout)
        post(s, tar_of(packed), "name=z").expect(201)
        folder = os.path.join(s.folder, "my-app")
        for name, data in files.items():
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)
        out, err = cli(s, "image", "import", folder)
        assert out == b"my-app\n" and b"Step 2/2: layer" in err and b"\x1b" not in err, (out, err)
        assert json.loads(cli(s, "image", "import", "--json", "--name", "d", "--ref", "one", folder)[0])["status"] == "ready"
        assert b"no image two" in cli(s, "image", "import", "--name", "e", "--ref", "two", folder, code=1)[1]
        assert b"oci-layout" in cli(s, "image", "import", "--name", "e", s.folder, code=1)[1]
        cli(s, "image", "import", code=2)
        cli(s, "image", "ls", "--name", "x", code=2)
        for name in "a", "b", "c", "d", "my-app":
            subprocess.run(["e2fsck", "-fn", image_path(s, name)], check=True, capture_output=True)


@test
def no_more_than_four_come_in_at_once():
    with Server(*TOOLS) as s:
        busy = []
        for i in range(4):
            connection = s.connect()
            connection.putrequest("POST", f"/images/import?name=app{i}")
            connection.putheader("Content-Length", "1000")
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
            # Now it is counted.
            assert connection.sock.recv(4096).startswith(b"HTTP/1.1 100 ")
            busy.append(connection)
        refused = post(s, saved(ROOT)).expect(503, "4 imports are under way").json()
        assert refused["retryable"] is True, refused
        for connection in busy:
            connection.close()
        wait_for("their room", lambda: post(s, saved(ROOT)).status == 201)
        assert os.listdir(s.state + "/images") == ["app.ext4"]


def bad_layers():
    yield "..", tar(entry("a/../../x")), ["layer 1 of 1", "a/../../x"]
    yield "whiteout of a parent", tar(entry("a/.wh...")), ["a/.wh..."]
    yield "hard link out", tar(entry("x", type=tarfile.LNKTYPE, linkname="../../etc/passwd")), ["x: a link to ../../etc/passwd"]
    yield "links in circles", tar(entry("a", type=tarfile.SYMTYPE, linkname="a"), entry("a/b")), ["a/b: too many symbolic links"]
    yield "through a file", tar(entry("a"), entry("a/b")), ["a/b", "no directory"]
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 50
    yield "a huge file", huge.tobuf(tarfile.GNU_FORMAT) + bytes(4096), ["huge", "no room is left on a disk of 20480 MiB"]
    whole = tar(entry("cut", os.urandom(20000)))
    yield "cut off", whole[:9000], ["layer 1 of 1"]
    yield "damaged", whole[:100] + b"\xff" * 100 + whole[200:], ["layer 1 of 1"]


@test
def bad_layers_are_refused_by_name_and_leave_nothing():
    with Server(*TOOLS) as s:
        for what, layer, words in bad_layers():
            answer = post(s, saved(layer))
            assert answer.status == 400 and all(w in answer.json()["error"] for w in words), (what, answer.body)
            assert_nothing(s)


@test
def bad_archives_are_refused_and_leave_nothing():
    def edit(**fields):
        return lambda manifest: manifest["layers"][0].update(fields)

    whole = layout(ROOT)
    blob = next(n for n, x in whole.items() if x[:2] == b"\x1f\x8b")
    other = {**whole, blob: gzip.compress(ROOT, mtime=77)}
    cases = [
        (b"", "the archive"), (b"no archive at all" * 100, "the archive"), (tar(entry("x")), "neither oci-layout nor manifest.json"),
        (tar_of(whole)[:2000], ""), (tar_of({n: x for n, x in whole.items() if n != blob}), "is not in the archive"),
        (tar_of(other), "SHA-256"), (tar_of(layout(ROOT, kind="squashfs")), "layer.v1.squashfs\\\" is unknown"),
        (tar_of(layout(ROOT, edit=edit(digest="sha256:../../etc/passwd"))), "is no SHA-256 digest"),
        (saved(ROOT, architecture="s390x"), "s390x"), (saved(ROOT, os="windows"), "windows"),
        (saved(ROOT, rootfs={"diff_ids": []}), "0 diff_ids for 1 layers"),
        (saved(ROOT, rootfs={"diff_ids": ["sha256:" + "0" * 64]}), "diff_id"),
        (saved(ROOT, config={"User": "nobody"}), "USER nobody"), (saved(ROOT, config={"WorkingDir": "/../x"}), "WORKDIR"),
        (saved(ROOT, config={"WorkingDir": "/kept"}), "WORKDIR /kept is no directory"),
        (tar(entry("manifest.json", b"[]")), "no image"), (tar(entry("manifest.json", b"[" * 5000)), "manifest.json"),
    ]
    with Server(*TOOLS) as s:
        for archive, word in cases:
            answer = post(s, archive)
            assert answer.status == 400 and word in answer.body.decode(), (word, answer.status, answer.body)
            assert_nothing(s)
        two = json.dumps([{"Config": "c", "RepoTags": [t], "Layers": ["l"]} for t in ("a:1", "b:1")]).encode()
        post(s, tar(entry("manifest.json", two))).expect(400, "2 images", "a:1, b:1")
        post(s, tar(entry("manifest.json", two)), "name=app&ref=c").expect(400, "a:1, b:1")
        for name in "", "a/b", "../x", ".x", "default", "x" * 129, "-x":
            post(s, saved(ROOT), "name=" + name).expect(400, "name")
        post(s, saved(ROOT), "name=base").expect(409, "template base")
        s.request("POST", "/snapshots", {"name": "snap", "image": {"base": "base", "steps": []}}).expect(201)
        post(s, saved(ROOT), "name=snap").expect(409, "snapshot snap")
        assert_nothing(s)
    with Server("--tools", harness.HERE) as s:
        post(s, saved(ROOT)).expect(501, "dormouse-oci")


@test
def an_import_leaves_nothing_when_the_server_is_killed():
    with Server() as probe:
        tools = os.path.join(probe.folder, "tools")
        os.mkdir(tools)
        with open(tools + "/dormouse-oci", "w") as f:
            f.write(f"#!/bin/sh\necho $$ >{tools}/pid.new; mv {tools}/pid.new {tools}/pid\nexec sleep 1000\n")
        os.chmod(tools + "/dormouse-oci", 0o755)
        shutil.copy(BUILD + "/dormouse-agent", tools)
        with Server("--tools", tools) as s:
            def send():
                try:
                    post(s, saved(ROOT))
                except OSError:
                    pass
            thread = threading.Thread(target=send)
            thread.start()
            wait_for("the import to be under way", lambda: os.path.exists(tools + "/pid"))
            assert [n for n in os.listdir(s.state + "/images") if n.endswith(".new")]
            s.kill()
            thread.join()
            with open(tools + "/pid") as f:
                pid = int(f.read())
            wait_for("its helper to end", lambda: not os.path.exists(f"/proc/{pid}"))
            s.start()
            assert_nothing(s)
            # What has come when the client goes is nobody's.
            connection = s.connect()
            connection.putrequest("POST", "/images/import?name=app")
            connection.putheader("Content-Length", "1000000")
            connection.endheaders(b"x" * 1000)
            connection.close()
            s.request("GET", "/health").expect(200)
            assert_nothing(s)
