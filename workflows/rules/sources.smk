# A source of data/sources.yaml -> data/sources/NAME, a file or a folder. Downloads go on where they broke off.

from ssm_seq.data.sources import read_sources

SOURCES = "data/sources.yaml"


def source_names(folders):
    """A pattern for the names of the sources that are folders, or that are files; one that never matches for none."""
    names = [re.escape(name) for name, source in read_sources(SOURCES).items() if source.is_folder == folders]
    return "|".join(names) or "(?!)"


def source_entry(wildcards):
    """What the sources file says of this one, so that a changed entry is brought again."""
    return str(read_sources(SOURCES)[wildcards.source])


rule source_file:
    output:
        "data/sources/{source}",
    params:
        entry=source_entry,
    wildcard_constraints:
        source=source_names(folders=False),
    retries: 2
    log:
        f"{RESULTS}/logs/sources/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sources/{{source}}.tsv"
    shell:
        "python -m ssm_seq.data.sources {wildcards.source} {output} --sources data/sources.yaml > {log} 2>&1"


use rule source_file as source_folder with:
    output:
        directory("data/sources/{source}"),
    wildcard_constraints:
        source=source_names(folders=True),
    log:
        f"{RESULTS}/logs/sources/folder/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sources/folder/{{source}}.tsv"
