rule probe:
    input:
        manifest=PLAN.manifest,
        teacher=PLAN.teacher,
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
    threads: PLAN.threads
    resources:
        mem_mb=PLAN.mem_mb,
        gpu=PLAN.gpu,
    params:
        settings=PLAN.settings,
        step="probe",
        code=PLAN.code_of("probe"),
    message:
        "Measure the oscillation of {wildcards.bits} {wildcards.variant}, seed {wildcards.seed}, on {wildcards.study} again"
    shell:
        "python -m ofq {params.step} {wildcards.study}/{wildcards.model}/{wildcards.bits}/{wildcards.variant}/seed{wildcards.seed}"
        " >> {log} 2>&1"


use rule probe as noise with:
    input:
        manifest=PLAN.manifest,
        teacher=PLAN.teacher,
        model="results/{study}/{model}/{bits}/{variant}/seed{seed}/model.safetensors",
    output:
        "results/{study}/{model}/{bits}/{variant}/seed{seed}/noise.parquet",
    log:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}-noise.log",
    benchmark:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}-noise.tsv"
    params:
        settings=PLAN.settings,
        step="noise",
        code=PLAN.code_of("noise"),
    message:
        "Evaluate {wildcards.bits} {wildcards.variant}, seed {wildcards.seed}, on {wildcards.study} with noise on its codes"


rule toy:
    output:
        "results/toy/trace.csv",
    log:
        "logs/toy/trace.log",
    benchmark:
        "logs/toy/trace.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=1000,
    params:
        code=PLAN.code("toy"),
    message:
        "Simulate weights that are pulled towards targets through a quantizer"
    shell:
        "python -m ofq toy >> {log} 2>&1"


rule toy_figure:
    input:
        trace="results/toy/trace.csv",
    output:
        "results/toy/toy.svg",
        figure=report(
            "results/toy/toy.png",
            caption="../report/figures/toy.rst",
            category="Figures",
            subcategory="toy",
            labels={"figure": "Fig. 1: latent weight and step"},
        ),
    log:
        "logs/toy/figure.log",
    benchmark:
        "logs/toy/figure.tsv"
    conda:
        "../envs/ofq.yaml"
    resources:
        mem_mb=1000,
    params:
        code=PLAN.code("toy_figure"),
    message:
        "Draw how latent weight and step of the quantizer move in the toy"
    shell:
        "python -m ofq toy-figure >> {log} 2>&1"
