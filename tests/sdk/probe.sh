# SPDX-License-Identifier: Apache-2.0
# Runs in a sandbox with live.py: what makes this machine itself, and whether life goes on. Lines: see live.mjs.
# One process of bash, because each fork of a swarm has to run it on one emulated CPU.

ask() {
	exec 3<>/dev/tcp/127.0.0.1/8000
	printf 'GET / HTTP/1.0\r\n\r\n' >&3
	local line body=''
	while IFS= read -r line <&3 || [ -n "$line" ]; do
		body=$line
	done
	exec 3>&-
	echo "$body"
}

count() { # its text, and the number in $n
	read -r text </dev/shm/count
	n=${text##*\"count\": }
	n=${n%%[,\}]*}
}

echo "${EPOCHREALTIME/./}"
read -r line </etc/machine-id && echo "$line"
read -r line </proc/sys/kernel/random/uuid && echo "$line"
head -c 1024 /dev/urandom | od -An -v -tx1 -w1024 | tr -d ' '
ask
count
echo "$text"
first=$n
while [ "$n" -lt $((first + ${1:-0})) ]; do # the counter asks the server at every second step
	sleep 0.2
	count
done
echo "$text"
