#!/bin/bash
# The head of the test cluster: the first process of its own network, host name, mount and process
# namespaces. Everything of the cluster is below it, so that killing it ends all and leaves nothing.
# head.sh ROOT NODES NET [NEEDED …]
set -euo pipefail
root=$1 nodes=$2 net=$3
here=$(dirname "$(realpath "$0")")

hostname head
mount --bind "$root/hosts" /etc/hosts
mount --bind "$root/nsswitch" /etc/nsswitch.conf
mount --bind "$root/ssh/client" /etc/ssh/ssh_config
# Jobs of other users need these folders, which lie in one that is closed to them, such as root's
# home. In here, and nowhere else, an open folder with nothing but these takes its place.
if [ $# -gt 3 ]; then
    mount -t tmpfs tmpfs /mnt
    for needed in "${@:4}"; do
        mkdir -p "/mnt/$needed"
        mount --bind "$needed" "/mnt/$needed"
    done
    for needed in "${@:4}"; do
        mountpoint -q "${needed%/*}" || mount -t tmpfs -o mode=755 tmpfs "${needed%/*}"
        mkdir "$needed"
        mount --bind "/mnt/$needed" "$needed"
    done
fi
ip link set lo up
ip link add lab type bridge
ip addr add "$net.1/24" dev lab
ip link set lab up

export SLURM_CONF=$root/slurm.conf
munged --foreground --key-file="$root/munge/key" --socket="$root/munge/sock" \
    --pid-file="$root/munge/pid" --log-file="$root/log/munged" --seed-file="$root/munge/seed" \
    2>>"$root/log/munged.start" &
until [ -S "$root/munge/sock" ]; do sleep 0.01; done
slurmctld -D >/dev/null 2>"$root/log/slurmctld.start" &

for i in $(seq "$nodes"); do
    mkdir -p "$root/spool.n$i" "$root/tmp.n$i"
    unshare --net --uts --mount --pid --fork --mount-proc --kill-child \
        bash "$here/node.sh" "$root" "$i" "$net" </dev/null >"$root/log/node.n$i" 2>&1 &
    parent=$!
    child=
    until [ -n "$child" ]; do read -r child _ <"/proc/$parent/task/$parent/children" || sleep 0.01; done
    echo "$child" >"$root/pid.n$i"
    ip link add "lab$i" type veth peer name eth0 netns "$child"
    ip link set "lab$i" master lab up
done
wait
