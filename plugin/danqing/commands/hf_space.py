"""Write the folder of a Gradio app that a Hugging Face Space takes as it is: app.py, requirements.txt and README.md.

  danqing hf-space painter OUT                                     # the model lies in OUT/model
  danqing hf-space painter OUT --repository hf:org/name            # the app fetches it from there
"""

from __future__ import annotations

import argparse

from danqing.publishing import app_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danqing hf-space``."""
    app_command.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the app, and say in one line what was written."""
    app_command.run("hf-space", args)
