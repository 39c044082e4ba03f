"""The line that tells how far a training is."""


def progress(label: str, step: int, steps: int, values: dict[str, float], seconds_left: float) -> str:
    """Return the line: label, step, loss, accuracy, oscillation where it is measured, and the time that is left."""
    oscillating = f"  osc {values['osc/share']:5.2f} %" if "osc/share" in values else ""
    minutes, seconds = divmod(round(seconds_left), 60)
    return (
        f"{label:<28}  step {step:>{len(str(steps))}}/{steps}  loss {values['train/loss']:6.3f}"
        f"  top1 {values['val/top1']:6.2f} %{oscillating}  left {minutes}:{seconds:02d}"
    )
