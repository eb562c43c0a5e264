"""The console script `ssm-seq COMMAND`: paths are options, values are Hydra overrides."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ssm_seq import __version__
from ssm_seq.errors import InputError

SUMMARIES = {
    "prepare": "Turn the FASTA, BAM/CRAM or audio files of a sample sheet into a byte store.",
    "train": "Train a model on a store or a task; killed and started again, it goes on from a checkpoint.",
    "evaluate": "Judge a model, or the simple baselines, on the test split of a store or a task.",
    "score": "Read every record of a file in one recurrent pass, in constant memory; killed, it goes on.",
    "generate": "Sample from a language model step by step, as WAV or FASTA.",
    "bench": "Time the kernels and models on this machine, beside floors, targets and other libraries.",
    "convert": "Turn a language model into the layout of mamba-ssm, of transformers or of this library.",
}
PATHS = {
    "store": "folder of a byte store (from prepare); tasks that draw their sequences need none",
    "samples": "sample sheet (TSV: sample, path, label, group, split) instead of the experiment's",
    "model": "folder of a trained model",
    "input": "FASTA or audio file or store to read, - for standard input",
    "tracks": "folder for values of every position: score.outputs=[bigwig,bedgraph,embeddings,pooled]",
    "variants": "calls (VCF or BCF) to score instead of --input; --out is then a folder",
    "reference": "FASTA file that the calls refer to",
    "state": "state to go on from: a state.safetensors that generate.state=true wrote",
    "out": "where the result goes; it appears whole or not at all",
}
# Which path options a command takes; those with a star may be left out.
OPTIONS = {
    "prepare": ["samples*", "out"],
    "train": ["store*", "out"],
    "evaluate": ["store*", "model*", "out"],
    "score": ["model", "input*", "out", "tracks*", "variants*", "reference*"],
    "generate": ["model", "store*", "state*", "out"],
    "convert": ["model", "out"],
    "bench": ["out*"],
}
NO_OVERRIDES = {"convert", "bench"}
# What bench chooses from. The models are those of the device: on a CPU one beside transformers.
KERNELS = ["scan", "conv", "lti_scan", "s4d", "rms_norm", "linear_cross_entropy", "mixer", "selective_step"]
GROUPS = [*KERNELS, "models", "s4_kernel", "decode", "first_call", "score"]
LAYOUTS = ["mamba_ssm", "transformers", "ssm_seq"]
VALUES = """\
Values are Hydra overrides of the tree in config/; ssm_seq/config.py says what each means:
  ssm-seq train --store results/stores/genomes --out results/species experiment=species optim.steps=50
"""
MISTAKES = "Bad input ends with one sentence and exit code 2.\n"


def parser() -> argparse.ArgumentParser:
    """The whole command line. It imports no command, so that --help answers at once."""
    top = argparse.ArgumentParser(
        prog="ssm-seq",
        description="State-space models on very long sequences: DNA and raw audio, from files to reports.",
        epilog=VALUES + MISTAKES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"ssm-seq {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in SUMMARIES.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=MISTAKES if name in NO_OVERRIDES else VALUES + MISTAKES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name not in NO_OVERRIDES:
            command.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides")
            command.add_argument(
                "--config-dir", type=Path, default="config", metavar="DIR", help="Hydra tree"
            )
        threads = 2 if name == "bench" else None  # figures of CPUs are figures of two threads
        command.add_argument(
            "--threads",
            type=positive,
            metavar="N",
            default=threads,
            help=f"CPU threads (default: {threads or 'all cores'})",
        )
        for option in OPTIONS[name]:
            path = option.rstrip("*")
            command.add_argument(
                f"--{path}", type=Path, required=path == option, metavar="PATH", help=PATHS[path]
            )
        if name == "evaluate":
            command.add_argument("--baselines", action="store_true", help="simple baselines, no model")
        if name == "score":
            command.add_argument("--record", metavar="NAME", help="this record only")
        if name == "generate":
            # Values, but of any letters: as overrides they would need Hydra's quotes.
            command.add_argument("--label", metavar="NAME", help="class of what is made: generate.label")
            command.add_argument("--prompt", metavar="LETTERS", help="what comes first: generate.prompt")
        if name == "bench":
            command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
            command.add_argument("--only", nargs="+", choices=GROUPS, help="measure these and nothing else")
            command.add_argument("--commit", help="what is measured, where it is not git's HEAD")
        if name == "convert":
            command.add_argument("--layout", choices=LAYOUTS, required=True, help="what to write")
            command.add_argument("--alphabet", help="what another library's ids mean: dna, mu_law or linear")
            command.add_argument("--sample-rate", type=positive, metavar="HZ", help="with mu_law and linear")
    return top


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when it worked, 1 when bench has cases that failed, 2 for bad input, 130 when
    interrupted."""
    # Overrides may stand before, between and behind the options; argparse alone takes one run of them.
    options, more = parser().parse_known_args(arguments)
    if unknown := [item for item in more if item.startswith("-") or "overrides" not in options]:
        parser().error(f"unknown option {unknown[0]}; see ssm-seq {options.command} --help")
    if more:
        options.overrides += more
    # Waiting threads sleep: where jobs share the cores, spinning ones made training 3 to 8 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.threads:
        # Read by OpenMP, MKL and Numba when they start, hence before the command's imports.
        os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(options.threads)
    try:
        return importlib.import_module(f"ssm_seq.commands.{options.command}").run(options) or 0
    except InputError as error:
        print(f"ssm-seq {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"ssm-seq {options.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ssm-seq {options.command}: stopped; run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
