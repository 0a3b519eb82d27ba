"""Who may ask: API keys become tenants, and a tenant's ceiling bounds the priority that a request may name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain import Priority
from gateway.errors import ApiError, invalid_value
from gateway.request import ANONYMOUS, Tenant

PRIORITY_HEADER = "x-kvgate-priority"
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_SCHEME = "bearer "


def key_hash(key: str) -> bytes:
    """SHA-256 of an API key: the only form in which a key is held."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """A tenant and the hashes (`key_hash`) of its keys."""

    tenant: Tenant
    hashes: tuple[bytes, ...]


class KeyRing:
    """All keys that open the gateway. Without any tenant, everybody is one and the same anonymous one.

    Raises:
        ValueError: if two tenants share a key.
    """

    def __init__(self, tenants: Sequence[TenantKeys] = ()) -> None:
        self._open = not tenants
        self._keys = tuple((known, entry.tenant) for entry in tenants for known in entry.hashes)
        if len({known for known, _ in self._keys}) < len(self._keys):
            raise ValueError("two tenants share a key")
        self._shown: dict[bytes, Tenant] = {}
        """By the hash of each key that was shown and found good: no more than there are keys."""

    def tenant_for(self, authorization: str | None) -> Tenant:
        """The tenant whose key the `Authorization` header holds.

        What is shown is compared to every key until it has once been found good: so the time taken tells nothing about
        keys but to those who have one.

        Raises:
            ApiError: 401 `invalid_api_key`, the same for a missing, a malformed and a wrong key.
        """
        if self._open:
            return ANONYMOUS
        shown = key_hash(_bearer_token(authorization))
        found = self._shown.get(shown)
        if found is None:
            found = self._shown[shown] = self._compared(shown)
        return found

    def _compared(self, shown: bytes) -> Tenant:
        found: Tenant | None = None
        for known, tenant in self._keys:
            if hmac.compare_digest(known, shown):
                found = tenant
        if found is None:
            raise _invalid_api_key()
        return found


def requested_priority(header: str | None, tenant: Tenant) -> Priority:
    """The priority that `x-kvgate-priority` names, or the tenant's own, which is also its ceiling.

    Raises:
        ApiError: 400 `invalid_value` for an unknown name or one above the ceiling.
    """
    if header is None:
        return tenant.priority
    wanted = _PRIORITIES.get(header.strip().lower())
    if wanted is None:
        raise invalid_value(PRIORITY_HEADER, f"it must be one of {', '.join(_PRIORITIES)}")
    if wanted < tenant.priority:
        raise invalid_value(PRIORITY_HEADER, f"your key allows {tenant.priority.name.lower()} at most")
    return wanted


def _bearer_token(authorization: str | None) -> str:
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return ""
    return authorization[len(_SCHEME) :].strip()


def _invalid_api_key() -> ApiError:
    return ApiError(401, "invalid_api_key", "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.")
