"""Is the global batch large enough for the ranks? Asked before anything is started."""

from __future__ import annotations

from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.training.memory import mean_tokens
from threed_gen.training.run_config import RunConfig


def mean_of(config: RunConfig, dataset: SDFDataset | None) -> float:
    """Latent tokens of a usual sample at the largest resolution."""
    finest = max(config.data.resolutions)
    if dataset is None:
        return float(mean_tokens(finest))
    return max(1.0, float(dataset.token_counts(finest).mean()))


def check_batch(config: RunConfig, dataset: SDFDataset | None, world: int, many: str) -> None:
    """Refuse a global batch that leaves ranks without a sample.

    Args:
        many: what makes `world` ranks, for people: "2 nodes × 8 are 16 ranks".

    Raises:
        UserError: names the key and the smallest value that does.
    """
    train = config.train
    if train.batch_tokens is None:
        samples = train.batch_samples or 1
        if samples < world:
            raise UserError(
                f"train.batch_samples is {samples}, but {many}, and each needs at least one "
                f"sample; set train.batch_samples={world} or more, or take fewer ranks"
            )
        return
    each = mean_of(config, dataset)
    if train.batch_tokens < world * each:
        raise UserError(
            f"train.batch_tokens is {train.batch_tokens}, about "
            f"{train.batch_tokens / each:.1f} samples, but {many}; set "
            f"train.batch_tokens={world * round(each)} or more, or take fewer ranks"
        )
