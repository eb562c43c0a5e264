"""What a model says at the end of sequences of any length, read in chunks."""

from torch import Tensor

from ssm_seq.inference.stream import check_chunk, inference
from ssm_seq.models import Classifier, LanguageModel
from ssm_seq.tasks import Example


def right_answers(model: Classifier | LanguageModel, example: Example, chunk: int) -> Tensor:
    """Which answers are right, bool in the shape of `example.answers`.

    The positions before the answers are read `chunk` at a time, with the state carried.
    """
    check_chunk(chunk)
    answered = example.answers.shape[1] if isinstance(model, LanguageModel) else 0
    context = example.inputs.shape[1] - answered
    state, logits = None, None
    with inference(model):
        for part in example.inputs[:, :context].split(chunk, dim=1):
            if answered:  # the logits of all these positions are for nothing
                _, state = model.backbone(part, state)
            else:
                logits, state = model(part, state)
        if answered:
            logits, _ = model.answers(example.inputs[:, context:], answered, state)
        return logits.argmax(-1) == example.answers
