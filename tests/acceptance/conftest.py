"""Every test here that archives something leaves accounts that balance."""

from tests.accounts import _accounts_balance

__all__ = ["_accounts_balance"]
