"""A burst: every user at the same instant. ``locust -f locustfiles/burst.py --headless -u 600 -r 600``"""

from lk_users import AgentUser


class Caller(AgentUser):
    pass
