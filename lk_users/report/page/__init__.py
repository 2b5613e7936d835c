"""``report.html``: the run as one page that needs nothing else, with charts by Bokeh.

Imported by nobody on the way of a run: Bokeh takes 0.7 s and 50 MB. Who leads a run has the page made by a
process of its own (:mod:`lk_users.report.aside`).
"""
