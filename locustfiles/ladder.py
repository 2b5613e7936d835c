"""How many users at once meet the SLOs? ``-u`` is the most that is tried; see docs/limits.md."""

from lk_users import AgentUser


class Caller(AgentUser):
    options = {"course": "ladder"}
