# A source of data/sources.yaml -> data/sources/NAME, a file or a folder. Downloads go on where they broke off.

import re

from ssm_seq.data.sources import read_sources

SOURCES = plainly(read_sources)("data/sources.yaml")
FOLDER_SOURCES = "|".join(re.escape(name) for name in SOURCES if SOURCES[name].is_folder)
FILE_SOURCES = "|".join(re.escape(name) for name in SOURCES if not SOURCES[name].is_folder)


rule source_file:
    output:
        "data/sources/{source}",
    log:
        f"{RESULTS}/logs/source_file/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/source_file/{{source}}.tsv"
    wildcard_constraints:
        source=FILE_SOURCES or "(?!)",
    retries: 2
    params:
        entry=lambda wildcards: str(SOURCES[wildcards.source]),
    shell:
        "python -m ssm_seq.data.sources {wildcards.source} {output} --sources data/sources.yaml > {log} 2>&1"


use rule source_file as source_folder with:
    output:
        directory("data/sources/{source}"),
    log:
        f"{RESULTS}/logs/source_folder/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/source_folder/{{source}}.tsv"
    wildcard_constraints:
        source=FOLDER_SOURCES or "(?!)",
