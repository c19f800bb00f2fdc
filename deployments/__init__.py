"""Prefect deployments in work pools: `prefect.yaml` over the presets, and the pools that it names."""
