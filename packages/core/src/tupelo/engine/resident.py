"""What a running engine keeps on the device, and how it leaves, comes back, or is replaced.

Two things can be given back: the weights, and everything else that steps need, of which the K/V
pool is nearly all (``TAGS``). New weights are loaded where the K/V pool was, beside the old ones,
which stay until the new ones are whole.

The caller sees to it that no step is in flight, no request holds pages, and the prefix cache is
empty.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tupelo import heap
from tupelo.checkpoint import Checkpoint, open_checkpoint
from tupelo.checkpoint.roots import inside_roots, split_roots
from tupelo.config import EngineConfig
from tupelo.engine.build import Built, Source, fill_model, make_model, make_runner
from tupelo.errors import CheckpointError, InvalidRequest, RequestFailed
from tupelo.models import Model
from tupelo.ops import OPS, OpTable
from tupelo.weights import check_weights

logger = logging.getLogger(__name__)

WEIGHTS, KV_CACHE = TAGS = ("weights", "kv_cache")


class Resident:
    """Model and runner of a built engine. Used by the engine's thread alone."""

    def __init__(self, config: EngineConfig, built: Built) -> None:
        self._config = config
        self._built = built

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not on the device now; steps need that to be nothing."""
        built = self._built
        return (WEIGHTS,) * (built.model is None) + (KV_CACHE,) * (built.runner is None)

    def release(self, tags: Sequence[str] | None = None) -> None:
        """Give device memory back; what is gone already stays so.

        Args:
            tags: of ``TAGS``; None means all. The K/V pool goes with the weights in any case.

        Raises:
            InvalidRequest: an unknown tag.
        """
        chosen = _checked(tags)
        self._built.runner = None
        if WEIGHTS in chosen:
            self._built.model = None
        self._collect()
        logger.info("released %s", " and ".join(chosen))

    def resume(self, tags: Sequence[str] | None = None) -> None:
        """Put back what was given back; weights come from where they were loaded last.

        Raises:
            InvalidRequest: an unknown tag, or the K/V pool without the weights.
            RequestFailed: it does not fit any more.
        """
        chosen = _checked(tags)
        built = self._built
        if WEIGHTS in chosen and built.model is None:
            built.model = self._load(built.source)
        if KV_CACHE in chosen and built.runner is None:
            if built.model is None:
                raise InvalidRequest(
                    "tags: kv_cache needs the weights; resume them first, or together", param="tags"
                )
            self._make_runner(built.model)
        logger.info("resumed %s", " and ".join(chosen))

    def open(self, path: str) -> Source:
        """New weights for this model, opened and checked; nothing is loaded.

        Args:
            path: as a client named it: a folder inside the allowed roots.

        Raises:
            InvalidRequest: not allowed, not there, no safetensors, or of another model.
        """
        roots = split_roots(self._config.weight_roots)
        folder = inside_roots(path, roots, param="model_path", option="--weight-roots")
        try:
            checkpoint = open_checkpoint(folder)
            self._check(checkpoint)
            check_weights(self._blank(), checkpoint)
        except CheckpointError as error:
            told = str(error).replace(str(folder), folder.name)
            raise InvalidRequest(f"model_path: {told}", param="model_path") from None
        return replace(self._built.source, checkpoint=checkpoint, path=str(folder))

    def replace_weights(self, source: Source) -> None:
        """Serve ``source`` from now on, which ``open`` has checked. All or nothing.

        Raises:
            RequestFailed: the weights could not be read or do not fit beside the old ones, which
                are still served.
        """
        built = self._built
        with_runner = built.runner is not None
        built.runner = None
        self._collect()
        old = built.model
        try:
            built.model = self._load(source)
        finally:
            if with_runner and old is not None and built.model is old:
                self._make_runner(old)
        built.source = source
        del old
        self._collect()
        if with_runner:
            self._make_runner(built.model)
        logger.info("the weights are those of %s now", Path(source.path).name)

    def _load(self, source: Source) -> Model:
        """A model with its weights, its kernels bound.

        Raises:
            RequestFailed: it cannot be read, or does not fit.
        """
        built = self._built
        model = self._blank()
        try:
            fill_model(model, source, self._config, built.runtime)
            table = OpTable(OPS, built.backend.kernels, fallback=self._config.kernel_fallback)
            model.bind(table)
        except Exception as error:  # a vendor's out-of-memory error is of the vendor's own class
            logger.exception("could not load the weights of %s", Path(source.path).name)
            del model
            self._collect()
            raise RequestFailed(
                f"the weights could not be loaded ({type(error).__name__}); see the server's log"
            ) from None
        built.table = table
        built.runtime.release_unused()
        return model

    def _make_runner(self, model: Model) -> None:
        built = self._built
        before = built.backend.builds()
        try:
            runner, _ = make_runner(
                self._config, built.backend, built.runtime, model, built.plan, built.table
            )
        except Exception as error:
            logger.exception("could not allocate the K/V pool again")
            self._collect()
            raise RequestFailed(
                f"the K/V pool could not be allocated ({type(error).__name__}); see the server's "
                "log, free device memory, and resume kv_cache"
            ) from None
        built.runner = runner
        built.builds_when_ready += built.backend.builds() - before

    def _blank(self) -> Model:
        """The model being served, without weights."""
        return make_model(self._config, self._built.source.config, self._built.backend)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Whether a checkpoint is of the model being served.

        Raises:
            CheckpointError: another format or another shape.
        """
        if checkpoint.format != "safetensors":
            raise CheckpointError(f"holds {checkpoint.format} weights; only safetensors are taken")
        served = self._built.source.config
        like = {n: getattr(served, n) for n in ("dtype", "bos_token_id", "pad_token_id", "pooling")}
        found = replace(checkpoint.config, **like)
        if found != served:
            names = [n for n in served.__slots__ if n != "raw"]
            other = [n for n in names if getattr(found, n) != getattr(served, n)]
            raise CheckpointError(f"is of another model than the one served: {', '.join(other)}")

    def _collect(self) -> None:
        heap.collect()
        self._built.runtime.release_unused()


def _checked(tags: Sequence[str] | None) -> Sequence[str]:
    unknown = [tag for tag in tags or () if tag not in TAGS]
    if unknown:
        raise InvalidRequest(
            f"tags: got {unknown[0]!r:.60}; allowed: {', '.join(TAGS)}", param="tags"
        )
    return tuple(tags or TAGS)
