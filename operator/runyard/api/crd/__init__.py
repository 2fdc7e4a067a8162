"""Make the CRDs from the models: `make generate`.

    models ─(generate)─> OpenAPI schema, and their cross_rules + rules ─> x-kubernetes-validations
                         ─> crds/*.yaml, charts/runyard/crds/*.yaml

Nothing that runs in a cluster imports this.
"""
