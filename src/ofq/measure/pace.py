"""How fast a training is and what it leaves behind, and from that what a run, or the rest of one, costs."""

from dataclasses import dataclass

from ofq.config.recipes import TrainingRecipe


@dataclass(frozen=True)
class Pace:
    """What a kind of training costs.

    Seconds are of the processor or, on a card, of the card.

    Attributes:
        step: seconds of a training step.
        image: seconds of an evaluated image.
        start: seconds beside the two.
        memory_mib: largest memory of the process or, on a card, of the card.
        published: bytes of the files of a finished run.
        state: bytes of a checkpoint.
    """

    step: float
    image: float
    start: float
    memory_mib: int
    published: int
    state: int

    def seconds(self, steps: int, images: int) -> float:
        """Return the seconds of so many training steps and evaluated images."""
        return self.start + steps * self.step + images * self.image


def evaluations(recipe: TrainingRecipe, first: int = 0) -> int:
    """Return how often a training is evaluated after a step, its end counted twice: in the loop and for publishing."""
    steps, interval = recipe.length, recipe.interval
    in_the_loop = steps // interval - first // interval + bool(steps % interval)
    return 1 + (in_the_loop if first < steps else 0)
