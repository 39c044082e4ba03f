rule teacher:
    input:
        manifest=PLAN.manifest,
    output:
        **PLAN.made_by("teacher"),
    log:
        "logs/{study}/{model}/fp/{teacher}/seed{seed}.log",
    benchmark:
        "logs/{study}/{model}/fp/{teacher}/seed{seed}.tsv"
    conda:
        "../envs/ofq.yaml"
    threads: PLAN.of_all(PLAN.threads)
    resources:
        mem_mb=PLAN.of_all(PLAN.mem_mb),
        gpu=PLAN.of_all(PLAN.gpu),
    params:
        settings=PLAN.settings,
        code=PLAN.code_of("teacher"),
    message:
        "Train the full-precision {wildcards.model} of seed {wildcards.seed} on {wildcards.study} ({wildcards.teacher})"
    shell:
        "python -m ofq teacher {wildcards.study}/{wildcards.model}/fp/{wildcards.teacher}/seed{wildcards.seed}"
        " >> {log} 2>&1"


rule qat:
    input:
        manifest=PLAN.manifest,
        teacher=PLAN.teacher,
    output:
        **PLAN.made_by("qat"),
    log:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}.log",
    benchmark:
        "logs/{study}/{model}/{bits}/{variant}/seed{seed}.tsv"
    wildcard_constraints:
        variant=PLAN.trained_variants,
    conda:
        "../envs/ofq.yaml"
    threads: PLAN.of_all(PLAN.threads)
    resources:
        mem_mb=PLAN.of_all(PLAN.mem_mb),
        gpu=PLAN.of_all(PLAN.gpu),
    params:
        step="qat",
        settings=PLAN.settings,
        code=PLAN.code_of("qat"),
    message:
        "Quantize {wildcards.model} to {wildcards.bits} with {wildcards.variant}, seed {wildcards.seed}, taught by its"
        " full-precision model"
    shell:
        "python -m ofq {params.step} {wildcards.study}/{wildcards.model}/{wildcards.bits}/{wildcards.variant}/seed{wildcards.seed}"
        " >> {log} 2>&1"


use rule qat as cga with:
    input:
        unpack(PLAN.parent),
        manifest=PLAN.manifest,
        teacher=PLAN.teacher,
    output:
        **PLAN.made_by("cga"),
    wildcard_constraints:
        variant=PLAN.annealed_variants,
    params:
        step="cga",
        settings=PLAN.settings,
        code=PLAN.code_of("cga"),
    message:
        "Anneal the {wildcards.bits} {wildcards.model} of seed {wildcards.seed} on {wildcards.study}:"
        " {wildcards.variant}"
