"""Backends that are open to whoever stands in a line, and who holds up whom.

Whoever waits for room on a backend holds up those behind it there, else it might starve. With two exceptions: who waits
for its tenant's share or limit holds up that tenant's own only; who could not come in even were the backend empty,
nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission.account import EngineAccount
from gateway.admission.roster import Account
from gateway.domain import Reason, Ticket
from gateway.routing.choose import Holds, Lack, Offer, choose


@dataclass(slots=True)
class Openings:
    """What is open during one walk along a line."""

    accounts: list[Account]
    """Ready ones of the line's model that nobody holds up yet. The list may be the roster's own: it is not changed."""
    held_by_tenant: set[tuple[str, str]] = field(default_factory=set)
    """Backend and tenant."""

    def for_ticket(self, ticket: Ticket) -> list[Account]:
        """Those that this request may use."""
        if not ticket.excluded and not self.held_by_tenant:
            return self.accounts
        return [
            account
            for account in self.accounts
            if account.name not in ticket.excluded and (account.name, ticket.tenant) not in self.held_by_tenant
        ]

    def hold(self, ticket: Ticket, lacks: dict[str, Lack]) -> Reason:
        """Close what those behind a request that must wait may not use; returns what it waits for."""
        open_, tenant, limited = self.accounts, ticket.tenant, False
        for name, lack in lacks.items():
            if lack.holds is Holds.ALL:
                self.accounts = [account for account in self.accounts if account.name != name]
            elif lack.holds is Holds.TENANT:
                self.held_by_tenant.add((name, tenant))
        if self.held_by_tenant:
            limited = any((account.name, tenant) in self.held_by_tenant for account in open_)
        return Reason.TENANT_LIMIT if limited else Reason.HEADROOM


def ask(
    ticket: Ticket, accounts: list[Account], now: float, *, depth: int, contended: bool
) -> tuple[Offer | None, dict[str, Lack]]:
    """The best place for a request on these backends; if there is none, what each lacks.

    Args:
        ticket: the request.
        accounts: where it may go, all of them ready.
        now: monotonic seconds.
        depth: requests that wait for its model, this one included.
        contended: whether several tenants wait for its model.
    """
    if len(accounts) == 1:
        answer = accounts[0].offer(ticket, now, backlog=depth, contended=contended)
        return (answer, {}) if isinstance(answer, Offer) else (None, {accounts[0].name: answer})
    backlog = -(-depth // max(1, sum([isinstance(account, EngineAccount) for account in accounts])))
    offers: list[Offer] = []
    lacks: dict[str, Lack] = {}
    for account in accounts:
        answer = account.offer(ticket, now, backlog=backlog, contended=contended)
        if isinstance(answer, Offer):
            offers.append(answer)
        else:
            lacks[account.name] = answer
    return choose(offers), lacks
