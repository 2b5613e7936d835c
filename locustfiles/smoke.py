"""Does it work at all? One user, one session after another, for as long as ``-t`` says."""

from lk_users import AgentUser


class Caller(AgentUser):
    options = {"release": "free"}
