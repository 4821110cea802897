"""What a step looks like on the device: the slots' tables and one step's inputs."""

from dataclasses import dataclass

from torch import Tensor

from tupelo.batch import Batch


@dataclass(kw_only=True, slots=True)
class StepInputs:
    """Device arrays of one step, padded to its bucket. Read-only for everyone but the runner.

    With T padded tokens, R padded rows, G page groups, S sampling rows:

    Attributes:
        host: the batch as the scheduler made it. A backend that declares ``plan_needs_host_lens``
            may read its numpy arrays; nobody reads values of the tensors below on the host.
        input_ids: (T,) int64, the slots' last tokens filled in.
        positions: (T,) int64; 0 for padding.
        cu_seqlens_q: (R + 1,) int32; padding rows are empty.
        seq_lens: (R,) int32; 0 for padding rows.
        slots: (R,) int64; padding rows name the scratch slot.
        token_rows: (T,) int64, the row of each token; padding tokens name the last row.
        slot_mapping: G x (T,) int64, ``page * page_size + offset``, or -1 for padding.
        page_tables: G x (num_slots + 1, max_pages) int32, the live tables of all slots. An entry is
            -1, or a page that is another row's by now, where every token of it lies behind the
            group's window for every row of the step: it may be read, but must not be seen.
        token_types: (T,) int64, 0 for padding; None where the batch has none.
    """

    host: Batch
    input_ids: Tensor
    positions: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor
    slots: Tensor
    token_rows: Tensor
    slot_mapping: tuple[Tensor, ...]
    page_tables: tuple[Tensor, ...]
    token_types: Tensor | None = None
