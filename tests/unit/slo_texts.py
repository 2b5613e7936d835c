"""Texts that are, almost are, or are not at all objectives, by a seed; and what each has to come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builders import never_assigned, welcomed

from lk_users import slo
from lk_users.errors import Refused
from lk_users.slo_grammar import KEYS, OPERATORS, SESSION_NAMES, TIME_NAMES

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

PIECES = (
    *SESSION_NAMES, *TIME_NAMES, *KEYS, *OPERATORS,
    "count", "rate", "max", "p95", "p99.9", "p0", "p101", "mean", "by", "in", "(", ")", ",", "%", "=", ";",
    " ", "ms", "s", "m", "0", "1", "99.5", "-1", "1e999", "0.0.0", ".", "9" * 40, "eu", "us-east", "listen",
    "nan", "inf", "\n", "\t", "\0", "\udcff", "\u2028", "é", "≤", "٣", "'", '"', "\\", "{", "{0}", "%s",
    "$(id)", "`id`", "()" * 60,
)  # fmt: skip
MOST_PIECES = 24
RECORDS = (welcomed(0, region="eu"), never_assigned(1, region="eu", burst=2), welcomed(2, region="ap"))


def texts(rng: random.Random) -> Iterator[str]:
    """Without end: rules of the grammar, most of them with something wrong, and noise."""
    while True:
        kind = rng.random()
        if kind < 0.2:
            yield rule(rng)
        elif kind < 0.7:
            yield mutated(rng, rule(rng))
        elif kind < 0.85:
            yield "".join(rng.choice(PIECES) for _ in range(rng.randrange(MOST_PIECES)))
        elif kind < 0.95:
            yield "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(40)))
        else:
            yield rng.randbytes(rng.randrange(60)).decode("latin-1")


def rule(rng: random.Random) -> str:
    """One that follows the grammar, in any spacing."""
    kind = rng.choice(("count", "rate", "max", f"p{rng.randrange(1, 101)}", f"p{rng.uniform(0.1, 99):.3f}"))
    name = rng.choice(SESSION_NAMES if kind in ("count", "rate") else TIME_NAMES)
    clauses = [f"by {rng.choice(KEYS)}"] if rng.random() < 0.3 else []
    if rng.random() < 0.3:
        chosen = rng.sample(KEYS, rng.randrange(1, len(KEYS) + 1))
        values = {"region": "eu", "engine": "listen", "batch": "1", "burst": "2"}
        clauses.append("in " + ", ".join(f"{key}={values[key]}" for key in chosen))
    rng.shuffle(clauses)
    if kind == "count":
        limit = str(rng.randrange(700))
    elif kind == "rate":
        limit = rng.choice(("0", "1", "0.995", "99.5%", "99 %", "100%"))
    else:
        limit = f"{rng.uniform(0, 9999):.{rng.randrange(10)}f}" + rng.choice(("", "ms", " ms", "s", " s"))
    spaces = rng.choice(("", " ", "  "))
    return spaces.join([f"{kind}({name}) {' '.join(clauses)} ", rng.choice(OPERATORS), limit])


def mutated(rng: random.Random, text: str) -> str:
    """With up to three pieces put in, left out, doubled or swapped."""
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        until = min(len(text), at + rng.randrange(6))
        text = rng.choice(
            (
                text[:at] + rng.choice(PIECES) + text[at:],
                text[:at] + text[until:],
                text[:until] + text[at:],
                text[:at] + text[at:until][::-1] + text[until:],
                text[:at] + chr(rng.randrange(0x110000)) + text[until:],
                text + ";" + text,
            )
        )
    return text


def outcome_of(text: str) -> str:
    """``value`` or ``refused``. Fails on anything but a value that can be evaluated, or a line a fault."""
    faults: tuple[str, ...] = ()
    slos: tuple[slo.Slo, ...] = ()
    try:
        slos = slo.parse(text)
    except Refused as refused:
        faults = tuple(refused.faults)
    assert bool(slos) is not bool(faults)
    for line in faults:
        assert line.startswith("--slo")
        assert line.isprintable()
        assert len(line) < 2000
    for one in slos:
        result = one.evaluate(RECORDS)
        assert (result.value is None) is bool(result.missing)
        assert not (result.missing and result.ok)
    return "refused" if faults else "value"
