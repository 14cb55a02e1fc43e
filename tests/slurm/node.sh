#!/bin/bash
# One node: own address, host name, /dev/shm, /run, sshd, slurmd. node.sh ROOT NUMBER NET
set -euo pipefail
root=$1 i=$2 net=$3
hostname "n$i"
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
until ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done
ip link set lo up
ip addr add "$net.$((10 + i))/24" dev eth0
ip link set eth0 up
ip route add default via "$net.1"
/usr/sbin/sshd -D -e -f "$root/ssh/server" 2>"$root/log/sshd.n$i" &
slurmd -D &
wait $!  # as the first process, this shell also buries what tasks leave behind
