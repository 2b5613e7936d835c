"""The options: name, default and help of each, as Locust shows them, and what each may be. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DISPATCHES: Final = ("api", "room", "token", "none", "backend")
ORDERS: Final = ("dispatch-first", "join-first", "session-first")
RELEASES: Final = ("barrier", "free")
COURSES: Final = ("bursts", "ladder", "batches")
ENGINES: Final = ("listen", "idle")
MICS: Final = ("silence", "none")
ICES: Final = ("auto", "host", "relay")
WELCOME_ITEMS: Final = ("state", "track", "audio", "text")
RESTART_POLICIES: Final = ("", "on-failure", "never")
TEMPLATE_OPTIONS: Final = ("metadata", "attributes", "room-metadata", "session-body")


@dataclass(frozen=True)
class Option:
    """One Locust option. ``name`` without dashes; its variable is ``LK_`` + the name in capitals."""

    name: str
    default: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def dest(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return "LK_" + self.dest.upper()


RUN_OPTIONS: Final = (
    Option("agent-name", "", "Agent to dispatch; empty: the unnamed agent."),
    Option("dispatch", "", "How the agent is asked for: api, room, token or none. Default: api with a name."),
    Option("order", "", "dispatch-first or join-first. Default: dispatch-first where there is a choice."),
    Option("session-url", "", "Your own token endpoint, asked at T0; users join with its tokens."),
    Option("session-body", "", "JSON that it is sent; also {room}, {identity}. Default: LiveKit's standard."),
    Option("release", "barrier", "barrier: all at one T0. free: when Locust spawns a user, then in a loop."),
    Option("engine", "listen", "How a session takes part: listen (hears), idle (does nothing; for benches)."),
    Option("mic", "silence", "Each user's microphone: silence (as a real client's) or none."),
    Option("ice", "auto", "How media gets there: host, relay (TURN), or auto: TURN where host fails."),
    Option("witness", "0", "So many of each burst's sessions by the official SDK, to compare."),
    Option("batch-size", "0", "Sessions a batch inside a burst; 0: all at T0."),
    Option("batch-delay", "1.0", "Seconds between batches."),
    Option("region-users", "", "Users of each region, for example us-east=300,eu=200; default: even."),
    Option("bursts", "1", "How many bursts a run has."),
    Option("burst-interval", "0", "Seconds between the end of a burst and the next."),
    Option(
        "course", "bursts", "What a run is: bursts (with baseline, control), or a search: ladder, batches."
    ),
    Option("ladder-sizes", "auto", "Course ladder: sizes of bursts to climb; auto: 10, 20, 40 … to -u."),
    Option("batch-sizes", "auto", "Course batches: batch sizes to try; auto: 25, 10, 50."),
    Option("batch-delays", "auto", "Course batches: seconds between batches, each tried; auto: searched."),
    Option("repeats", "auto", "Climbs of a ladder, tries of each plan of batches; auto: 3 and 1."),
    Option("baseline", "", "So many sessions one by one before the burst. Default: 1 when headless, else 0."),
    Option("control", "", "The same users once more, after the burst, spread out: spread=60s."),
    Option("session-timeout", "120", "Seconds from the intended start to the latest verdict on a session."),
    Option("welcome", "audio", "All of these make the welcome: state,track,audio,text."),
    Option("expect-text", "", "Regular expression that the welcome's text must match; makes text required."),
    Option("welcome-timeout", "10", "Seconds after the agent joined; a later welcome is late."),
    Option("watch", "0", "Seconds to go on observing after the welcome."),
    Option("metadata", "", "JSON for the job; {session_id} etc. in strings; @file.jsonl cycles by ordinal."),
    Option("attributes", "", "JSON object of strings: the user's participant attributes."),
    Option("room-metadata", "", "JSON for the room."),
    Option("deployment", "", "Deployment of the agent, as in the dispatch API."),
    Option("restart-policy", "", "on-failure or never, as in the dispatch API."),
    Option("api-budget", "", "API requests a minute. Default: 900 on LiveKit Cloud, else no limit."),
    Option("agent-worker-url", "", "The agent's workers by HTTP, comma-separated: reports their load."),
    Option("slo", "count(lost) == 0; count(duplicate) == 0", "What makes the run a pass; ';' separates."),
    Option("project-id", "", "Project of LiveKit Cloud (p_…); its support asks for it first. For reports."),
    Option("park-timeout", "120", "Seconds from all users spawned to all users ready."),
    Option("trailer-timeout", "30", "Seconds to wait for the workers' last word."),
    Option("max-start-error", "50", "Milliseconds, p99; beyond it the run is void."),
    Option("max-stall", "1000", "Milliseconds the generator's loop may stall before the run is void."),
    Option("max-clock-uncertainty", "250", "Milliseconds; beyond it the run is void."),
)
INFLUX_OPTIONS: Final = (
    Option("influx-url", "", "InfluxDB 2 that points go to, as http://127.0.0.1:8086; with INFLUX_TOKEN."),
    Option("influx-org", "lk-users", "Organization in InfluxDB."),
    Option("influx-bucket", "lk-users", "Bucket in InfluxDB."),
)
PROCESS_OPTIONS: Final = (
    Option("region", "local", "Name of this process's region."),
    Option("run-dir", "runs", "Folder for run folders."),
    Option("allow-cloud", "", "yes: really load LiveKit Cloud (billed, and subject to its terms)."),
    *INFLUX_OPTIONS,
)
