from __future__ import annotations

import itertools
import random
import time
from fractions import Fraction

import pytest
from slo_texts import outcome_of, rule, texts

from lk_users import slo_grammar
from lk_users.errors import Refused
from lk_users.outcome import ORDER
from lk_users.record import Mark, Phase
from lk_users.slo_grammar import KEYS, SESSION_NAMES, TIME_NAMES, Rule


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        slo_grammar.parse(text)
    return refused.value.faults


def the_rule(text: str) -> Rule:
    (one,) = slo_grammar.parse(text)
    return one


@pytest.mark.parametrize(
    ("text", "function", "name", "op", "limit", "percent"),
    [
        ("count(lost) == 0", "count", "lost", "==", 0, 100),
        ("count(ok)>=600", "count", "ok", ">=", 600, 100),
        ("count(welcomed) > 5", "count", "welcomed", ">", 5, 100),
        ("rate(ok) >= 0.99", "rate", "ok", ">=", Fraction("0.99"), 100),
        ("rate( ok )  >  99.9 %", "rate", "ok", ">", Fraction("0.999"), 100),
        ("rate(welcomed) >= 99.5%", "rate", "welcomed", ">=", Fraction("0.995"), 100),
        ("rate(theirs) != 0%", "rate", "theirs", "!=", 0, 100),
        ("p95(welcomed) <= 3000", "p95", "welcomed", "<=", 3000, 95),
        ("p95(agent_joined)<=3s", "p95", "agent_joined", "<=", 3000, 95),
        ("p99.9(first_audio) < 2.5 s", "p99.9", "first_audio", "<", 2500, Fraction("99.9")),
        ("p50(server_queue) <= 3000 ms", "p50", "server_queue", "<=", 3000, 50),
        ("p100(speak) <= 0.0001 ms", "p100", "speak", "<=", Fraction("0.0001"), 100),
        ("max(start_error) <= 50ms", "max", "start_error", "<=", 50, 100),
    ],
)
def test_forms(text: str, function: str, name: str, op: str, limit: Fraction, percent: Fraction) -> None:
    assert the_rule(text) == Rule(
        " ".join(text.split()), function, name, op, Fraction(limit), Fraction(percent)
    )


@pytest.mark.parametrize(
    ("clauses", "by", "where"),
    [
        ("by region", "region", ()),
        ("by batch", "batch", ()),
        ("in region=eu", "", (("region", "eu"),)),
        ("in region = us-east.1_b", "", (("region", "us-east.1_b"),)),
        ("in region=by", "", (("region", "by"),)),
        ("in engine=sdk, batch=24", "", (("engine", "sdk"), ("batch", "24"))),
        ("by batch in region=eu", "batch", (("region", "eu"),)),
        ("in region=eu by batch", "batch", (("region", "eu"),)),
        ("in burst=1,region=3s", "", (("burst", "1"), ("region", "3s"))),
    ],
)
def test_clauses(clauses: str, by: str, where: tuple[tuple[str, str], ...]) -> None:
    found = the_rule(f"p95(agent_joined) {clauses} <= 3s")
    assert (found.by, found.where, found.limit) == (by, where, Fraction(3000))
    assert the_rule(f"p95(agent_joined){clauses}<=3s") == Rule(
        f"p95(agent_joined){clauses}<=3s",
        "p95",
        "agent_joined",
        "<=",
        Fraction(3000),
        Fraction(95),
        by,
        where,
    )


def test_every_name_is_known_and_stands_for_one_thing() -> None:
    for finding in ORDER:
        assert len(slo_grammar.parse(f"count({finding}) == 0; rate({finding}) <= 1")) == 2
    for name in ("lost", "duplicate", "ours", "open", "theirs", *Mark):
        assert len(slo_grammar.parse(f"count({name}) == 0")) == 1
    for name in (*Mark, *Phase, "start_error"):
        assert len(slo_grammar.parse(f"p90({name}) < 1 s; max({name}) < 1 s")) == 2
    assert len({*SESSION_NAMES, *TIME_NAMES}) == len(SESSION_NAMES) + len(Phase) + 1


