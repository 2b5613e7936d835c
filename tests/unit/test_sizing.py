from __future__ import annotations

import pytest

from lk_users.cli import main
from lk_users.machine import Machine
from lk_users.sizing import lines, machine_line, short_of, size

BIG = Machine(cores=16, memory_mb=64_000, handles=20_000)
REGIONS = {"us-east": 300, "eu": 200, "ap": 100}


def test_a_burst_of_600() -> None:
    found = size(600, dispatch="api", mic=True)
    (part,) = found.regions
    assert (part.name, part.users, part.processes, part.witness_processes, part.cores) == (
        "workers", 600, 2, 0, 2,
    )  # fmt: skip
    assert part.burst_cpu_s == pytest.approx(600 * 0.0124 * 1.5)
    assert part.memory_mb == pytest.approx(2 * 150 + 600 * 0.7)
    assert (part.handles, part.udp_sockets) == (64 + 6 * 300, 600)
    assert part.build_s == pytest.approx(4)
    assert (found.master.users, found.master.memory_mb, found.master.handles) == (0, 210, 66)
    assert found.requests == 3600


def test_each_region_by_itself() -> None:
    found = size(600, dispatch="room", mic=False, region_users=REGIONS)
    assert [(p.name, p.users, p.processes, p.cores) for p in found.regions] == [
        ("us-east", 300, 1, 1),
        ("eu", 200, 1, 1),
        ("ap", 100, 1, 1),
    ]
    assert found.regions[2].burst_cpu_s == pytest.approx(100 * 0.0064 * 1.5)
    assert found.master.handles == 67


@pytest.mark.parametrize(("users", "processes"), [(1, 1), (300, 1), (301, 2), (600, 2), (601, 3), (2000, 7)])
def test_users_a_process(users: int, processes: int) -> None:
    assert size(users, dispatch="token", mic=True).regions[0].processes == processes


def test_witnesses_have_processes_of_their_own() -> None:
    us, eu, ap = size(600, dispatch="api", mic=True, witness=60, region_users=REGIONS).regions
    assert [(p.processes, p.witness_processes, p.cores) for p in (us, eu, ap)] == [
        (1, 2, 3), (1, 1, 2), (1, 1, 2),
    ]  # fmt: skip
    assert us.burst_cpu_s == pytest.approx(270 * 0.0124 * 1.5 + 30 * 0.14)
    assert us.memory_mb == pytest.approx(150 + 270 * 0.7 + 2 * 150 + 30 * 8)


@pytest.mark.parametrize(
    ("dispatch", "requests"), [("api", 600), ("room", 600), ("token", 500), ("none", 500)]
)
def test_requests(dispatch: str, requests: int) -> None:
    assert size(100, dispatch=dispatch, mic=True).requests == requests


def test_network() -> None:
    found = size(600, dispatch="api", mic=True)
    held, burst = found.held(600), found.at_once(600)
    assert (held.packets_in, held.packets_out) == (2400, 3000)
    assert (held.mbit_in, held.mbit_out) == pytest.approx((1.584, 1.536))
    assert (burst.packets_in, burst.packets_out) == (36_000, 15_000)
    assert (burst.mbit_in, burst.mbit_out) == pytest.approx((57.6, 28.8))
    quiet = size(600, dispatch="api", mic=False).held(600)
    assert (quiet.packets_in, quiet.packets_out) == (1200, 1200)


@pytest.mark.parametrize(
    ("machine", "lacks"),
    [
        (Machine(2, 930, 1864), []),
        (Machine(1, 930, 1864), ["2 cores"]),
        (Machine(2, 929, 1864), ["0.9 GB of memory"]),
        (Machine(2, 930, 1863), ["1,864 file handles a process (`ulimit -Hn`)"]),
    ],
)
def test_what_a_machine_lacks(machine: Machine, lacks: list[str]) -> None:
    found = size(600, dispatch="api", mic=True)
    assert short_of([found.master, *found.regions], machine) == lacks


def test_the_machine_at_hand_in_one_line() -> None:
    found = size(600, dispatch="api", mic=True)
    assert machine_line(found, BIG) == (
        "This machine (cores: 16, 64.0 GB, 20,000 handles) would do for all of it with --processes 2."
    )
    assert machine_line(size(100, dispatch="api", mic=True), BIG).endswith("for all of it, in one process.")
    one = Machine(1, 64_000, 20_000)
    assert machine_line(found, one) == (
        "This machine (cores: 1, 64.0 GB, 20,000 handles) would not do: it takes 2 cores."
    )
    shared = size(600, dispatch="api", mic=True, region_users={"us": 400, "eu": 200})
    assert machine_line(shared, one) == (
        "This machine (cores: 1, 64.0 GB, 20,000 handles) would do for one of eu, not for all of it: "
        "that takes 3 cores."
    )


def test_what_is_printed() -> None:
    told = lines(size(600, dispatch="api", mic=True, witness=10, region_users=REGIONS), BIG)
    assert told[0] == (
        "600 users at one instant, dispatch by api, a silent microphone each, 10 of them on the official SDK:"
    )
    row = next(line for line in told if line.startswith("  us-east"))
    assert row.split()[:8] == ["us-east", "300", "1+1", "2", "6.2", "s", "0.5", "GB"]
    assert max(len(line) for line in told[:9]) <= 120
    assert (
        "API: 600 CreateDispatch at T0, then up to 3,000 reads and deletions; at LiveKit Cloud (--api-budget "
        "900 of its 1,000 a minute) about 4 min in all."
    ) in told
    assert told[-1].startswith("This machine (cores: 16")


def test_more_requests_at_once_than_livekit_cloud_takes() -> None:
    over = "are over LiveKit Cloud's 1,000"
    assert any(over in line for line in lines(size(1001, dispatch="room", mic=True), BIG))
    assert not any(over in line for line in lines(size(1000, dispatch="room", mic=True), BIG))
    assert not any(over in line for line in lines(size(5000, dispatch="token", mic=True), BIG))


def test_this_machine() -> None:
    here = Machine.here()
    assert here.cores >= 1
    assert here.memory_mb > 100
    assert here.handles >= 256


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", "--users", "600", "--regions", "us-east=300,eu=300", "--dispatch", "none"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("600 users at one instant, dispatch by none, a silent microphone each:\n")
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--users", "0"], "--users 0: must be at least 1"),
        (["--users", "many"], "argument -u/--users: invalid int value: 'many'; see lk-users size --help"),
        (
            ["-u", "10", "--dispatch", "mail"],
            "--dispatch mail: unknown; use one of api, room, token, none, backend",
        ),
        (["-u", "10", "--mic", "loud"], "--mic loud: unknown; use one of silence, none"),
        (["-u", "10", "--witness", "11"], "--witness 11: larger than the burst of 10 (--users)"),
        (
            ["-u", "10", "--region-users", "eu=9"],
            "--region-users eu=9: that is 9 users, and the burst has 10 (--users)",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", *arguments]) == 12
    assert capsys.readouterr() == ("", f"lk-users: {said}\n")
