rule tables:
    input:
        metrics=metrics_of,
        teachers=teacher_metrics_of,
        oscillation=oscillation_of,
    output:
        expand("results/{{study}}/report/tables/{name}.{suffix}", name=TABLES, suffix=["csv", "md", "tex"]),
    log:
        "logs/{study}/tables.log",
    benchmark:
        "logs/{study}/tables.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        settings=report_settings,
        code=code_digest("ofq.report.tables"),
    message:
        "Write the tables of study {wildcards.study} from the metrics of its runs"
    shell:
        "python -m ofq tables {wildcards.study} > {log} 2>&1"


rule figures:
    input:
        metrics=metrics_of,
        teachers=teacher_metrics_of,
        oscillation=oscillation_of,
        weights=weights_of,
    output:
        expand("results/{{study}}/report/figures/{name}.{suffix}", name=FIGURES, suffix=["png", "svg"]),
    log:
        "logs/{study}/figures.log",
    benchmark:
        "logs/{study}/figures.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        settings=report_settings,
        code=code_digest("ofq.report.figures"),
    message:
        "Draw the figures of study {wildcards.study}"
    shell:
        "python -m ofq figures {wildcards.study} > {log} 2>&1"


rule sweep:
    input:
        metrics=metrics_of,
    output:
        expand("results/{{study}}/report/tables/learning_rate.{suffix}", suffix=["csv", "md", "tex"]),
        expand("results/{{study}}/report/figures/learning_rate.{suffix}", suffix=["png", "svg"]),
    log:
        "logs/{study}/sweep.log",
    benchmark:
        "logs/{study}/sweep.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        settings=report_settings,
        code=code_digest("ofq.report.sweep"),
    message:
        "Compare the learning rates of study {wildcards.study}"
    shell:
        "python -m ofq sweep {wildcards.study} > {log} 2>&1"
