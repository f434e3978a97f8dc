# SPDX-License-Identifier: Apache-2.0
"""Mounts (api.md 13), with programs that stand for mount(8) and rclone."""
import os

from harness import Server, test, wait_for

TOOLS = {
    # A file in the mount point says that something is mounted.
    "mountpoint": '[ -e "$2/.mounted" ]',
    "umount": 'rm "$1/.mounted"',
    "fusermount3": "exit 1",
    "daemon": 'umask >"$1/../umask"; env >"$1/../env"; echo "$@" >"$1/../args"; touch "$1/.mounted"; exec sleep 1000',
    "forks": 'touch "$1/.mounted"; exit 0',
    "fails": 'echo "no such bucket" >&2; exit 3',
    "never": "echo still trying; exec sleep 1000",
    "rclone": 'if [ "$1" = version ]; then echo "rclone v1.60"; exit; fi\n'
              'for a; do case $a in --config=*) cat "${a#--config=}" >"$3/../conf";; esac; done\n'
              'echo "$@" >"$3/../args"; env >"$3/../env"; touch "$3/.mounted"; exec sleep 1000',
}


class Mounts:
    """A sandbox with these tools, and with a folder for mount points."""

    def __init__(self, s, **without):
        self.bin = os.path.join(s.folder, "bin")
        os.makedirs(self.bin, exist_ok=True)
        for name, text in TOOLS.items():
            with open(f"{self.bin}/{name}", "w") as f:
                f.write("#!/bin/sh\n" + text + "\n")
            os.chmod(f"{self.bin}/{name}", 0o755)
        for name in without:
            os.unlink(f"{self.bin}/{name}")
        self.private = f"{s.folder}/private"
        self.b = s.create(envs={"PATH": f"{self.bin}:/usr/bin:/bin", "OC_MOUNTS_DIR": self.private,
                                "OC_FUSE_DEVICE": "/dev/null", "OC_MOUNT_TRIES": "5"})
        self.place = f"{s.folder}/place/mp"

    def add(self, *command, **fields):
        body = {"path": self.place, "driver": "command", "command": list(command), **fields}
        return self.b.request("POST", "/mounts", body)

    def list(self):
        return self.b.request("GET", "/mounts").expect(200).json()

    def remove(self, path=None):
        return self.b.request("DELETE", f"/mounts?path={path or self.place}")

    def file(self, name):
        with open(os.path.join(os.path.dirname(self.place), name)) as f:
            return f.read()

    def daemons(self):
        found = []
        for name in os.listdir(self.private) if os.path.isdir(self.private) else []:
            if name.endswith(".pid"):
                with open(f"{self.private}/{name}") as f:
                    found.append(int(f.read()))
        return found


def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@test
def a_command_mounts_and_secrets_are_nowhere():
    with Server() as s:
        m = Mounts(s)
        assert m.list() == []
        env = {"PLAIN": "a'b \"c\" $d\n2"}
        added = m.add("daemon", "{mountpoint}", "x{path}y", "$HOME;#", env=env, secrets={"TOKEN": "hush"}).expect(201).json()
        entry = {"path": m.place, "driver": "command", "readOnly": True,
                 "command": ["daemon", "{mountpoint}", "x{path}y", "$HOME;#"], "env": env}
        assert added == entry and m.list() == [entry]
        assert m.file("args") == f"{m.place} x{m.place}y $HOME;#\n"
        assert m.file("umask") == "0022\n"
        for line in ("PLAIN=a'b \"c\" $d\n2\n", "TOKEN=hush\n", "OC_MOUNT_READONLY=1\n"):
            assert line in m.file("env"), line
        m.add("daemon", "{mountpoint}").expect(409)
        assert "TOKEN" not in m.b.run("env")["stdout"]
        s.kill()
        s.start()
        assert m.list() == [entry]
        for path in f"{s.state}/dormouse.db", f"{s.state}/dormouse.db-wal", s.log_path:
            if os.path.exists(path):
                with open(path, "rb") as f:
                    assert b"hush" not in f.read(), path
        daemon, = m.daemons()
        m.remove().expect(204)
        wait_for("the daemon to end", lambda: ended(daemon))
        assert m.list() == [] and os.listdir(m.private) == []
        m.remove().expect(404)
        m.add("forks", "{mountpoint}", readOnly=False).expect(201)
        assert m.list()[0]["readOnly"] is False
        m.remove().expect(204)


