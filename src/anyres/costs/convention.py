"""How multiply-accumulates are counted."""

from typing import Literal

Convention = Literal["paper", "executed", "plain"]
"""The structure that gives the ViTAR paper's figures; what is executed; or grid attention as equation 1 is written."""
