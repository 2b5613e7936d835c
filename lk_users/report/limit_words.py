"""A search for a limit in words and tables. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.report.words import Summary

    Section = Mapping[str, Any]

RUNG_HEAD = ("users", "met", "agent there p50", "p99", "welcomed p99", "no welcome")
CELL_HEAD = ("batches of", "every", "met", "agent there p50", "p99", "welcomed p99", "all in", "no welcome")


def lines(summary: Summary) -> list[str]:
    """What is to be said beside the first sentence, and of which burst the summary's figures are."""
    if ladder := summary.get("ladder"):
        said = [*_interval_lines(ladder), *_probe_lines(ladder), *_judged_lines(summary, ladder)]
    elif search := summary.get("batch_search"):
        said = [*_compare_lines(search), *_probe_lines(search), *_judged_lines(summary, search)]
    else:
        said = []
    return said


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """A head and a row for each size, or plan, with the worst of its bursts; empty where there was none."""
    if ladder := summary.get("ladder"):
        by_users = _grouped(ladder["rungs"], ("users",))
        made = [(str(users), *_figures(own)) for (users,), own in sorted(by_users.items())]
        return [RUNG_HEAD, *made] if made else []
    if search := summary.get("batch_search"):
        by_plan = _grouped(search["cells"], ("batch_size", "batch_delay_s"))
        made = []
        for (size, delay_s), own in sorted(by_plan.items()):
            every = f"{delay_s:g} s" if size < search["users"] else "all at once"
            *figures, lost = _figures(own)
            made.append((str(size), every, *figures, _worst(own, "all_in_ms"), lost))
        return [CELL_HEAD, *made] if made else []
    return []


def slo_rows(summary: Summary) -> list[tuple[str, ...]]:
    """A head and a row for each burst of a search: what each SLO was."""
    section = words.search_section(summary)
    tried = _tried(section) if section else []
    if section is None or not tried:
        return []
    texts = [slo["text"] for slo in tried[0]["slo"]]
    made = []
    for one in tried:
        what = str(one["users"]) if "users" in one else plan_words(one, section["users"])
        values = (f"{words.slo_value(slo)}{'' if slo['ok'] else ' (missed)'}" for slo in one["slo"])
        made.append((str(one["burst"]), what, str(one["repeat"]), *values))
    return [("burst", "users" if "rungs" in section else "plan", "repeat", *texts), *made]


def plan_words(cell: Mapping[str, Any], users: int) -> str:
    """``in batches of 25 every 1 s`` or ``at once``."""
    if cell["batch_size"] >= users:
        return "at once"
    return f"in batches of {cell['batch_size']} every {cell['batch_delay_s']:g} s"


def ladder_text(ladder: Section) -> str:
    """The result as a sentence without its end."""
    limit, sizes = ladder["limit"], ladder["sizes"]
    if limit is None:
        return "no limit was found"
    if limit == 0:
        return f"not even {words.plural(sizes[0], 'user')} at once meet the SLOs"
    text = f"{words.plural(limit, 'user')} at once meet the SLOs"
    failed = [rung["users"] for rung in ladder["rungs"] if not rung["ok"] and rung["users"] > limit]
    return f"{text}, {min(failed)} do not" if failed else f"{text}; more were not asked for"


def _interval_lines(ladder: Section) -> list[str]:
    climbs, limits = len(ladder["climbs"]), [climb["limit"] for climb in ladder["climbs"]]
    if not climbs:
        return []
    if ladder["confidence"] is None:
        return ["One climb says nothing about chance: --repeats 3 gives an interval."]
    where = f"from {ladder['low']} to {ladder['high']}"
    if ladder["high"] is None:
        where = f"{ladder['low']} or more"
    found, sure = ", ".join(map(str, limits)), f"{100 * ladder['confidence']:.0f} %"
    return [f"Limits of {climbs} climbs: {found}. With {sure} confidence it is {where}."]


def batch_text(search: Section) -> str:
    """The result as a sentence without its end."""
    users, plan = words.plural(search["users"], "user"), search["plan"]
    if plan is None:
        return f"none of {words.plural(_plans(search), 'plan')} for {users} met the SLOs"
    text = f"{users} {plan_words(plan, search['users'])} meet the SLOs"
    text += f": p99 {words.duration(plan['agent_joined_ms']['p99'])} to the agent"
    return text + (f", all in {words.duration(plan['all_in_ms'])}" if plan["all_in_ms"] is not None else "")


def _compare_lines(search: Section) -> list[str]:
    plan, at_once = search["plan"], search["at_once"]
    if plan is None or at_once is None or plan["batch_size"] >= search["users"]:
        return []
    joined, before = plan["agent_joined_ms"]["p99"], at_once["agent_joined_ms"]["p99"]
    text = f"All at once it is p99 {words.duration(before)} to the agent"
    if joined:
        text += f", {before / joined:.1f} times as much"
    if at_once["all_in_ms"] is not None:
        text += f", and all in {words.duration(at_once['all_in_ms'])}"
    return [text + "."]


def _probe_lines(section: Section) -> list[str]:
    """Whether the target was idle before each burst."""
    probes = section["probes"]
    if not probes:
        return []
    known = [probe["agent_joined_ms"] for probe in probes if probe["ok"]]
    busy = sum(not probe["ok"] for probe in probes)
    text = (
        f"Before each burst one user alone found the target idle, after at most {words.duration(max(known))}"
    )
    waited = f"; {words.plural(busy, 'probe')} before found it busy" if busy else ""
    return [f"{text}{waited}."] if known else []


def _tried(section: Section) -> Sequence[Mapping[str, Any]]:
    tried: Sequence[Mapping[str, Any]] = section["rungs"] if "rungs" in section else section["cells"]
    return tried


def _judged_lines(summary: Summary, section: Section) -> list[str]:
    burst = summary["judged_burst"]
    judged = [one for one in _tried(section) if one["burst"] == burst]
    if not judged:
        return []
    users = judged[0].get("users", section.get("users"))
    how = "" if "rungs" in section else f" {plan_words(judged[0], users)}"
    return [f"The SLOs and times shown are of burst {burst}, {words.plural(users, 'user')}{how}."]


def _plans(search: Section) -> int:
    return len({(cell["batch_size"], cell["batch_delay_s"]) for cell in search["cells"]})


def _grouped(
    tried: Sequence[Mapping[str, Any]], names: tuple[str, ...]
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in tried:
        groups.setdefault(tuple(one[name] for name in names), []).append(one)
    return groups


def _figures(own: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    met = sum(one["ok"] for one in own)
    joined, welcomed = [one["agent_joined_ms"] for one in own], [one["welcomed_ms"] for one in own]
    return (
        f"{met} of {len(own)}",
        _worst(joined, "p50"),
        _worst(joined, "p99"),
        _worst(welcomed, "p99"),
        str(max(one["lost"] for one in own)),
    )


def _worst(figures: Sequence[Mapping[str, Any]], name: str) -> str:
    """A dash where one of them is not known."""
    values = [one[name] for one in figures]
    return words.duration(None if None in values else max(values))
