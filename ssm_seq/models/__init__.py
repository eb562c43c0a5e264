"""Embedding, blocks and head: the models that are trained, saved and streamed."""

from ssm_seq.models.classifier import Classifier, ClassifierState
from ssm_seq.models.language_model import LanguageModel
from ssm_seq.models.loading import load_model
from ssm_seq.models.model import Model
from ssm_seq.models.regressor import Regressor

__all__ = ["Classifier", "ClassifierState", "LanguageModel", "Model", "Regressor", "load_model"]
