"""Which figures the result files allow; their captions say what is seen and how it was measured."""

from dataclasses import dataclass

from ssm_seq.reporting import figures, wording
from ssm_seq.reporting.results import Results, Step
from ssm_seq.reporting.sounds import Sound, opening, read_sound, recordings, sound_pictures
from ssm_seq.reporting.style import to_svg

_EXAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Panel:
    """name: the file's stem; svg: the whole document."""

    name: str
    title: str
    svg: str
    caption: str


def panels(results: Results, sounds: list[Sound]) -> list[Panel]:
    """The figures of an experiment in the order of the page; one without its inputs is left out."""
    return [
        *_classifier(results),
        *_language_model(results),
        *_whole_pass(results),
        *_sounds(results, sounds),
        *_learning(results),
        *([timings_panel(results.steps)] if results.steps else []),
    ]


def sounds_of(results: Results) -> list[Sound]:
    """What there is to hear: recordings of the test split, or the one that a model went on from and how."""
    store, files = results.store, [path for path in results.generated_files if path.suffix == ".wav"]
    if store.sample_rate is None:
        return []
    if not files:
        return recordings(store, _EXAMPLE_SECONDS)
    made = [
        read_sound(path, "generated" if len(files) == 1 else f"generated {number}")
        for number, path in enumerate(files[:3], 1)
    ]
    seconds = len(made[0].samples) / made[0].rate
    prompt = [record for record in store.records if record.name == results.generated["prompt"]]
    recorded = [opening(store, record, seconds, "recorded") for record in prompt]
    return (recorded or recordings(store, seconds, at_most=1)) + made


def generated_text(results: Results, at_most: int = 1200) -> list[tuple[str, str]]:
    """Beginnings of the FASTA or text files that a model made up: (file name, text)."""
    files = [path for path in results.generated_files if path.suffix in (".fa", ".txt")]
    return [(path.name, path.read_text(errors="replace")[:at_most]) for path in files]


def window_result(results: Results) -> dict | None:
    """A classifier's result at the shortest length that is no shorter than its training windows."""
    if not results.evaluation or results.evaluation["task"] != "classify":
        return None
    found = sorted(results.evaluation["results"], key=lambda result: result["length"])
    return next((result for result in found if result["length"] >= results.config.data.window), found[-1])


def positions(results: Results, count: int) -> str:
    """A length in the experiment's unit: '1,024 bases', '8,192 samples (1.02 s)'."""
    return wording.length(count, results.store.alphabet.name, results.store.sample_rate)


def _classifier(results: Results) -> list[Panel]:
    trained = window_result(results)
    if trained is None:
        return []
    evaluated = results.evaluation["results"]
    found = []
    if len(evaluated) > 1:
        caption = (
            f"One model, trained on windows of {positions(results, results.config.data.window)}, reads every "
            f"length in chunks of {wording.count(results.config.evaluate.chunk)} and carries its state from "
            f"one to the next. Bars are 95 % bootstrap intervals over {results.resampled}; dashed lines are "
            "the simple baselines on the same test split."
        )
        svg = to_svg(figures.accuracy_by_length, evaluated, results.baselines, f"{results.unit}s")
        found.append(Panel("accuracy_by_length", "Accuracy by window length", svg, caption))
    caption = (
        f"{wording.count(trained['n'])} test windows of {positions(results, trained['length'])}. Numbers are "
        "windows, colour is the share of the row (the true label)."
    )
    svg = to_svg(figures.confusion, results.evaluation["classes"], trained["confusion"])
    return [*found, Panel("confusion", "Confusion matrix", svg, caption)]


def _language_model(results: Results) -> list[Panel]:
    evaluation, unit = results.evaluation, results.unit
    if not evaluation or evaluation["task"] != "language_model":
        return []
    caption = (
        f"What one {unit} of the test split costs when it is coded with the predictions; fewer bits mean "
        f"better predictions. Measured on {wording.count(evaluation['positions'])} {unit}s; the dark lines "
        f"are 95 % bootstrap intervals over {results.resampled}."
    )
    svg = to_svg(figures.bits_per_byte, evaluation, results.baselines, unit)
    found = [Panel("bits_per_byte", f"Bits per {unit}", svg, caption)]
    if evaluation.get("by_context"):
        caption = (
            f"Bits per {unit} of the test split by how many {unit}s the model had read before; the point "
            "at p stands for p to 2p − 1 of them. Dashed: the baselines over all positions."
        )
        svg = to_svg(figures.bits_by_context, evaluation["by_context"], results.baselines, unit)
        found.append(Panel("bits_by_context", "What a longer context is worth", svg, caption))
    return found


def _whole_pass(results: Results) -> list[Panel]:
    if not results.score:
        return []
    score = max(results.score["records"], key=lambda record: record["length"])
    resident = [point["resident_mib"] for point in score["memory"]]
    says = (
        "the probability of each label, given everything read so far"
        if score["classes"]
        else f"bits per {results.unit} of each chunk"
    )
    caption = (
        f"{score['record']}: {positions(results, score['length'])} in one recurrent pass, "
        f"{wording.duration(score['seconds'])}, {wording.count(score['positions_per_second'])} "
        f"{results.unit}s a second. Above: {says}. Below: resident memory of the whole process, "
        f"{min(resident):.1f} to {max(resident):.1f} MiB."
    )
    svg = to_svg(figures.whole_pass, score, results.unit)
    return [Panel("whole_pass", "One pass over a whole record", svg, caption)]


def _sounds(results: Results, sounds: list[Sound]) -> list[Panel]:
    if not sounds:
        return []
    made, rate = results.generated, results.store.sample_rate
    encoding = {"mu_law": "mu-law", "linear": "linear"}[results.store.alphabet.name]
    if made:
        prompt = f" after the first {made['prompt_length'] / rate:.2g} s of it" if made["prompt"] else ""
        prompt += f" for the label {made['label']}" if made.get("label") else ""
        caption = (
            "Left a recording that the model never saw in training, right what the model made up"
            f"{prompt}, sample by sample in recurrent mode: {wording.count(made['steps_per_second'])} "
            f"samples a second, temperature {made['temperature']:g}, top-p {made['top_p']:g}, "
            f"seed {made['seed']}."
        )
    else:
        caption = "The opening of one test recording for each label."
    caption += (
        " Waveform above, spectrogram below (frames of 256 samples, a range of 70 dB, one scale for all). "
        f"8-bit {encoding} codes at {wording.count(rate)} Hz."
    )
    title = "Recorded and generated" if made else "What the recordings look like"
    return [Panel("sounds", title, to_svg(sound_pictures, sounds), caption)]


def _learning(results: Results) -> list[Panel]:
    if not any("loss" in line for line in results.metrics):
        return []
    optim = results.config.optim
    caption = (
        f"Cross-entropy over {wording.count(optim.steps)} steps of {optim.batch_size * optim.accumulate} "
        f"windows; validation on {optim.valid_batches} batches every {optim.valid_every} steps. Below, the "
        "learning rate."
    )
    return [Panel("loss", "Learning", to_svg(figures.loss_curves, results.metrics), caption)]


def timings_panel(steps: list[Step]) -> Panel:
    """Bars of how long the steps took."""
    caption = "Wall-clock time and largest resident memory of every step, from Snakemake's benchmarks."
    return Panel("timings", "How long it took", to_svg(figures.timings, steps), caption)
