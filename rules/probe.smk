rule probe:
    input:
        manifest=manifest_of,
        teacher=teacher_of,
        model="results/{study}/{model}/{bits}/{variant}/seed{seed}/model.safetensors",
        trainer="results/{study}/{model}/{bits}/{variant}/seed{seed}/trainer.pt",
        oscillation="results/{study}/{model}/{bits}/{variant}/seed{seed}/oscillation.parquet",
    output:
        summary="results/{study}/{model}/{bits}/{variant}/seed{seed}/probe.json",
        record="results/{study}/{model}/{bits}/{variant}/seed{seed}/probe.parquet",
    log:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}-probe.log",
    benchmark:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}-probe.tsv"
    conda:
        "../envs/ofq.yaml"
    threads: threads_of
    resources:
        mem_mb=1500,
    params:
        settings=settings,
        code=code_digest("ofq.training.probe"),
    message:
        "Measure the oscillation of {wildcards.bits} {wildcards.variant}, seed {wildcards.seed}, on {wildcards.study} again"
    shell:
        "python -m ofq probe {wildcards.study}/{wildcards.model}/{wildcards.bits}/{wildcards.variant}/seed{wildcards.seed}"
        " > {log} 2>&1"