def test_several_are_separated_by_semicolons() -> None:
    assert [one.text for one in slo_grammar.parse(" count(lost) == 0 ;; max(speak) < 1 s; ")] == [
        "count(lost) == 0",
        "max(speak) < 1 s",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("p95(agent_joind) <= 3s", "character 5: unknown name agent_joind; nearest: agent_joined"),
        ("count(lots) == 0", "character 7: unknown name lots; nearest: lost"),
        ("count(Lost) == 0", "character 7: unknown name Lost; nearest: lost"),
        ("lost == 0", "character 1: unknown function lost(); use count(lost) == 0, rate(ok) >= 99 %"),
        ("conut(lost) == 0", "character 1: unknown function conut(); nearest: count"),
        ("P95(welcomed) <= 3s", "character 1: unknown function P95(); nearest: p95"),
        ("mean(welcomed) <= 3 s", "character 1: unknown function mean(); there is no mean, since it hides"),
        ("avg(welcomed) <= 3 s", "character 1: unknown function avg(); there is no mean, since it hides"),
        ("p0(welcomed) <= 3 s", "character 1: p0() is no percentile; use p50"),
        ("p100.1(welcomed) <= 3 s", "character 1: p100.1() is no percentile"),
        ("(lost) == 0", "character 1: found (, expected a function first; use count(lost)"),
        ("count lost == 0", "character 7: found lost, expected ( and a name, as in count(lost)"),
        ("count() == 0", "character 7: found ), expected an outcome, a group or a mark"),
        ("p95() <= 3s", "character 5: found ), expected a mark or a phase"),
        ("p95(welcomed <= 3s", "character 14: found <=, expected a closing )"),
        ("p95(lost) <= 3 s", "character 5: lost is no time; use count() or rate()"),
        ("count(speak) == 3", "character 7: speak is a length of time; use p95() or max()"),
        ("count(lost)", "character 12: expected an operator, found the end; use one of == != <= < >= >"),
        ("count(lost) = 0", "character 13: unknown operator =; use one of == != <= < >= >"),
        ("p95(welcomed) => 3", "character 15: unknown operator =>"),
        ("p95(welcomed) ≤ 3s", "character 15: unexpected ≤; use count(lost) == 0"),
        ("count(lost) == 0.5", "character 16: '0.5' is no count; use a whole number"),
        ("count(lost) == 1 %", "character 16: '1 %' is no count"),
        ("count(lost) == -1", "character 16: '-1' is no count"),
        ("count(lost) ==", "character 15: '' is no count"),
        ("count(lost) == 0 always", "character 16: '0 always' is no count"),
        ("count(lost) == 0, count(ok) == 1", "character 16: '0, count(ok) == 1' is no count"),
        (
            "rate(ok) >= 99",
            "character 13: '99' is no rate; use 0 to 1 or a percentage, for example 0.99 or 99 %",
        ),
        ("rate(ok) >= 1 s", "character 13: '1 s' is no rate"),
        ("rate(ok) >= 101 %", "character 13: '101 %' is no rate"),
        ("p95(welcomed) <= 3 m", "character 18: '3 m' is no time; use ms or s"),
        ("p95(welcomed) <= 3 %", "character 18: '3 %' is no time"),
        ("p95(welcomed) <= 1e3", "character 18: '1e3' is no time"),
        ("p95(welcomed) <= ٣", "character 18: unexpected ٣"),
        ("p95(welcomed) <= 9999999999999", "character 18: '9999999999999' is no time"),
        (
            "p95(welcomed) <= 3s by region",
            "character 21: by comes before the operator, as in p95(welcomed) by",
        ),
        (
            "p95(welcomed) per region <= 3s",
            "character 15: unknown word per; by, in or an operator comes here",
        ),
        ("p95(welcomed) by regoin <= 3s", "character 18: unknown word regoin; nearest: region"),
        ("p95(welcomed) by <= 3s", "character 18: found <=, expected one of region, engine, batch, burst"),
        (
            "p95(welcomed) by room <= 3s",
            "character 18: unknown word room; use one of region, engine, batch, bu",
        ),
        (
            "p95(welcomed) by region by batch < 3",
            "character 25: by region was said before; a rule is by one key",
        ),
        ("p95(welcomed) in region <= 3s", "character 25: expected = and a value, as in region=eu"),
        ("p95(welcomed) in region==eu <= 3s", "character 24: expected = and a value, as in region=eu"),
        ("p95(welcomed) in region= <= 3s", "character 26: found <=, expected a value, as in region=eu"),
        ("p95(welcomed) in batch=0 <= 3s", "character 24: 0 is no number of a batch; 1 is the first"),
        ("p95(welcomed) in burst=one <= 3s", "character 24: one is no number of a burst; 1 is the first"),
        ("p95(welcomed) in engine=lissen <= 3", "character 25: unknown engine lissen; nearest: listen"),
        (
            "p95(welcomed) in region=a, region=b <= 3",
            "character 28: region was said before; it has one value",
        ),
        ("p95(welcomed) in region=a in batch=1 < 3", "character 27: in was said before; a comma separates"),
        ("p95(welcomed\0) <= 3", "character 13: unexpected \\x00; use"),
        ("p95(\udcff) <= 3", "character 5: unexpected \\udcff; use"),
    ],
)
def test_a_bad_rule_is_one_line_that_points_at_the_character(text: str, fault: str) -> None:
    (line,) = faults_of(text)
    shown = text.replace("\0", "\\x00").replace("\udcff", "\\udcff")
    assert line.startswith(f"--slo '{shown}': {fault}")
    assert line.isprintable()


