"""Settings that a run cannot follow, though the Trainer by itself can: refused, each with its reason."""

from __future__ import annotations

from typing import Any

from ..utils.errors import UserError

# setting: (what it may be, why nothing else)
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "resume_from_checkpoint": ((None,), "--resume goes on from the newest checkpoint in output_dir"),
    "label_names": ((None, ["labels"]), "the labels are those of the data"),
    "prediction_loss_only": ((False, None), "a run is measured by its predictions"),
    "bf16_full_eval": ((False,), "it leaves the model in half precision, and it would be saved so"),
    "fp16_full_eval": ((False,), "it leaves the model in half precision, and it would be saved so"),
    "batch_eval_metrics": ((False,), "scores are those of all rows at once"),
    "eval_do_concat_batches": ((True,), "scores are those of all rows at once"),
    "use_liger_kernel": ((False,), "its kernels are of other models"),
    "dataloader_persistent_workers": (
        (False,),
        "workers that stay draw from the random state when they start, and a run that --resume goes on with would "
        "take other steps",
    ),
    "dataloader_in_order": (
        (True,),
        "batches that come as they are ready come in another order each time, and no run could be gone on from",
    ),
    "debug": (([], "", None), "its hooks take all that passes for numbers, and a mask is none"),
    "activation_checkpointing": ((False, None), "a recurrent layer is one call, which has nothing to leave out"),
    "gradient_checkpointing": ((False, None), "a recurrent layer is one call, which has nothing to leave out"),
}


def check_trainer_settings(training: Any) -> None:
    """Refuse what a run cannot follow.

    Args:
        training: Has the settings as attributes.

    Raises:
        UserError: For the first that is set so.
    """
    for name, (possible, why) in _FIXED.items():
        found = getattr(training, name, possible[0])  # there are more and fewer of them from version to version
        if found not in possible:
            raise UserError(f"{name} {found!r} cannot be followed: {why}. Leave it out")
