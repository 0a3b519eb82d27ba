"""What other gateways in front of the same engine leave to this one."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission.events import OthersHold
from gateway.domain import UNLIMITED


@dataclass(slots=True)
class Others:
    """Nobody, until somebody is heard of."""

    blocks: int = 0
    """Kept free for them."""
    share: float = 1.0
    """Part of the pool that this gateway may fill at most."""
    limit_blocks: int = UNLIMITED
    """Blocks that it may fill at most."""
    gateways: int = 1
    """That share the pool."""

    @property
    def are_none(self) -> bool:
        """Whether the whole pool is this gateway's."""
        return not self.blocks and self.share == 1.0

    def heard(self, event: OthersHold) -> None:
        """Take in the newest word."""
        self.blocks, self.gateways = event.blocks, event.gateways
        self.share, self.limit_blocks = event.share, event.limit_blocks

    def leave(self, room_blocks: int, pool_blocks: int) -> int:
        """Blocks that this gateway may fill, of those that all may fill together."""
        if not self.blocks and self.share == 1.0 and self.limit_blocks == UNLIMITED:
            return max(0, min(pool_blocks, room_blocks))
        return max(0, min(int(self.share * pool_blocks), self.limit_blocks, room_blocks - self.blocks))
