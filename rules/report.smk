rule tables:
    input:
        metrics=metrics_of,
        teachers=teacher_metrics_of,
        oscillation=oscillation_of,
        record=record_of,
    output:
        expand(
            "results/{{study}}/{{report}}/tables/{name}.{suffix}",
            name=TABLES,
            suffix=PLAIN_TABLE,
        ),
        "results/{study}/{report}/tables/main.json",
        main=report(
            "results/{study}/{report}/tables/main.html",
            caption="../report/main.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "main result"},
        ),
        agreement=report(
            "results/{study}/{report}/tables/agreement.html",
            caption="../report/agreement.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "agreement with the record"},
        ),
        ablation=report(
            "results/{study}/{report}/tables/ablation.html",
            caption="../report/ablation.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "ablation of the components"},
        ),
        oscillation=report(
            "results/{study}/{report}/tables/oscillation.html",
            caption="../report/oscillation_table.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "oscillation by layer group"},
        ),
    log:
        "logs/{study}/{report}/tables.log",
    benchmark:
        "logs/{study}/{report}/tables.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.tables"),
    message:
        "Write the tables of {wildcards.study} {params.group} from the metrics of its runs"
    shell:
        "python -m ofq tables {wildcards.study} {params.group} > {log} 2>&1"


rule figures:
    input:
        metrics=metrics_of,
        teachers=teacher_metrics_of,
        oscillation=oscillation_of,
        weights=weights_of,
    output:
        expand("results/{{study}}/{{report}}/figures/{name}.svg", name=FIGURES),
        "results/{study}/{report}/figures/oscillation.csv",
        accuracy=report(
            "results/{study}/{report}/figures/accuracy.png",
            caption="../report/accuracy.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "accuracy"},
        ),
        oscillation=report(
            "results/{study}/{report}/figures/oscillation.png",
            caption="../report/oscillation.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "oscillation over training"},
        ),
        latent_weights=report(
            "results/{study}/{report}/figures/latent_weights.png",
            caption="../report/latent_weights.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "latent weights"},
        ),
        layer_groups=report(
            "results/{study}/{report}/figures/layer_groups.png",
            caption="../report/layer_groups.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "oscillation by layer group"},
        ),
    log:
        "logs/{study}/{report}/figures.log",
    benchmark:
        "logs/{study}/{report}/figures.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        group=group_of,
        settings=report_settings,
        code=code_digest("ofq.report.parts.figures"),
    message:
        "Draw the figures of {wildcards.study} {params.group}"
    shell:
        "python -m ofq figures {wildcards.study} {params.group} > {log} 2>&1"


rule learning_rates:
    input:
        metrics=metrics_of,
    output:
        expand(
            "results/{{study}}/report/tables/learning_rate.{suffix}",
            suffix=PLAIN_TABLE,
        ),
        "results/{study}/report/figures/learning_rate.svg",
        table=report(
            "results/{study}/report/tables/learning_rate.html",
            caption="../report/learning_rate_table.rst",
            category="Tables",
            subcategory=grid_name,
            labels={"table": "learning rates"},
        ),
        figure=report(
            "results/{study}/report/figures/learning_rate.png",
            caption="../report/learning_rate.rst",
            category="Figures",
            subcategory=grid_name,
            labels={"figure": "learning rates"},
        ),
    log:
        "logs/{study}/report/learning_rates.log",
    benchmark:
        "logs/{study}/report/learning_rates.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=500,
    params:
        settings=report_settings,
        code=code_digest("ofq.report.parts.learning_rates"),
    message:
        "Compare the learning rates of study {wildcards.study}"
    shell:
        "python -m ofq learning-rates {wildcards.study} > {log} 2>&1"
