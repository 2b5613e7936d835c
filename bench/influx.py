"""What points in InfluxDB cost, with a real one on this machine.

    python bench/influx.py BENCH [OPTION …]     options as Locust takes them, for each run of ``burst``

    sink      points/s of CPU, record to acknowledged write; memory with the database away
    replay    ``lk-users replay`` of 5,000 records
    burst     600 with the sink, without it, and with a database that is away, slow or refuses, in turn: start
              error and lag as ratios to the runs without it
    beside    600 over two workers, of which one has the sink, in each of these states: start error and lag of
              the two as a ratio, so that what else the machine does hits both
    share     what the sink takes of the process in such a burst, by its own account (sink_account.py): lag of
              two runs differs by more than that anyway

``burst`` takes five rounds of five runs, each in another order, and a figure is the median of its rounds.
``beside`` takes as many, and a figure is the geometric mean of its ratios, with a 95 % interval.
ROUNDS=1 in the environment for a short look; KEEP=DIR keeps the run folders of the others there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
# Builders of records, and the proxy that holds answers back.
sys.path[:0] = [str(ROOT / "tests" / "unit"), str(ROOT / "tests" / "integration")]

from builders import RUN_ID, queued_session, write_run  # noqa: E402
from fleet import Fleet  # noqa: E402
from influxdb_client.client.influxdb_client import InfluxDBClient  # noqa: E402
from links import Links  # noqa: E402
from onerun import run as run_burst  # noqa: E402
from slow_proxy import SlowProxy  # noqa: E402

from lk_users.compare.intervals import student_quantile  # noqa: E402
from lk_users.local.influxd import Influxd, find_or_build  # noqa: E402
from lk_users.local.stack import Stack  # noqa: E402
from lk_users.replay import replay as replay_run  # noqa: E402
from lk_users.report.make import make_report  # noqa: E402
from lk_users.settings.process import Influx  # noqa: E402
from lk_users.sinks.influx import Database  # noqa: E402
from lk_users.sinks.lines import line  # noqa: E402
from lk_users.sinks.outbox import Outbox, Spool  # noqa: E402
from lk_users.sinks.points import session_point  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

POINTS = 20_000
AWAY_POINTS = 100_000
ROUNDS = int(os.environ.get("ROUNDS", "5"))
# Regions of the two workers.
SINK, PLAIN = "sink", "plain"
ACCOUNTED = Path(__file__).parent / "sink_account.py"


@contextlib.contextmanager
def database() -> Iterator[Influxd]:
    with tempfile.TemporaryDirectory() as folder, Influxd(find_or_build(print), Path(folder) / "log") as up:
        yield up


def sessions(up: Influxd, run_id: str) -> int:
    """How many session points of the run a query counts."""
    query = (
        f'from(bucket: "{up.bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z) |> filter(fn: (r) => '
        f'r._measurement == "lk_session" and r._field == "ordinal" and r.run == "{run_id}")'
        " |> group() |> count()"
    )
    with InfluxDBClient(up.url, up.token, org=up.org) as client:
        rows = [row.get_value() for table in client.query_api().query(query) for row in table.records]
    return int(rows[0]) if rows else 0


def rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sink() -> None:
    rng = random.Random(1)
    records = [queued_session(rng, ordinal) for ordinal in range(POINTS)]
    with database() as up, tempfile.TemporaryDirectory() as folder:
        client = Database(Influx(up.url, up.org, up.bucket, up.token))
        box = Outbox(Spool(Path(folder) / "w.lp"))
        client.write(b"")
        cpu_s, wall_s = time.process_time(), time.monotonic()
        for record in records:
            box.accept(line(session_point(record)))
        while (chunk := box.next()) is not None:
            answer = client.write(chunk.body)
            assert answer.is_taken, answer.cause
            box.taken()
        cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
        assert sessions(up, RUN_ID) == POINTS
        print(
            f"{POINTS:,} session points: {POINTS / cpu_s:,.0f} points/s of our CPU, {POINTS / wall_s:,.0f} "
            f"with the database on the same machine ({wall_s:.1f} s)"
        )
    with tempfile.TemporaryDirectory() as folder:
        box = Outbox(Spool(Path(folder) / "w.lp"))
        lines = [line(session_point(record)) for record in records]
        before_mb = rss_mb()
        for number in range(AWAY_POINTS):
            box.accept(b"%b" % lines[number % POINTS])
        print(
            f"{AWAY_POINTS:,} session points ({sum(map(len, lines)) / POINTS:,.0f} bytes each) with the "
            f"database away: {rss_mb() - before_mb:.0f} MB more memory, {box.spooled:,} on disk, "
            f"{box.queued:,} queued"
        )


def replay() -> None:
    rng = random.Random(1)
    with database() as up, tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        write_run(
            run_dir, [queued_session(rng, n) for n in range(5000)], workers={"w1": ("eu", 0, 5000)}
        )  # fmt: skip
        make_report(run_dir)
        client = Database(Influx(up.url, up.org, up.bucket, up.token))
        for _ in range(2):
            cpu_s, wall_s = time.process_time(), time.monotonic()
            done = replay_run(run_dir, client)
            cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
            print(
                f"5,000 records: {done.written} points, {done.written / cpu_s:,.0f} points/s of our CPU, "
                f"{done.written / wall_s:,.0f} with the database on the same machine; "
                f"{sessions(up, RUN_ID)} sessions counted by a query"
            )


def run(env: Mapping[str, str], *options: str) -> dict[str, Any]:
    """One burst's summary."""
    with pushed(env):
        return run_burst(600, *options).summary


