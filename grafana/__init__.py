"""Dashboards as code: one module per dashboard, written as the JSON in `dashboards/` by `python -m grafana.build`."""

import warnings

with warnings.catch_warnings():
    # The SDK prefers the v2 schema, which only the newest Grafana reads; every Grafana in use reads this one. What
    # warns when it is imported is imported here, once for all.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.builders.heatmap  # noqa: F401
