#!/bin/sh
# What a Slurm on one machine needs, from Debian or Ubuntu. Says what is missing to whoever is not root.
set -eu
set -- slurmctld slurmd slurm-client munge iproute2 openssh-client openssh-server pdsh \
    shellcheck faketime
missing=""
for program in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge ip:iproute2 \
    ssh-keygen:openssh-client sshd:openssh-server pdsh:pdsh shellcheck:shellcheck faketime:faketime; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${program%%:*}" >/dev/null || missing="$missing ${program#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # A service that the packages would start is not wanted: the tests start their own.
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } \
        >"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
    rm -f "$log"
else
    echo "the tests on Slurm need$missing: as root, \`apt-get install $*\`" >&2
    exit 1
fi