@contextlib.contextmanager
def pushed(env: Mapping[str, str]) -> Iterator[None]:
    """In our own environment for a while: a token has no place in a command line."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def databases() -> Iterator[tuple[Influxd, dict[str, dict[str, str]]]]:
    """A real one, and the environment that leads to it in each state, by name."""
    with database() as up, SlowProxy(up.port, delay_s=10.0) as slow:
        states = {
            "with": up.env(),
            "away": {**up.env(), "LK_INFLUX_URL": "http://127.0.0.1:9"},
            "slow": {**up.env(), "LK_INFLUX_URL": slow.url},
            "refused": {**up.env(), "INFLUX_TOKEN": "wrong"},
        }
        yield up, states


def share(*options: str) -> None:
    with databases() as (_, states), tempfile.TemporaryDirectory() as folder:
        account = Path(folder) / "account.json"
        for kind, env in states.items():
            with pushed({**env, "SINK_ACCOUNT": str(account)}):
                summary = run_burst(600, *options, locustfile=ACCOUNTED).summary
            took, lag = json.loads(account.read_text()), measured(summary)["lag p95"]
            print(
                f"{kind:<8} CPU from T0 - 1 s to T0 + 5 s {took['cpu_ms']:.1f} ms "
                f"({took['cpu_percent']:.2f} % of a core), at one go up to {took['longest_ms']:.2f} ms, "
                f"where lag p95 is {lag:.0f} ms; while requests left {took['release_cpu_ms']:.2f} ms; "
                f"in the whole run {took['run_cpu_ms']:.0f} ms",
                flush=True,
            )


def burst(*options: str) -> None:
    seen: dict[str, list[dict[str, Any]]] = {}
    for number in range(ROUNDS):
        with databases() as (up, states):
            kinds = {"without": {}, **states}
            for kind in order(list(kinds), number):
                summary = run(kinds[kind], *options)
                if summary["verdict"] == "VOID":
                    sys.exit(f"{kind}: void, so there is nothing to compare: {summary['void_reasons']}")
                seen.setdefault(kind, []).append(summary)
                found = sessions(up, summary["run_id"])
                print(f"{kind:<8} {figures(summary)}, {found} in the database", flush=True)
    plain = medians(seen["without"])
    for kind, summaries in seen.items():
        ratios = (f"{name} {value / plain[name]:.2f}" for name, value in medians(summaries).items())
        print(f"{kind:<8} to without: {', '.join(ratios)}")


def beside(*options: str) -> None:
    """``none``: neither worker has the sink, so that ratio is what chance does."""
    ratios: dict[str, list[dict[str, float]]] = {}
    for number in range(ROUNDS):
        with databases() as (up, states), Stack(say=lambda text: None) as stack, Links() as links:
            for kind, env in {"none": {}, **states}.items():
                with tempfile.TemporaryDirectory() as folder:
                    summary = pair(stack, links, Path(folder), env, *options, sink_last=number % 2 == 1)
                if summary["verdict"] == "VOID":
                    sys.exit(f"{kind}: void, so there is nothing to compare: {summary['void_reasons']}")
                by_region = {region["region"]: region for region in summary["regions"]}
                sink, plain = (moments(by_region[name]) for name in (SINK, PLAIN))
                ratios.setdefault(kind, []).append({name: sink[name] / plain[name] for name in plain})
                told = ", ".join(f"{name} {sink[name]:.1f} beside {plain[name]:.1f}" for name in plain)
                found = sessions(up, summary["run_id"])
                heard = summary["outcomes"].get("ok", 0)
                print(f"{kind:<8} {told} | {heard} ok | {found} in the database", flush=True)
    ratios["any sink"] = [row for kind, rows in ratios.items() if kind != "none" for row in rows]
    for kind, rows in ratios.items():
        means = (f"{name} {geometric([row[name] for row in rows])}" for name in rows[0])
        print(f"{kind:<8} with to without: {', '.join(means)}")


def pair(
    stack: Stack, links: Links, folder: Path, env: Mapping[str, str], *options: str, sink_last: bool
) -> dict[str, Any]:
    """The summary of a burst by two workers, of which ``env`` is one's. ``sink_last``: that one comes second;
    who comes first gets its users first."""
    with Fleet(folder, stack.env(), links) as fleet:
        for region in (PLAIN, SINK) if sink_last else (SINK, PLAIN):
            fleet.add(region, env=env if region == SINK else None)
        # Shorter than what ``finish`` waits, for a session that its agent lets down.
        fleet.lead(600, "--session-timeout", "60", *options)
        return fleet.finish().read().summary


def moments(region: Mapping[str, Any]) -> dict[str, float]:
    """Start error and, from T0 - 1 s to T0 + 5 s, loop lag, in ms."""
    start, lag = region["start_error_ms"], region["start_lag_ms"]
    return {
        "start error p50": start["p50"], "p99": start["p99"], "lag p95": lag["p95"], "longest": lag["max"],
    }  # fmt: skip


def geometric(ratios: Sequence[float]) -> str:
    """Their geometric mean, and its 95 % interval by Student's t."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return f"{math.exp(mean):.2f}"
    half = student_quantile(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.2f} ({math.exp(mean - half):.2f}-{math.exp(mean + half):.2f})"


