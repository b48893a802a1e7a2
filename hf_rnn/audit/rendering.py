"""The report as text for people: tables of all counts, and the first few of the rows behind them."""

from __future__ import annotations
