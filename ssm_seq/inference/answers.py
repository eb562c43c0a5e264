"""What a model says at the end of sequences of any length, read in chunks."""

from torch import Tensor

from ssm_seq.inference.stream import check_chunk, inference
from ssm_seq.models import Classifier, LanguageModel, Regressor
from ssm_seq.tasks import Example


def final_answers(model: Classifier | LanguageModel | Regressor, example: Example, chunk: int) -> Tensor:
    """Logits of the classes (sequences, classes), or what the model says at the positions that are asked for:
    logits of ids (sequences, answered, vocab_size) or real values (sequences, answered, outputs).

    The positions before the answers are read `chunk` at a time, with the state carried.
    """
    check_chunk(chunk)
    answered = 0 if isinstance(model, Classifier) else example.answers.shape[1]
    context = example.inputs.shape[1] - answered
    state, said = None, None
    with inference(model):
        for part in example.inputs[:, :context].split(chunk, dim=1):
            if answered and part.shape[1]:  # what is said at these positions is for nothing
                _, state = model.backbone(part, state)
            elif not answered:
                said, state = model(part, state)
        if answered:
            said, _ = model.answers(example.inputs[:, context:], answered, state)
    return said


def right_answers(model: Classifier | LanguageModel, example: Example, chunk: int) -> Tensor:
    """Which answers are right, bool in the shape of `example.answers`."""
    return final_answers(model, example, chunk).argmax(-1) == example.answers


def relative_squares(model: Regressor, example: Example, chunk: int) -> Tensor:
    """`relative_mean_square` of the model's answers."""
    return relative_mean_square(final_answers(model, example, chunk).float(), example.answers)


def relative_mean_square(answers: Tensor, true: Tensor) -> Tensor:
    """Mean square error of each sequence's answers over the mean square of the true ones, (sequences,)."""
    return (answers - true).square().flatten(1).mean(1) / true.square().flatten(1).mean(1)
