# Artefacts of the paper beside its main tables, for the grids that have what they show.


rule comparison:
    input:
        metrics=metrics_of,
    output:
        expand(
            "results/{{study}}/{{report}}/tables/comparison.{suffix}",
            suffix=PLAIN_TABLE,
        ),
        table=report(
            "results/{study}/{report}/tables/comparison.html",
            caption="../report/comparison.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "pairs of variants"},
        ),
    log:
        "logs/{study}/{report}/comparison.log",
    benchmark:
        "logs/{study}/{report}/comparison.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.comparison"),
    message:
        "Compare pairs of variants of {wildcards.study} {params.group}"
    shell:
        "python -m ofq comparison {wildcards.study} {params.group} > {log} 2>&1"


rule annealing:
    input:
        annealing=annealing_of,
    output:
        "results/{study}/{report}/figures/annealing.svg",
        figure=report(
            "results/{study}/{report}/figures/annealing.png",
            caption="../report/annealing.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "weights left in the band"},
        ),
    log:
        "logs/{study}/{report}/annealing.log",
    benchmark:
        "logs/{study}/{report}/annealing.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.annealing"),
    message:
        "Draw what annealing leaves in the band in {wildcards.study} {params.group}"
    shell:
        "python -m ofq annealing {wildcards.study} {params.group} > {log} 2>&1"


rule boundary_range:
    input:
        metrics=metrics_of,
        annealing=annealing_of,
    output:
        expand(
            "results/{{study}}/{{report}}/tables/boundary_range.{suffix}",
            suffix=PLAIN_TABLE,
        ),
        "results/{study}/{report}/figures/scale_trajectories.svg",
        table=report(
            "results/{study}/{report}/tables/boundary_range.html",
            caption="../report/boundary_range.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "boundary range"},
        ),
        figure=report(
            "results/{study}/{report}/figures/scale_trajectories.png",
            caption="../report/scale_trajectories.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "steps of the quantizer while annealed"},
        ),
    log:
        "logs/{study}/{report}/boundary_range.log",
    benchmark:
        "logs/{study}/{report}/boundary_range.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.boundary_range"),
    message:
        "Compare boundary ranges of {wildcards.study} {params.group}"
    shell:
        "python -m ofq boundary-range {wildcards.study} {params.group} > {log} 2>&1"


rule noise_table:
    input:
        noise=noise_of,
    output:
        expand("results/{{study}}/{{report}}/tables/noise.{suffix}", suffix=PLAIN_TABLE),
        table=report(
            "results/{study}/{report}/tables/noise.html",
            caption="../report/noise.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "noise in trained weights"},
        ),
    log:
        "logs/{study}/{report}/noise_table.log",
    benchmark:
        "logs/{study}/{report}/noise_table.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.noise"),
    message:
        "Write what noise does to the trained weights of {wildcards.study} {params.group}"
    shell:
        "python -m ofq noise-table {wildcards.study} {params.group} > {log} 2>&1"


rule probes:
    input:
        probes=probes_of,
    output:
        expand("results/{{study}}/{{report}}/tables/coupling.{suffix}", suffix=PLAIN_TABLE),
        "results/{study}/{report}/figures/boundary.svg",
        table=report(
            "results/{study}/{report}/tables/coupling.html",
            caption="../report/coupling.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "coupling of query and key"},
        ),
        figure=report(
            "results/{study}/{report}/figures/boundary.png",
            caption="../report/boundary.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "what weights do near thresholds"},
        ),
    log:
        "logs/{study}/{report}/probes.log",
    benchmark:
        "logs/{study}/{report}/probes.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.probes"),
    message:
        "Write what the probes of {wildcards.study} {params.group} saw"
    shell:
        "python -m ofq probes {wildcards.study} {params.group} > {log} 2>&1"


rule claims:
    input:
        "claims.yaml",
        all_records,
    output:
        json="results/{study}/report/claims.json",
        page="results/{study}/report/claims.md",
    log:
        "logs/{study}/report/claims.log",
    benchmark:
        "logs/{study}/report/claims.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        settings=claims_settings,
        code=code_digest("ofq.report.claims.write"),
    message:
        "Give each claim of the papers its verdict on {wildcards.study}"
    shell:
        "python -m ofq claims {wildcards.study} > {log} 2>&1"
