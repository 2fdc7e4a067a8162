"""What the CRD refuses of `data.select`; see crd_rules."""

from __future__ import annotations

from runyard_trainer.contract.data import (
    DEFAULT_NOISE_CLIP,
    PERPLEXITY_REFUSAL,
    RECORD_FORMATS,
    REFERENCE_METHODS,
    TARGET_METHODS,
)


def build_select_rules() -> list[dict[str, str]]:
    """CEL rules that stand on it."""
    formats = sorted({name for names in RECORD_FORMATS.values() for name in names})
    return [
        {"rule": "self.method != 'perplexity'", "message": PERPLEXITY_REFUSAL, "fieldPath": ".method"},
        {
            "rule": f"!(self.method in {list(TARGET_METHODS)}) || has(self.target)",
            "message": "data.select.method similarity or combined needs data.select.target: give texts of the task",
        },
        {
            "rule": f"self.method in {list(TARGET_METHODS)} || !has(self.target)",
            "message": "data.select.target has no use for method novelty-diversity: remove it",
            "fieldPath": ".target",
        },
        {
            "rule": f"self.method in {list(REFERENCE_METHODS)} || !(has(self.reference) || has(self.noiseClip))",
            "message": "data.select.reference and noiseClip have no use for method similarity: remove them",
        },
        {
            "rule": f"!(self.method in {list(REFERENCE_METHODS)}) || "
            f"self.fraction + (has(self.noiseClip) ? self.noiseClip : {DEFAULT_NOISE_CLIP}) <= 1.0",
            "message": f"data.select.fraction and noiseClip ({DEFAULT_NOISE_CLIP} where absent) are more than all "
            "documents together: lower one of them",
            "fieldPath": ".fraction",
        },
        *(
            {
                "rule": f"!has(self.{name}) || !self.{name}.exists(source, source.format in {formats})",
                "message": f"data.select.{name} is read as text, which has no records: write how its files are, or "
                "auto",
                "fieldPath": f".{name}",
            }
            for name in ("target", "reference")
        ),
    ]
