"""The architecture as tests: who may import whom, where time and state may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import lk_users

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = Path(lk_users.__file__).parent
# Low to high; a module imports from its own layer (without a circle) and lower ones. A package is one name.
LAYERS = (
    "masking agent_name address outcome clock record settings errors version stats priority machine cachedir",
    "course plan steps barrier health slo slo_grammar evidence jobs classify welcome agent_worker sizing "
    "capacity",
    "search ladder batches courses",
    "wire",
    "engines",
    "session ending burst reading agents_seen",
    "sinks verdict",
    "report",
    "cleanup replay runtime returns compare",
    "agent_watch influx_stream master_link",
    "series",
    "preflight credentials carries books worker master interrupt",
    "placement user wiring tools",
    "commands",
    "cli",
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer.split()}
# The embedded stack is a target, apart from all that measures it.
LOCAL_MAY_IMPORT = {"errors", "version", "cachedir", "clock", "evidence", "wire", "local"}
LOCUST_MODULES = {
    "user",
    "runtime",
    "credentials",
    "books",
    "worker",
    "master",
    "master_link",
    "agent_watch",
    "influx_stream",
    "interrupt",
    "series",
    "wiring",
    "placement",
    "sinks.locust_stats",
}
CLOCK_CALLS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "datetime.now",
    "datetime.utcnow",
    "datetime.datetime.now",
}
MUTABLE_CALLS = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"}
CONSTANT_TYPES = ("Final", "Mapping", "Sequence", "tuple", "frozenset")


def modules() -> dict[str, ast.Module]:
    """Name within the package → its tree; ``__init__`` of a subpackage goes by the package's name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        trees[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


TREES = modules()
NODES = {module: tuple(ast.walk(tree)) for module, tree in TREES.items()}


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Full names; ``from a import b`` gives a.b, which is a module or a name in one."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str:
    """``lk_users.sinks.jsonl.Journal`` → ``sinks.jsonl``; empty for the package itself and for others."""
    parts = name.split(".")
    if parts[0] != "lk_users":
        return ""
    while len(parts) > 1 and ".".join(parts[1:]) not in TREES:
        parts.pop()
    return ".".join(parts[1:])


def layer(module: str) -> str:
    return module.split(".")[0]


INNER = [name for name in TREES if name]


def test_every_module_has_its_layer() -> None:
    assert {layer(module) for module in INNER} - {"local"} == RANK.keys()


def test_imports_point_downwards() -> None:
    def allowed(module: str, target: str) -> bool:
        if layer(module) == "local":
            return layer(target) in LOCAL_MAY_IMPORT
        if layer(module) == "commands" and layer(target) == "local":
            return True
        return layer(target) in RANK and RANK[layer(target)] <= RANK[layer(module)]

    found = [
        f"{module} imports {target}"
        for module in INNER
        for target in filter(None, map(own, imports(NODES[module])))
        if not allowed(module, target)
    ]
    assert found == []


def test_there_is_no_circle() -> None:
    graph = {
        module: {target for target in map(own, imports(TREES[module].body)) if target and target != module}
        for module in INNER
    }
    TopologicalSorter(graph).prepare()


def test_who_may_import_locust() -> None:
    foreign = {
        module
        for module in TREES
        if {name.split(".")[0] for name in imports(NODES[module])} & {"locust", "gevent"}
    }
    assert foreign <= LOCUST_MODULES


def test_import_leaves_locust_out() -> None:
    code = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        "    print(module, *sorted({'locust', 'gevent'} & sys.modules.keys()))"
    )
    modules = ["lk_users", "lk_users.engines.sdk_child", "lk_users.local.agent", "lk_users.cli"]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == modules


def test_an_sdk_child_is_an_ordinary_user_of_the_sdk() -> None:
    """Nothing patched, and nothing of a session but what it must know."""
    code = "import sys, lk_users.engines.sdk_child; print(*sorted(m for m in sys.modules if 'lk_users' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {layer(own(module)) for module in done.stdout.split()} - {""}
    assert loaded <= {"agent_name", "clock", "engines", "errors", "evidence", "version", "wire"}


def test_one_module_knows_the_sdk() -> None:
    knows = {
        module
        for module, nodes in NODES.items()
        if any(name.startswith("livekit.rtc") for name in imports(nodes))
    }
    assert knows == {"engines.sdk_child", "engines.sdk_seam"}


def test_the_page_is_imported_by_nobody_on_the_way_of_a_run() -> None:
    """Its library of charts takes 50 MB: only the command that makes a page imports it, and when it does."""
    heavy = [
        module
        for module in TREES
        if not module.startswith("report.page")
        and any(name.startswith(("bokeh", "lk_users.report.page")) for name in imports(TREES[module].body))
    ]
    assert heavy == []
    lazy = [module for module in TREES if "lk_users.report.page.write.write_page" in imports(NODES[module])]
    assert lazy == ["commands.report"]


def test_time_is_read_in_one_place() -> None:
    last_names = {call.rsplit(".", 1)[1] for call in CLOCK_CALLS}
    read = [
        f"{module}, line {node.lineno}: {ast.unparse(node)}"
        for module in TREES
        if module != "clock" and layer(module) != "local"
        for node in NODES[module]
        if isinstance(node, ast.Attribute) and node.attr in last_names and ast.unparse(node) in CLOCK_CALLS
    ]
    assert read == []


def test_no_module_level_mutable_state() -> None:
    """What could be changed in place is declared as what is not; and nothing rebinds a module's name."""
    assert [fault for module in TREES for fault in mutable_state(module)] == []


def mutable_state(module: str) -> Iterator[str]:
    for node in NODES[module]:
        if isinstance(node, ast.Global):
            yield f"{module}, line {node.lineno}: global"
    for node in TREES[module].body:
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
            if is_mutable(node.value) and names != ["__all__"]:
                yield f"{module}, line {node.lineno}: {names[0]}"
        elif isinstance(node, ast.AnnAssign) and node.value is not None and is_mutable(node.value):
            kind = ast.unparse(node.annotation).split("[")[0].rsplit(".", 1)[-1]
            if kind not in CONSTANT_TYPES:
                yield f"{module}, line {node.lineno}: {ast.unparse(node.target)}: {kind}"


def is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rsplit(".", 1)[-1] in MUTABLE_CALLS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
