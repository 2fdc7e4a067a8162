"""What a finished run leaves: the model, and a record of what training did to it.

    weights ─(export)─> model/      lineage ─> lineage.json
    losses, metrics, answers ─(comparison, chart, continuations, report, eval_json)─> report.html, README.md, eval.json

Nothing here decides what is exported.
"""
