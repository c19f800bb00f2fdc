"""Named studies. Each docstring gives its command, its cost and the numbers to expect.

A preset is a function that returns nested values; the user's own settings are put on top before anything is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.core.errors import InputError, nearest
from tasks.engines.named import DEEPSEEK
from tasks.problems.overlap import INSTRUCTIONS

Values = dict[str, Any]


def tiny() -> Values:
    """The default: the whole study in a small world that it makes itself.

    ``colinear study tiny``; two cores, no GPU, 30 MB of disk; 7.5 minutes on cores that do 210 GFLOP/s each in
    bfloat16, less on faster ones. The student branches off from the teacher on its way and becomes strong in its
    own style (98 % on held-out problems), weaker in the teacher's (85 % when asked for it), which it begins by
    itself a few times in a hundred. Seen at seed 0: SFT, RFT and RIFT 5 points below the base, DFT 2, Offline GRPO
    1.4, DPO at it; cosine to SFT .94 for RFT, .93 for RIFT, .70 for Offline GRPO, .66 for DFT, -.09 for DPO, .96
    for SFT in another data order. DFT and Offline GRPO are on their way from one style to the other when training
    ends, so their numbers move most from seed to seed.
    """
    return {
        "name": "tiny",
        "rollouts": {"temperature": 1.2},
        "train": {"precision": "mixed", "steps": 72},
        "paths": {"n": 48},
        "geometry": {"ks": [1, 3, 5]},
    }


def tiny_replicates() -> Values:
    """The default study with every method in three data orders: the table of cosines across orders in full.

    ``colinear study tiny-replicates``; twenty adapters, 11 minutes on two cores where `tiny` has been run before
    (pretraining, rollouts and its eight adapters are taken from the cache). Each cosine, angle, overlap, norm and rank
    has the spread of repeated trainings beside it, which decides what a network of three layers cannot; DPO is trained
    at the others' learning rate too. Seen at seed 0: 37 of the paper's 55 claims decided (21 hold, 16 do not, 13
    without power, 5 not measured; of `tiny`'s 24), and 5 of 7 open questions.
    """
    return tiny() | {"name": "tiny-replicates", "replicates": ["all"], "replicate_orders": 2, "matched": ["dpo"]}


def tiny_why() -> Values:
    """The default study with what may explain its numbers: the gradients before training, what each direction carries.

    ``colinear study tiny-why``; `tiny` and 1.5 minutes of one core for the gradients, and as planned 3.5 minutes of two
    cores for the answers of 24 truncated adapters (the leading direction and the 2 leading ones of each method's
    update, and the rest), half a minute for those of two sums and a mean of updates. Seen at seed 0: cosine of a
    method's gradient to SFT's, without the noise of the rows, .99 for RFT and RIFT, .87 for Offline GRPO, .44 for DFT,
    -.26 for DPO: the order of the trained updates (.94, .93, .70, .66, -.09). Two halves of these 2,048 rows agree to
    .80 for SFT, .25 for Offline GRPO and .06 for DPO, so little is sure of the last two. Held-out accuracy (base
    98.2 %) with the leading direction of every module alone, the whole update, and all but that direction: SFT 91.8,
    92.7 and 98.2 %, DFT 97.0, 96.1 and 98.1 %. Against the base SFT + DPO loses 4.2 points where the two lose 4.5, the
    mean of SFT and SFT from another initialisation 5.0 where half of both is 4.9, SFT + RFT 64 where they lose 8. Of 72
    steps the adapters after 5, 10, 20 and 40 are kept: cosine of SFT's update there with its end .54, .68, .87, .995.
    """
    values = tiny()
    more = {
        "gradients": {"n": 2048},
        "geometry": values["geometry"] | {"truncations": [1, 2]},
        "train": values["train"] | {"keep_steps": [5, 10, 20, 40]},
        "soups": ["sft+dpo", "sft+rft", "mean(sft+sft-init1)"],
    }
    return values | {"name": "tiny-why"} | more


def tiny_on_policy() -> Values:
    """SFT and DFT alone, and how likely the rollouts are to the base: one dot of the figure of on-policyness.

    ``colinear study tiny-on-policy --set tiny.style_mass=M`` for several M, then ``colinear report`` on their folders
    (docs/why.md has the loop). ``tiny.style_mass``, the probability of the teacher's style under the plain prompt, sets
    how on-policy the rollouts are. It is a setting of the base, so each value is a study with a pretraining of its own,
    which is half of its cost: planned 6 minutes on two cores that do 90 GFLOP/s each. Never run by us for several M.
    """
    return tiny() | {
        "name": "tiny-on-policy",
        "methods": ["sft", "dft"],
        "replicates": [],
        "init_replicates": [],
        "geometry": {"base_measures": False, "activations": 0},
        "paths": {"n": 0},
        "functions": {"n": 0},
        "gradients": {"n": 1024},
    }


def smoke() -> Values:
    """The same in a minute, for tests: smaller network, shorter problems. The numbers mean little.

    ``colinear study smoke``; 54 s in the flow, 75 s as a process, on two cores.
    """
    return {
        "name": "smoke",
        "init_replicates": [],
        "tiny": {
            "hidden": 64,
            "layers": 2,
            "intermediate": 256,
            "max_operand": 10,
            "step_mix": [1.0, 0.0, 0.0],
            "hard_steps": [3, 3],
            "max_steps": 800,
            "lr": 4e-3,
            "snapshot_every": 5,
            "teacher_accuracy": 0.9,
            "branch_steps": 0,
            "dev_problems": 200,
        },
        "rollouts": {"prompts": 96, "k": 4, "max_new_tokens": 64},
        "lora": {"r": 4, "alpha": 8.0},
        "train": {"steps": 10, "batch_size": 16, "precision": "mixed"},
        "evaluation": {"n": 128, "hard_n": 32, "max_new_tokens": 64},
        "geometry": {"ks": [1, 4]},
        "paths": {"n": 32},
        "functions": {"n": 32},
        "gradients": {"n": 64},
    }


def own() -> Values:
    """Your own rollouts, or your own teacher, on your own model; chosen by itself when either is given.

    ``colinear study --rollouts FILE --set model.base=DIR_OR_HUB_ID``; cost and numbers are your model's.
    """
    return {
        "name": "own",
        "rollouts": {"max_new_tokens": 128, "batch_size": 64},
        "train": {"steps": 40, "batch_size": 32, "lr": 5e-4},
        "evaluation": {"n": 200, "hard_n": 0, "max_new_tokens": 128, "batch_size": 128},
        "paths": {"n": 64},
        "functions": {"n": 64},
    }


def paper() -> Values:
    """The paper's protocol (arXiv 2606.23740) on Qwen3-4B, for your GPUs: as printed where it is stated.

    ``colinear study paper`` with the teacher's key in ``DEEPSEEK_API_KEY``, or ``colinear study paper --rollouts FILE``
    with rollouts that are recorded already. ``colinear study paper --dry-run --on 8xH100`` plans it and starts nothing;
    without a GPU it is refused. It has never been run by us: no GPU and no endpoint were at hand.

    That plan's estimate, from assumed speeds: 5 H100 hours once the rollouts are there, about 1.5 hours on eight; 21 GB
    of disk, 15 to 66 GB of a GPU (what there is decides the size of a pass). Beside it 161,260 completions of the
    endpoint, some 200 million tokens and a day.

    Stated, and so here: DeepScaleR prompts, one set of rollouts for all, K = 4, binary math-verify reward;
    Qwen3-4B-Instruct-2507; LoRA r = 32, alpha = 64, dropout 0, q/k/v/o, one initialisation; batch 32, cosine, 5 %
    warm-up, weight decay .01, clip 1, bf16, seed 42, lr 5e-6, DPO's 5e-7; 1,500 steps of which the adapter after step
    1,000 is reported (``train.steps`` of ``train.schedule_steps``); DPO's beta .1, Offline GRPO's b .1; GSM8K and AIME
    2026 greedy; CKA on 100 GSM8K prompts; top-10 angles; the path on the boxed answer.

    Not stated, and our choice:

    - The teacher is called ``deepseek-v4-flash`` at api.deepseek.com, temperature 1, thinking as the endpoint has it:
      not tried; ``rollouts.teacher``, ``rollouts.endpoint``, ``rollouts.extra`` change it. 4,096 tokens a completion;
      those that are cut are dropped, as they never end.
    - Of 40,315 prompts x 4 the paper trains on about 75,000 rows, and says not how it chose; we keep all, which 1,000
      steps of 32 do not read once.
    - DPO's 1,800 pairs: one pair a mixed problem (``dpo.max_pairs``).
    - RIFT's form and lambda: linear, +1 and -0.2, which fits the reported cosines best. RFT does not drop repeated
      paths. TRL divides a batch's loss by its tokens.
    - Answers of 4,096 tokens: the base's 16.7 % on AIME 2026 point to a short budget.
    - The path at eleven points on 256 problems, as trained only; CKA of each prompt's last token, debiased beside
      biased. Divergences and the logit lens come with it; the measures against the base's weights are left out.
    - One order of the data for all row methods (seed 42), and no replicate: its noise floors are in ``paper-fixed``.
    - vLLM answers the problems.

    Expect, from the paper: cosine to SFT .977 for RFT, .967 for RIFT, .74 for Offline GRPO, .57 for DFT, .06 for DPO;
    norms near 2.8, DPO's a thirteenth; GSM8K 87.3 to 88.2 % for five methods, 93.5 % for DPO; AIME 2026 3 to 10 %, DPO
    30.0 %. The base's own 93 to 94 % is the number to hold DPO's against.
    """
    return {
        "name": "paper",
        "seed": 42,
        "methods": ["sft", "rft", "dft", "rift", "offline_grpo", "dpo"],
        "replicates": [],
        "init_replicates": [],
        "dpo": {"lr_ratio": 0.1, "beta": 0.1, "max_pairs": 1},
        "offline_grpo": {"b": 0.1},
        "model": {"base": "Qwen/Qwen3-4B-Instruct-2507"},
        "rollouts": {
            "problems": "deepscaler",
            "prompts": 40_315,
            "k": 4,
            "engine": "openai",
            "endpoint": DEEPSEEK[0],
            "teacher": "deepseek-v4-flash",
            "key_env": DEEPSEEK[1],
            "concurrency": 64,
            "temperature": 1.0,
            "max_new_tokens": 4096,
            "seed": 42,
            "truncated": "drop",
            "holdout": 0.0,
        },
        "lora": {"r": 32, "alpha": 64.0, "dropout": 0.0, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "train": {
            "lr": 5e-6,
            "steps": 1000,
            "schedule_steps": 1500,
            "batch_size": 32,
            "warmup": 0.05,
            "scheduler": "cosine",
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "precision": "bfloat16",
        },
        "evaluation": {
            "benchmarks": ["gsm8k", "aime2026"],
            "engine": "vllm",
            "max_new_tokens": 4096,
            "batch_size": 256,
        },
        "geometry": {"ks": [1, 5, 10], "base_measures": False, "activations": 256},
        "paths": {"n": 256, "alphas": [i / 10 for i in range(11)], "readings": ["boxed"], "matched": False},
        "functions": {"n": 100, "batch_size": 16},
    }


def paper_fixed() -> Values:
    """The paper's protocol, and what it leaves open: DPO at the matched learning rate, two seeds, noise floors, avg@k.

    ``colinear study paper-fixed``, with ``--rollouts FILE`` and ``--dry-run`` as for `paper`, whose rollouts and
    adapters it takes from the cache where they are there. Never run by us.

    The plan's estimate, from assumed speeds: 46 H100 hours once the rollouts are there (9 for 14 adapters, 15 for the
    answers, 16 for 91 paths, 4 for SVDs), 10 hours on eight; 26 GB of disk.

    Beyond `paper`: DPO once more at 5e-6 (``matched``); every method from a second LoRA initialisation (seed 43; the
    paper's grid has 123) and SFT in a second order of the data, the noise floors of every cosine; paths between updates
    of one norm as well, read on whole solutions too (not on generated accuracy: paths are in float32, in which a batch
    of 4,096-token answers does not fit 80 GB); intruder dimensions and the other measures against the base; 16 sampled
    answers a problem for avg@k, with a paired bootstrap over problems, on AIME 2026 and, as ``evaluation.samples`` is
    for all, on GSM8K; the methods' gradients before the first step, on 1,024 rows.

    Expect: nothing, as it is what the paper does not say. In the small world DPO at the matched rate loses accuracy,
    and one method from two initialisations agrees to .34-.49 only (the paper: .07 to .36).
    """
    values = paper()
    return values | {
        "name": "paper-fixed",
        "matched": ["dpo"],
        "replicates": ["sft"],
        "init_replicates": ["sft", "rft", "dft", "rift", "offline_grpo", "dpo"],
        "evaluation": values["evaluation"] | {"samples": 16, "temperature": 1.0},
        "geometry": values["geometry"] | {"base_measures": True},
        "paths": values["paths"] | {"readings": ["boxed", "solution"], "matched": True},
        "gradients": {"n": 1024},
    }


def qwen_half_billion() -> Values:
    """A real model on two cores: Qwen2.5-Coder-0.5B-Instruct, a stronger teacher's GSM8K rollouts, new problems.

    ``colinear study qwen-0.5b --rollouts FILE``, with rollouts of a stronger teacher on GSM8K's test problems
    (docs/real-model.md: where to get them, how to make your own); judged on 400 of GSM8K's training problems that no
    rollout is of.
    Without the Hub: ``make real-models``, then ``--set model.base=.models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf``.
    ``--dry-run`` has the cost; learning rate and steps are a first guess, and no numbers to expect are known yet.
    """
    return {
        "name": "qwen-0.5b",
        "methods": ["sft", "rft", "dft", "rift", "offline_grpo", "dpo"],
        "replicates": ["sft"],
        "init_replicates": [],
        "model": {"base": "Qwen/Qwen2.5-Coder-0.5B-Instruct", "instruction": INSTRUCTIONS[0], "max_length": 1024},
        "rollouts": {"holdout": 0.0},
        "lora": {"r": 16, "alpha": 32.0, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "train": {"lr": 2e-4, "steps": 24, "batch_size": 16},
        "evaluation": {"problems": "gsm8k-train", "n": 400, "hard_n": 0, "max_new_tokens": 640, "batch_size": 128},
        "geometry": {"ks": [1, 4, 8], "activations": 16},
        "paths": {"n": 16, "readings": ["boxed", "solution"], "matched": False, "reference": "sft"},
        "functions": {"n": 8, "batch_size": 8},
    }


def smollm2() -> Values:
    """`qwen-0.5b` with SmolLM2-135M-Instruct, a quarter of the size, in 16 small steps; it solves hardly any problem.

    ``colinear study smollm2 --rollouts FILE``, as `qwen-0.5b`; without the Hub
    ``--set model.base=.models/SmolLM2-135M-Instruct.Q4_1.gguf``. Expect cosines to SFT of .94 (RFT), .93 (RIFT), .61
    (DFT), .60 (Offline GRPO), .06 (DPO), .69 for SFT in another data order, and accuracies of 0 to 3 %, a quarter of
    the answers cut because they go in circles. Planned 21 minutes on two cores; with twice the problems for hidden
    states it took 45 beside other work (docs/real-model.md).
    """
    values = qwen_half_billion()
    return values | {
        "name": "smollm2",
        "model": values["model"] | {"base": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "train": values["train"] | {"lr": 5e-4, "steps": 16, "batch_size": 8},
        "evaluation": values["evaluation"] | {"n": 120, "max_new_tokens": 320},
    }


PRESETS: dict[str, Callable[[], Values]] = {
    "tiny": tiny,
    "tiny-replicates": tiny_replicates,
    "tiny-why": tiny_why,
    "tiny-on-policy": tiny_on_policy,
    "smoke": smoke,
    "own": own,
    "paper": paper,
    "paper-fixed": paper_fixed,
    "qwen-0.5b": qwen_half_billion,
    "smollm2": smollm2,
}


def preset(name: str) -> Values:
    """The values of a named study. Raises `InputError` with the known names."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: unknown{nearest(name, PRESETS)}; `colinear presets` lists them")
    return PRESETS[name]()


def summary(name: str) -> str:
    """The first line of a preset's docstring."""
    return (PRESETS[name].__doc__ or "").strip().splitlines()[0]
