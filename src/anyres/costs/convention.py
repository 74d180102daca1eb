"""How multiply-accumulates are counted."""

from typing import Literal

Convention = Literal["executed", "plain", "paper"]
"""What is executed; grid attention as equation 1 is written; or the structure that gives the ViTAR paper's figures."""
