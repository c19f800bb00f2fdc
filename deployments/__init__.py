"""Prefect deployments over the presets. Nothing is deployed yet; `flows.study_flow` can be served as it is."""