def order(kinds: Sequence[str], number: int) -> list[str]:
    """Of round ``number``, from 0. In four rounds of five kinds none comes twice right after the same other,
    and in five each begins one. A stride meets all kinds where their number is a prime."""
    stride = number % (len(kinds) - 1) + 1
    return [kinds[(2 * number + step * stride) % len(kinds)] for step in range(len(kinds))]


def figures(summary: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {value:.1f}" for name, value in measured(summary).items())
    account = summary["sinks"].get("influx", {})
    told = ", ".join(f"{name} {account[name]}" for name in ("accepted", "written", "spooled") if account)
    return f"{values} | {summary['outcomes'].get('ok', 0)} ok | {told or 'no sink'}"


def measured(summary: Mapping[str, Any]) -> dict[str, float]:
    """Start error and, from T0 - 1 s to T0 + 5 s, loop lag, in ms; CPU up to the last welcome, in s."""
    [worker] = summary["workers"]
    start, lag = summary["start_error_ms"], worker["start_lag_ms"]
    return {
        "start error p50": start["p50"], "p99": start["p99"], "max": start["max"],
        "lag p95": lag["p95"], "longest": lag["max"], "CPU s": worker["cpu_s"],
    }  # fmt: skip


def medians(summaries: list[dict[str, Any]]) -> dict[str, float]:
    rows = [measured(summary) for summary in summaries]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


BENCHES = {"sink": sink, "replay": replay, "burst": burst, "beside": beside, "share": share}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        sys.exit(f"usage: python bench/influx.py {'|'.join(BENCHES)} [OPTION …]")
    BENCHES[sys.argv[1]](*sys.argv[2:])