def test_the_character_is_that_of_the_rule_as_shown() -> None:
    (line,) = faults_of("count(lost) == 0;\n  p95( \t agent_joind ) <= 3s")
    assert line.startswith("--slo 'p95( agent_joind ) <= 3s': character 6: ")
    (line,) = faults_of("p95('agent_joind') <= 3s")
    assert line.startswith("--slo \"p95('agent_joind') <= 3s\": character 5: unexpected '")


def test_an_unknown_name_with_nothing_near_lists_what_there_is() -> None:
    (line,) = faults_of("p95(happiness) <= 1")
    assert line.endswith(f"unknown name happiness; pNN() takes one of {', '.join(TIME_NAMES)}")


def test_all_bad_rules_are_listed_at_once() -> None:
    assert len(faults_of("count(x) == 0; count(lost) == 0; p95(y) < 1")) == 2


@pytest.mark.parametrize("text", ["", " ; ;", "\n"])
def test_no_rule_at_all_is_refused(text: str) -> None:
    (fault,) = faults_of(text)
    assert fault.startswith("--slo: empty")


def test_what_is_too_long_is_refused_at_once() -> None:
    started_s = time.perf_counter()
    (fault,) = faults_of("p95(" + "9" * 10_000_000)
    assert fault.endswith("character 201: too long: 10000004 characters; at most 200 are taken")
    assert len(fault) < 300
    many = [f"count(lost) == {number};" for number in range(100_000)]
    (fault,) = faults_of("".join(many))
    assert fault == "--slo: 100000 of them; at most 100 are taken"
    assert len(slo_grammar.parse("".join(many[:100]))) == 100
    assert time.perf_counter() - started_s < 5


def test_any_text_is_a_value_or_a_clear_line() -> None:
    """The 100,000 are in the other tier."""
    outcomes = [outcome_of(text) for text in itertools.islice(texts(random.Random(8)), 5000)]
    assert outcomes.count("value") > 1000
    assert outcomes.count("refused") > 1000


def test_every_rule_of_the_grammar_is_one() -> None:
    rng = random.Random(9)
    for _ in range(500):
        (one,) = slo_grammar.parse(text := rule(rng))
        assert one.text == " ".join(text.split())
        assert one.by in ("", *KEYS)
