"""Language models: the same preference core, fed with token log-probabilities."""

from diffalign.llm.evidence import sequence_evidence

__all__ = ["sequence_evidence"]
