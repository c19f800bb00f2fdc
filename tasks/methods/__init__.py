"""The methods: one file each, and one line each in `Methods`."""

from __future__ import annotations

from pydantic import Field

from tasks.core.sections import Section
from tasks.methods.asft import Asft
from tasks.methods.common import Method, RowMethod
from tasks.methods.dft import Dft
from tasks.methods.distillation import Distillation
from tasks.methods.dpo import Dpo
from tasks.methods.ipo import Ipo
from tasks.methods.kto import Kto
from tasks.methods.offline_grpo import OfflineGrpo
from tasks.methods.online_grpo import OnlineGrpo
from tasks.methods.rft import Rft
from tasks.methods.rift import Rift
from tasks.methods.sft import Sft
from tasks.methods.sft_dpo import SftDpo
from tasks.methods.simpo import Simpo


class Methods(Section):
    """One section of hyper-parameters a method. Which of them run is `methods` in the study's settings."""

    sft: Sft = Field(Sft(), title="SFT")
    rft: Rft = Field(Rft(), title="RFT")
    dft: Dft = Field(Dft(), title="DFT")
    rift: Rift = Field(Rift(), title="RIFT")
    offline_grpo: OfflineGrpo = Field(OfflineGrpo(), title="Offline GRPO")
    dpo: Dpo = Field(Dpo(), title="DPO")
    ipo: Ipo = Field(Ipo(), title="IPO")
    simpo: Simpo = Field(Simpo(), title="SimPO")
    kto: Kto = Field(Kto(), title="KTO")
    asft: Asft = Field(Asft(), title="ASFT")
    online_grpo: OnlineGrpo = Field(OnlineGrpo(), title="Online GRPO")
    sft_dpo: SftDpo = Field(SftDpo(), title="SFT -> DPO")
    distillation: Distillation = Field(Distillation(), title="On-policy distillation")


THE_SIX = ("sft", "rft", "dft", "rift", "offline_grpo", "dpo")
"""The methods that the geometry paper compares on identical rollouts; a study trains them unless told otherwise."""
METHOD_NAMES: tuple[str, ...] = tuple(Methods.model_fields)
FROM_TEACHER = tuple(name for name in METHOD_NAMES if getattr(Methods(), name).from_teacher)
"""Methods that see more of the teacher than its rollouts, which all others share: outside of every family of tests."""
METHOD_TITLES: dict[str, str] = {name: str(field.title) for name, field in Methods.model_fields.items()}

__all__ = ["FROM_TEACHER", "METHOD_NAMES", "METHOD_TITLES", "THE_SIX", "Dpo", "Method", "Methods", "RowMethod"]
