"""In which batches do ``-u`` users meet the SLOs, and are all welcomed soonest? See docs/limits.md."""

from lk_users import AgentUser


class Caller(AgentUser):
    options = {"course": "batches"}
