"""Names of columns of metrics.csv that more than one module reads."""

from __future__ import annotations

MODES = ("FB", "NX_0", "NX_10")  # of evaluation; their metrics are "MODE_METRIC"
SCORE = "NX_0_R_tra"
MAY_BE_UNDEFINED = ("MCD", "Diversity")  # metrics: without categories, without tags
ALL_USERS = "NX_0_all_users_R_tra"  # SCORE, of every user instead of 100 drawn ones
