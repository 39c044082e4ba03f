# The parts of a report, from their list in src/ofq/report/artefacts.py: one rule each.


for _artefact in ARTEFACTS:

    rule:
        name:
            _artefact.name
        input:
            unpack(PLAN.needs(_artefact)),
        output:
            *outputs(_artefact, PLAN.grid_name, Path(workflow.basedir)),
        log:
            f"logs/{{study}}/{{report}}/{_artefact.name}.log",
        benchmark:
            f"logs/{{study}}/{{report}}/{_artefact.name}.tsv"
        conda:
            "../envs/ofq.yaml"
        resources:
            mem_mb=1000,  # on a cluster together with two processes of Snakemake, 190 each
        params:
            part=_artefact.part,
            group=PLAN.group,
            settings=PLAN.claims_settings if _artefact is CLAIMS else PLAN.report_settings,
            code=PLAN.report_code(_artefact),
        message:
            f"{_artefact.summary.capitalize()}: {{wildcards.study}} {{params.group}}"
        shell:
            "python -m ofq report {params.part} {wildcards.study} {params.group} >> {log} 2>&1"
