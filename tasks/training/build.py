"""A TRL trainer for a method: one model, one LoRA recipe, one set of arguments; only the loss differs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.core.sections import LoraSpec, TrainSpec
from tasks.methods import Method

if TYPE_CHECKING:
    from tasks.methods.distillation import Distillation
    from tasks.methods.kto import Kto
    from tasks.methods.online_grpo import OnlineGrpo


def build_trainer(
    base: Path,
    dataset: Any,
    method: Method,
    train: TrainSpec,
    lora: LoraSpec,
    info: RunInfo,
    pad_token: str | None,
    folder: Path,
    start: Path | None = None,
    teacher: Path | None = None,
) -> tuple[Any, Any]:
    """The TRL trainer for ``method`` on ``dataset``, and its collator. The adapter is fresh: ``info.seed`` draws it.

    With ``start`` it is the adapter in that folder, and pairs are held against a frozen copy of it. Pairs that come
    with ``ref_chosen_logps`` and ``ref_rejected_logps`` are held against those; the reference model does not run.
    ``teacher``: the model directory of a method that is `Method.from_teacher`.
    """
    from peft import LoraConfig, PeftModel
    from trl import DPOConfig, SFTConfig

    from tasks.methods.asft import Asft
    from tasks.methods.common import RowMethod
    from tasks.methods.distillation import Distillation
    from tasks.methods.kto import Kto
    from tasks.methods.online_grpo import OnlineGrpo
    from tasks.methods.pairs import PairMethod
    from tasks.models.load import load_model, load_tokenizer
    from tasks.training.trainers import PairCollator, RowCollator, RowTrainer, TokenizedDPOTrainer, WeightedSFTTrainer

    tokenizer = load_tokenizer(base, pad_token)
    model = load_model(base, train.precision)
    coefficient = drop_router_loss(model.config.get_text_config())
    model.train()
    common: dict[str, Any] = {"model": model, "processing_class": tokenizer, "train_dataset": dataset}
    if start is None:
        common["peft_config"] = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets),
            task_type="CAUSAL_LM",
        )
    else:
        common["model"] = PeftModel.from_pretrained(model, str(start), is_trainable=True)
    arguments = _arguments(train, info, folder, base)
    collator: Any
    trainer: Any
    if isinstance(method, PairMethod):
        collator = PairCollator(tokenizer.pad_token_id)
        config = DPOConfig(**arguments, **method.trl_arguments())
        if method.margin is not None:
            common["train_dataset"] = constant_reference(dataset, method.margin)
        trainer = TokenizedDPOTrainer(**common, args=config, data_collator=collator)
    elif isinstance(method, Kto):
        trainer, collator = _unpaired(common, arguments, method)
    elif isinstance(method, OnlineGrpo):
        trainer, collator = _online(common, arguments, method, train.mask_truncated, base)
    elif isinstance(method, Distillation):
        assert teacher is not None
        common["teacher_model"] = load_model(teacher, train.precision)
        trainer, collator = _distilled(common, arguments, method, base)
    else:
        assert isinstance(method, RowMethod)
        collator = RowCollator(tokenizer.pad_token_id, weighted=method.trl_loss is None)
        config = SFTConfig(
            **arguments, loss_type=method.trl_loss or "nll", dataset_kwargs={"skip_prepare_dataset": True}
        )
        common |= {"args": config, "data_collator": collator}
        if isinstance(method, Asft):
            from tasks.training.anchored import AnchoredSFTTrainer

            trainer = AnchoredSFTTrainer(**common, method=method)
        else:
            trainer = RowTrainer(**common) if method.trl_loss else WeightedSFTTrainer(**common, method=method)
    trainer.schedule_steps = train.schedule_steps
    trainer.router_loss_dropped = coefficient
    _fit(trainer, train)
    return trainer, collator


def drop_router_loss(config: Any) -> float:
    """Let ``config``, of a loaded language model, ask for no loss that balances experts; the weight that it had.

    TRL's trainers would add it to their own losses and not to a method's of ours, and once a pass, so that its weight
    would depend on how a batch is cut. 0 for a model without experts, which stays as it is.
    """
    if not hasattr(config, "output_router_logits"):
        return 0.0
    coefficient = float(getattr(config, "router_aux_loss_coef", 0.0))
    config.output_router_logits, config.router_aux_loss_coef = False, 0.0
    return coefficient


def _unpaired(common: dict[str, Any], arguments: dict[str, Any], method: Kto) -> tuple[Any, Any]:
    from trl import KTOConfig

    from tasks.training.unpaired import TokenizedKTOTrainer, UnpairedCollator

    collator = UnpairedCollator(common["processing_class"].pad_token_id)
    config = KTOConfig(
        **arguments,
        loss_type="kto",
        beta=method.beta,
        desirable_weight=method.desirable_weight,
        undesirable_weight=method.undesirable_weight,
    )
    return TokenizedKTOTrainer(**common, args=config, data_collator=collator), collator


def _online(
    common: dict[str, Any], arguments: dict[str, Any], method: OnlineGrpo, masked: bool, base: Path
) -> tuple[Any, Any]:
    from trl import GRPOConfig

    from tasks.models.turn import model_ends
    from tasks.training.online import OnlineTrainer
    from tasks.training.trainers import Noted

    collator = Noted()
    room = max(common["train_dataset"]["room"])
    del arguments["max_length"]
    config = GRPOConfig(
        **arguments, **method.trl_arguments(), max_completion_length=room, mask_truncated_completions=masked
    )
    ends = [end.id for end in model_ends(base, common["processing_class"])]
    return OnlineTrainer(**common, args=config, collator=collator, end_ids=ends), collator


def _distilled(common: dict[str, Any], arguments: dict[str, Any], method: Distillation, base: Path) -> tuple[Any, Any]:
    from trl import DistillationConfig

    from tasks.models.turn import model_ends
    from tasks.training.online import DistilledTrainer
    from tasks.training.trainers import Noted

    collator = Noted()
    del arguments["max_length"]
    room = max(common["train_dataset"]["room"])
    config = DistillationConfig(**arguments, **method.trl_arguments(), max_completion_length=room)
    ends = [end.id for end in model_ends(base, common["processing_class"])]
    return DistilledTrainer(**common, args=config, collator=collator, end_ids=ends), collator


def constant_reference(dataset: Any, margin: float) -> Any:
    """Pairs held against ``margin`` nats a token for the chosen and 0 for the rejected completion, not a model."""
    lengths = [len(ids) for ids in dataset["chosen_ids"]]
    dataset = dataset.add_column("ref_chosen_logps", [margin * length for length in lengths])
    return dataset.add_column("ref_rejected_logps", [0.0] * len(lengths))


def _arguments(train: TrainSpec, info: RunInfo, folder: Path, base: Path | None = None) -> dict[str, Any]:
    """Settings that every trainer shares. TRL's own defaults differ from these in precision and checkpointing.

    The trainer gets a step's whole batch at once and cuts it itself, so nothing is accumulated here.
    """
    from tasks.models.load import arithmetic, device

    return {
        "output_dir": str(folder),
        "max_steps": train.steps,
        "per_device_train_batch_size": train.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": info.lr,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": round(train.warmup * (train.schedule_steps or train.steps)),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "seed": info.seed,
        "bf16": arithmetic(train.precision, base).autocast,
        "use_cpu": device() == "cpu",
        "gradient_checkpointing": False,  # `_fit` decides
        "train_sampling_strategy": "sequential",  # the data set is the stream already
        "remove_unused_columns": False,
        "max_length": None,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # by default the Trainer logs the mean of earlier losses in place of a NaN
        "save_strategy": "no",  # see tasks.training.checkpoints
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": device() == "cuda",
    }


def _fit(trainer: Any, train: TrainSpec) -> None:
    """How the model runs on this device: with or without padding, checkpointed or not, how much in a pass."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    from tasks.models.head import score_wanted_only
    from tasks.models.load import device
    from tasks.training.micro import Limits
    from tasks.training.packing import run_without_padding, why_padded

    model = trainer.model.get_base_model()
    planned = device() == "cuda" or model.dtype is torch.bfloat16  # on a CPU in float32 a batch is one pass, as it was
    reason = getattr(trainer, "why_padded", None) or why_padded(model)
    if train.packing == "on" and reason:
        raise InputError(f"train.packing: {reason}, so batches must be padded; leave it at auto")
    if device() == "cpu" and model.dtype is torch.bfloat16:
        score_wanted_only(model)
    packed = train.packing == "on" or (train.packing == "auto" and planned and reason is None)
    if packed:
        run_without_padding(model)
    if trainer.args.bf16:  # autocast rounds a LoRA layer's input anyway: PEFT's copy in float32 is work for nothing
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False
    examples = min(train.micro_batch_size or train.batch_size, train.batch_size)
    if train.batch_size % examples:
        raise InputError(f"train.micro_batch_size: {examples} does not divide train.batch_size {train.batch_size}")
    checkpointing, tokens = train.gradient_checkpointing == "on", train.micro_batch_tokens
    if planned and (train.gradient_checkpointing == "auto" or tokens is None):
        checkpointing, room = _room(trainer, train)
        tokens = tokens or room
    limits = Limits(examples, tokens, packed, checkpointing)
    trainer.cut_batches(limits, may_checkpoint=train.gradient_checkpointing == "auto")


def _room(trainer: Any, train: TrainSpec) -> tuple[bool, int]:
    """`tasks.training.memory.plan` for this trainer's model and data on this process's device."""
    import torch

    from tasks.models.head import tile_bytes
    from tasks.training import memory
    from tasks.workers.worker import memory_left

    model = trainer.model
    model.to(trainer.args.device)
    per_token = memory.saved_bytes_per_token(model, autocast=trainer.args.bf16)
    checkpointed = memory.checkpointed_bytes_per_token(model, per_token, autocast=trainer.args.bf16)
    longest = max(trainer.longest(example) for example in trainer.train_dataset)
    if trainer.args.device.type == "cpu":
        vocabulary = model.get_base_model().config.get_text_config().vocab_size
        return memory.plan(
            longest, memory_left(), per_token, checkpointed, train.gradient_checkpointing,
            tiles=tile_bytes(vocabulary), most=memory.CPU_TOKENS,
        )  # fmt: skip
    torch.cuda.empty_cache()
    free = float(torch.cuda.mem_get_info()[0])
    return memory.plan(longest, free, per_token, checkpointed, train.gradient_checkpointing)
