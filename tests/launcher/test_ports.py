"""Ports: below the kernel's outgoing range, new for each attempt, no two jobs on one."""

from __future__ import annotations

import socket

from launcher.ports import FIRST_PORT, PORTS, SLOTS, free_port, job_port, key_port

OUTGOING = 32768  # where Linux begins to take ports for outgoing connections


def test_jobs_that_may_meet_on_a_node_never_share_a_port() -> None:
    window = [
        job_port(job, step, restarts)
        for job in range(123_456, 123_456 + PORTS // SLOTS)
        for restarts in range(2)
        for step in range(SLOTS // 2)
    ]
    assert len(set(window)) == len(window)
    assert min(window) >= FIRST_PORT and max(window) < OUTGOING


def test_every_start_of_a_job_has_a_new_port() -> None:
    steps = [job_port(7, step, 0) for step in range(SLOTS // 2)]
    assert len(set(steps)) == len(steps)
    requeued = {job_port(7, step, 1) for step in range(50)}
    assert not requeued & {job_port(7, step, 0) for step in range(50)}


def test_attempts_under_a_name_follow_each_other() -> None:
    first = key_port("runs/a")
    assert key_port("runs/a") == first != key_port("runs/b")
    assert key_port("runs/a", 1) == FIRST_PORT + (first - FIRST_PORT + 1) % PORTS
    assert all(FIRST_PORT <= key_port(f"{n}", n) < OUTGOING for n in range(2000))


def test_a_port_that_is_taken_is_passed_over() -> None:
    first = free_port("some run")
    with socket.socket() as busy:
        busy.bind(("", first))
        busy.listen()
        assert free_port("some run") > first
