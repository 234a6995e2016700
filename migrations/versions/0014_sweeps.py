"""What sweeps look for among many chunks is found by indexes of the few rows that matter.

Code of revision 0013 runs on it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_IMPOSSIBLE = (
    "state IN ('queued', 'running') AND"
    " (attempt < 0 OR max_attempts > 60 OR (state = 'queued' AND attempt >= max_attempts))"
)
_INDEXES = {
    "ix_chunks_dispatched_at": ("dispatched_at", "state = 'queued' AND dispatched_at IS NOT NULL"),
    "ix_chunks_impossible": ("id", _IMPOSSIBLE),
}


def upgrade() -> None:
    for name, (column, condition) in _INDEXES.items():
        op.create_index(name, "chunks", [column], schema="pixcrawler", postgresql_where=sa.text(condition))


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(name, "chunks", schema="pixcrawler")
