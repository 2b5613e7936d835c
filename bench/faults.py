"""Faults of the reference agent against the embedded stack: does every record say what was done wrong?

python bench/faults.py table      every fault of the table 20 times, in one burst
python bench/faults.py founding   20 agents cut off 36 s in, each back 9 s later, under --watch 60
python bench/faults.py clock      600 by api: do the server's stamps and the users' marks agree?
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter, defaultdict

from onerun import run

from lk_users.report import words
from lk_users.report.clocks import contradictions

TIMES = 20
# Fault, its times, and the outcomes that it demands. With --session-timeout 40 and --welcome-timeout 4.
TABLE: tuple[tuple[str, dict[str, int], tuple[str, ...]], ...] = (
    ("none", {}, ("ok",)),
    ("slow_join", {"delay_ms": 2000}, ("ok",)),
    ("slow_join", {"delay_ms": 60_000}, ("assigned_not_joined",)),
    ("reject", {}, ("rejected", "never_assigned")),
    ("ignore", {}, ("never_assigned",)),
    ("slow_welcome", {"delay_ms": 6000}, ("welcome_late",)),
    ("silent", {}, ("welcome_missing",)),
    ("text_only", {}, ("welcome_missing",)),
    ("freeze", {}, ("welcome_missing",)),
    ("eager", {}, ("welcome_clipped", "welcome_missing")),
    ("background", {}, ("welcome_missing",)),
    ("die_after_join", {}, ("agent_left", "welcome_missing")),
    ("end", {}, ("agent_ended",)),
    ("rejoin", {}, ("agent_rejoined",)),
    ("cut", {"delay_ms": 4000, "back_ms": 1000}, ("agent_rejoined",)),
    ("duplicate", {}, ("duplicate_agent",)),
    ("bystander", {}, ("ok",)),
)


def table() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        for fault, times_ms, _ in TABLE:
            print(json.dumps({"lk": {"fault": fault, **times_ms}}), file=lines, flush=True)
        # --dispatch room: by api, 20 jobs a second would use up the time of those that come last.
        options = ("--dispatch", "room", "--session-timeout", "40", "--welcome-timeout", "4", "--watch", "6")
        done = run(TIMES * len(TABLE), "--metadata", f"@{lines.name}", *options)
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for record in done.records:
        fault, _, demanded = TABLE[record.ordinal % len(TABLE)]
        found[record.ordinal % len(TABLE)][record.outcome.value] += 1
        if record.outcome not in demanded:
            print(f"{fault}: {record.findings}, marks {record.marks_ns}, {record.evidence}")
    wrong = 0
    for row, (fault, times_ms, demanded) in enumerate(TABLE):
        strange = sum(count for outcome, count in found[row].items() if outcome not in demanded)
        wrong += strange
        times = " ".join(f"{name} {value}" for name, value in times_ms.items())
        outcomes = ", ".join(f"{outcome} {count}" for outcome, count in found[row].most_common())
        print(f"{fault:15} {times:28} {outcomes}{'   <- not demanded' if strange else ''}")
    print(f"{len(done.records)} records, {wrong} not as demanded, exit {done.code}, {done.wall_s:.0f} s")


def founding() -> None:
    metadata = json.dumps({"lk": {"fault": "cut", "delay_ms": 36_000, "back_ms": 9_000}})
    done = run(20, "--dispatch", "room", "--watch", "60", "--metadata", metadata)
    print(f"{done.summary['outcomes']}, exit {done.code}, {done.wall_s:.0f} s")
    for record in done.records:
        print(f"  {record.cause}")
    print(done.text)


def clock() -> None:
    done = run(600)
    summary, records = done.summary, done.records
    found = {record.session_id: why for record in records if (why := contradictions(record))}
    print(f"{len(records) - len(found)} of {len(records)} agree; {summary['outcomes']}; {summary['groups']}")
    for line in (*words.time_lines(summary), *words.trust_lines(summary)):
        print(f"  {line}")
    reads_ms = 1000 * sum(worker["read_cpu_s"] for worker in summary["workers"]) / len(records)
    print(f"  Reads and clean-up after the burst: {reads_ms:.1f} ms CPU a session.")
    for session_id, why in found.items():
        print(f"  {session_id}: {'; '.join(why)}")


BENCHES = {"table": table, "founding": founding, "clock": clock}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in BENCHES:
        sys.exit(f"usage: python bench/faults.py {'|'.join(BENCHES)}")
    BENCHES[sys.argv[1]]()
