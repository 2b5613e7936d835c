"""A burst in batches of 50, a second apart: does a little patience help?"""

from lk_users import AgentUser


class Caller(AgentUser):
    options = {"batch-size": "50", "batch-delay": "1"}
