# SPDX-License-Identifier: Apache-2.0
"""Containers, FUSE and WireGuard in a guest, with Debian's own programs (image `docker`) and no network outside.

The cases are in the table of cases.py.
"""

from vmm import Vmm

# dockerd gives a containerd of its own 15 s to start, which an emulated machine may not keep.
# --userland-proxy=false: a published port is then iptables' doing alone.
DOCKERD = """
    set -e
    start() { # PROGRAM WHAT-IT-LOGS-ONCE-IT-SERVES [OPTION...]
        program=$1 serves=$2
        shift 2
        $program "$@" >/var/log/$program.log 2>&1 </dev/null &
        until grep -q "$serves" /var/log/$program.log; do
            kill -0 $! || { cat /var/log/$program.log >&2; exit 1; }
            sleep 0.1
        done
    }
    start containerd 'containerd successfully booted'
    start dockerd 'API listen on' --containerd /run/containerd/containerd.sock --userland-proxy=false
    # Not 127.0.0.1, which Docker leaves alone.
    ip link add outside type dummy
    ip address add 10.9.9.9/32 dev outside
    ip link set outside up
"""

IMPORT = """
    set -e
    mkdir -p /tmp/tree/bin /tmp/tree/www
    cp /usr/bin/busybox /tmp/tree/bin/
    for applet in sh cat grep httpd hostname readlink wget; do ln -s busybox /tmp/tree/bin/$applet; done
    tar -C /tmp/tree -c . | docker import - tiny >&2
    docker info --format '{{.Driver}} {{.CgroupVersion}} {{.Images}}'
"""

# What a container sees of itself, told over its own network.
SERVER = """
    cd /www
    cat /sys/fs/cgroup/memory.max >memory
    cat /sys/fs/cgroup/pids.max >pids
    readlink /proc/self/ns/net >net
    grep ' / overlay ' /proc/mounts >root
    exec httpd -f -p 80
"""


def docker_runs():
    with Vmm() as vm:
        vm.boot(image="docker.ext4", memory_mib=1024)
        vm.sh(DOCKERD)
        assert vm.sh(IMPORT).split() == ["overlay2", "2", "1"]
        vm.guest(
            *"exec docker run -d --name web -m 64m --pids-limit 50 -p 8080:80 tiny /bin/sh -c".split(), SERVER
        )
        # From the guest to the published port: DNAT, and the bridge.
        fetch = "until busybox wget -qO- http://10.9.9.9:8080/root; do sleep 0.1; done;"
        fetch += " for f in memory pids net; do busybox wget -qO- http://10.9.9.9:8080/$f; done; readlink /proc/self/ns/net"
        root, memory, pids, net, our_net = vm.sh(fetch).splitlines()
        assert "/var/lib/docker/overlay2/" in root, root
        assert (memory, pids) == (str(64 << 20), "50")
        assert net.startswith("net:[") and net != our_net, (net, our_net)
        # From a second container to the first one: over the bridge, and with an exit code of its own.
        client = "wget -qO- http://172.17.0.2/memory && echo stderr >&2 && exit 7"
        done = vm.guest(*"exec docker run --rm tiny /bin/sh -c".split(), client, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, f"{64 << 20}\n", "stderr\n"), done
        rules = vm.sh("iptables -t nat -S && docker rm -f web && iptables -t nat -S")
        assert rules.count("--to-destination 172.17.0.2:80") == 1, rules


def fuse_mounts():
    with Vmm() as vm:
        vm.boot(image="docker.ext4")
        merged = vm.sh("""
            set -e
            mkdir /tmp/lower /tmp/upper /tmp/work /tmp/merged
            echo lower >/tmp/lower/a
            fuse-overlayfs -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work /tmp/merged
            echo more >>/tmp/merged/a
            cat /tmp/merged/a /tmp/lower/a
            grep -c ' /tmp/merged fuse' /proc/mounts
            umount /tmp/merged
            cat /tmp/upper/a
        """)
        assert merged.split() == ["lower", "more", "lower", "1", "lower", "more"], merged
        # The other of the two libraries that there are, over a file system that the kernel knows as well.
        written = vm.sh("""
            set -e
            mkdir /tmp/mnt
            mke2fs -q -t ext2 /tmp/disk 8M >&2
            fuse2fs -f /tmp/disk /tmp/mnt >&2 &
            until grep -q ' /tmp/mnt fuse' /proc/mounts; do kill -0 $!; sleep 0.1; done
            echo through fuse >/tmp/mnt/a
            umount /tmp/mnt
            # The last of it is written when the kernel has let go of it.
            wait $!
            mount -o loop /tmp/disk /tmp/mnt
            cat /tmp/mnt/a
        """)
        assert written == "through fuse\n", written


def wireguard_pings():
    with Vmm() as vm:
        vm.boot(image="docker.ext4")
        told = vm.sh("""
            set -e
            for side in 1 2; do
                ip netns add side$side
                wg genkey >/tmp/key$side
                wg pubkey </tmp/key$side >/tmp/pub$side
            done
            ip link add cable1 netns side1 type veth peer name cable2 netns side2
            for side in 1 2; do
                other=$((3 - side))
                ip -n side$side address add 10.1.0.$side/24 dev cable$side
                ip -n side$side link set cable$side up
                ip -n side$side link add wg0 type wireguard
                ip netns exec side$side wg set wg0 private-key /tmp/key$side listen-port 5182$side \\
                    peer "$(cat /tmp/pub$other)" allowed-ips 10.2.0.$other/32 endpoint 10.1.0.$other:5182$other
                ip -n side$side address add 10.2.0.$side/24 dev wg0
                ip -n side$side link set wg0 up
            done
            ip netns exec side1 ping -n -c 2 10.2.0.2 >&2
            for side in 1 2; do ip netns exec side$side wg show wg0 transfer | cut -f2,3; done
        """)
        counters = [int(n) for n in told.split()]
        # Received and sent, on both sides: a handshake and two pings have more than 300 bytes.
        assert len(counters) == 4 and min(counters) > 300, told
