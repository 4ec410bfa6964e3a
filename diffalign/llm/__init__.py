"""Language models: the same preference core and the same loop, fed with token log-probabilities."""

from diffalign.llm.evidence import sequence_evidence
from diffalign.llm.models import LanguageModel, load_language_model
from diffalign.llm.texts import Text
from diffalign.llm.tokenize import Tokens, Writer

__all__ = ["LanguageModel", "Text", "Tokens", "Writer", "load_language_model", "sequence_evidence"]