@test
def what_does_not_mount_says_why_and_leaves_nothing():
    with Server() as s:
        m = Mounts(s)
        m.add("fails").expect(500, "no such bucket", "mount_failed")
        m.add("never").expect(500, "still trying")
        m.add("is-not-there").expect(500, "is-not-there")
        assert m.list() == [] and os.listdir(m.private) == [] and not os.path.exists(m.place)
        m.add("daemon", "{mountpoint}").expect(201)
        os.unlink(f"{m.bin}/umount")
        with open(f"{m.bin}/umount", "w") as f:
            f.write("#!/bin/sh\necho target is busy >&2; exit 32\n")
        os.chmod(f"{m.bin}/umount", 0o755)
        m.remove().expect(500, "target is busy")
        assert len(m.list()) == 1
        # A boot ends all processes, and with them what they mounted.
        m.b.request("POST", "/power-cycle").expect(204)
        assert m.list() == []
        for pid in m.daemons():
            os.kill(pid, 9)


@test
def rclone_gets_its_configuration_in_a_file_of_roots():
    with Server() as s:
        m = Mounts(s)
        added = m.add(driver="rclone", command=None, remote="s3:bucket/pre fix", backend="s3",
                      creds={"access_key_id": "id", "secret_access_key": "hu$h'\""}, mountOptions=["--vfs-cache-mode", "full"])
        assert added.expect(201).json() == {"path": m.place, "driver": "rclone", "readOnly": True, "remote": "s3:bucket/pre fix",
                                            "backend": "s3", "rcloneVersion": "rclone v1.60"}
        assert m.file("conf") == "[s3]\ntype = s3\naccess_key_id = id\nsecret_access_key = hu$h'\"\n\n"
        args = m.file("args")
        assert args.startswith(f"mount s3:bucket/pre fix {m.place} --allow-other --read-only --vfs-cache-mode full --config="), args
        assert "hu$h" not in m.file("env") + args
        conf = [f for f in os.listdir(m.private) if f.endswith(".conf")]
        assert os.stat(m.private).st_mode & 0o777 == 0o700 and os.stat(f"{m.private}/{conf[0]}").st_mode & 0o777 == 0o600
        m.remove().expect(204)
        assert os.listdir(m.private) == []
        raw = m.add(driver="rclone", command=None, remote="x:y", rcloneConfig="[x]\ntype = local\n", readOnly=False).expect(201)
        assert "backend" not in raw.json() and "--read-only" not in m.file("args")
        m.remove().expect(204)
        os.unlink(f"{m.bin}/fusermount3")
        no_fuse = m.add(driver="rclone", command=None, remote="x:y", rcloneConfig="[x]")
        assert no_fuse.status in (501, 201), no_fuse.body  # the machine of the test may have one of its own
        m.remove()
    with Server() as s:
        m = Mounts(s, rclone=False)
        if not os.path.exists("/usr/bin/rclone"):
            m.add(driver="rclone", command=None, remote="x:y", rcloneConfig="[x]").expect(501, "rclone is not in")


@test
def requests_for_mounts_that_are_none():
    with Server() as s:
        m = Mounts(s)
        for fields, word in (({"path": "mnt"}, "path"), ({"path": None}, "path"), ({"path": "/"}, "path"),
                             ({"path": "/a/../b"}, "path"), ({"path": "/a/.."}, "path"), ({"path": "/a//b"}, "path"),
                             ({"path": "/a\nb"}, "path"), ({"path": "/" + "a" * 2000}, "path"), ({"path": "/a/"}, "path"),
                             ({"driver": "nfs"}, "driver"), ({"driver": 1}, "driver"), ({"command": "x"}, "command"),
                             ({"command": []}, "command"), ({"command": ["a", 1]}, "command"), ({"command": ["a\0"]}, "command"),
                             ({"env": {"a b": "x"}}, "env"), ({"secrets": {"A": 1}}, "secrets"), ({"readOnly": "no"}, "readOnly"),
                             ({"driver": "rclone"}, "remote"), ({"driver": "rclone", "remote": "bucket"}, "remote"),
                             ({"driver": "rclone", "remote": "-x:y", "backend": "s3"}, "remote"),
                             ({"driver": "rclone", "remote": "a:b"}, "backend"),
                             ({"driver": "rclone", "remote": "a:b", "backend": "ftp"}, "backend"),
                             ({"driver": "rclone", "remote": "a:b", "backend": "s3", "rcloneConfig": "x"}, "either"),
                             ({"driver": "rclone", "remote": "a:b", "backend": "s3", "creds": {"a": "b\nc"}}, "creds")):
            m.add("daemon", "{mountpoint}", **fields).expect(400, word)
        m.b.request("DELETE", "/mounts").expect(400)
        assert m.list() == []
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", "?path=/x")):
            s.request(method, "/api/sandboxes/sb-00000000/mounts" + path, {} if method == "POST" else None).expect(404)
