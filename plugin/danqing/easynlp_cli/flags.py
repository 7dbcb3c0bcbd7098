"""The flags of EasyNLP's command line, as its articles write them, and a few of our own.

Every flag that the original knew is known here. Those that steered machinery which is gone are taken and named on
stderr; those that ran foreign code or reached storage services are refused. Anything else is an error that names the
nearest flag.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from danqing.easynlp_cli import latent, painter

APPS = ("text2image_generation", "latent_diffusion")
MODES = ("train", "predict", "evaluate")

_WITHOUT_EFFECT = {
    "label_name": "name", "label_enumerate_values": "values", "do_lower_case": None, "sequence_length": "N",
    "worker_count": "N", "worker_cpu": "N", "master_port": "PORT", "local_rank": "N", "distributed_backend": "NAME",
    "use_torchacc": None, "data_threads": "N", "export_tf_checkpoint_type": "NAME", "modelzoo_base_dir": "DIR",
    "restore_works_dir": "DIR",
    "predict_slice_size": "N", "predict_queue_size": "N", "predict_thread_num": "N",
    "predict_table_read_thread_num": "N", "ps_hosts": "HOSTS", "chief_hosts": "HOSTS", "worker_hosts": "HOSTS",
    "job_name": "NAME", "task_index": "N", "task_count": "N", "is_chief": "X",
}
"""Known to the original and of no effect for these models here; None: a switch."""
_SILENT = ("sequence_length", "worker_count")
"""Those that stand in every article: the text length is the checkpoint's, and nobody needs to be told."""
_REFUSED = {
    "user_script": "scripts are not fetched and run", "user_entry_file": "scripts are not fetched and run",
    "odps_config": "MaxCompute tables are not read: export them as TSV files",
    "resume_from_checkpoint": "--resume goes on with a run of this command; EasyNLP's own are begun anew with "
                              "pretrain_model_name_or_path",
    "buckets": "OSS is not read: mount the bucket, or copy its files",
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags of one command line. Ends the program with code 2 for wrong usage, as argparse does."""
    parser = _parser()
    args, rest = parser.parse_known_args(list(argv))
    for word in rest:
        if word.strip():
            _unknown(parser, word)
    given = {word.split("=", 1)[0].lstrip("-") for word in argv if word.startswith("--")}
    for name, reason in _REFUSED.items():
        if name in given:
            parser.error(f"--{name} cannot be followed: {reason}.")
    for name in _WITHOUT_EFFECT:
        if name in given and name not in _SILENT:
            print(f"danqing: --{name} has no effect here.", file=sys.stderr)
    return args


class _Parser(argparse.ArgumentParser):
    """One whose errors do not repeat the whole list of flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"danqing: {message}\n")


def _unknown(parser: argparse.ArgumentParser, word: str) -> NoReturn:
    name = word.split("=", 1)[0]
    if not name.startswith("-"):
        parser.error(f"{word!r} stands alone; a flag is written --name=value.")
    known = [f"--{flag}" for flag in vars(parser.parse_args([]))]
    # the words of a flag are joined by underscores here, as the original did
    nearest = difflib.get_close_matches("--" + name.lstrip("-").replace("-", "_"), known, n=1, cutoff=0.0)
    parser.error(f"There is no flag {name}; the nearest is {nearest[0]}.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="danqing easynlp", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="danqing easynlp --mode=train|predict|evaluate --tables=TSV[,TSV] --checkpoint_dir=DIR [--FLAG=VALUE]...",
        description=(
            "EasyNLP's command line for its text-to-image models.\n\n"
            "  danqing easynlp --mode=predict --tables=test.tsv --input_schema=idx:str:1,text:str:1 \\\n"
            "      --first_sequence=text --outputs=out.tsv --output_schema=idx,text,gen_imgbase64 \\\n"
            "      --checkpoint_dir=./model --micro_batch_size=8 --app_name=text2image_generation"), epilog=_keys())
    _add_common(parser.add_argument_group("all modes"))
    _add_training(parser.add_argument_group("train"))
    _add_prediction(parser.add_argument_group("predict"))
    quiet = parser.add_argument_group("taken without effect")
    for name, value in _WITHOUT_EFFECT.items():
        action: dict[str, Any] = {"action": "store_true"} if value is None else {"metavar": value}
        quiet.add_argument(f"--{name}", help=argparse.SUPPRESS, **action)
    for name in _REFUSED:
        quiet.add_argument(f"--{name}", help=argparse.SUPPRESS)
    quiet.description = ", ".join(f"--{name}" for name in _WITHOUT_EFFECT)
    return parser


def _keys() -> str:
    """What --user_defined_parameters may hold, app by app."""
    known = {"text2image_generation": painter.PARAMETERS, "latent_diffusion": latent.PARAMETERS}
    parts = [textwrap.fill(", ".join(sorted(known[app])), 100, initial_indent=f"  {app}: ", subsequent_indent="      ")
             for app in APPS]
    return "\n".join(["keys of --user_defined_parameters:", *parts])


def _add_common(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mode", choices=MODES, default="train", help="what to do (default: train)")
    group.add_argument("--app_name", choices=APPS, default=APPS[0], help=f"the kind of model (default: {APPS[0]})")
    group.add_argument("--tables", metavar="TSV[,TSV]", help="train: training table and, if wanted, validation table; "
                       "predict and evaluate: the last one named; image folders, too, but for predict; with a validation table, "
                       "training leaves the weights of the best validation")
    group.add_argument("--input_schema", metavar="NAME:TYPE:LENGTH,...", help="the table's columns "
                       "(default: (idx, text, imgbase64) or (text, imgbase64), by the first row; predict needs it)")
    group.add_argument("--skip_first_line", action="store_true", help="the first line is a header")
    group.add_argument("--first_sequence", metavar="COLUMN", default="text", help="the text's column (default: text)")
    group.add_argument("--second_sequence", metavar="COLUMN", default="imgbase64",
                       help="the image's column (default: imgbase64)")
    group.add_argument("--checkpoint_dir", "--checkpoint_path", metavar="DIR",
                       help="train: the folder to write; predict and evaluate: the model")
    group.add_argument("--micro_batch_size", "--train_batch_size", type=_positive, default=2, metavar="N",
                       help="rows that go through the network together (default: 2)")
    group.add_argument("--random_seed", type=int, default=1234, metavar="N", help="default: 1234")
    group.add_argument("--worker_gpu", type=int, default=-1, metavar="N", help="GPUs to use; 0: the CPU (default: one "
                       "GPU if there is any)")
    group.add_argument("--logging_steps", type=_positive, default=100, metavar="N", help="steps between two log lines")
    group.add_argument("--user_defined_parameters", default="", metavar="'KEY=VALUE ...'",
                       help="the model's own settings, separated by white space")
    group.add_argument("--encoding", default="utf-8", metavar="NAME",
                       help="of the tables (default: utf-8); not in EasyNLP")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; not in EasyNLP")
    group.add_argument("--dtype", default="auto", help="auto, fp32, fp16 or bf16, but for train; not in EasyNLP")
    group.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped; not in EasyNLP")
    group.add_argument("--force", action="store_true",
                       help="start over where an interrupted run left something, replace the model that train writes; "
                       "not in EasyNLP")


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epoch_num", type=float, default=3.0, metavar="X", help="times through the table (default: 3)")
    group.add_argument("--learning_rate", type=float, default=5e-5, metavar="X", help="default: 5e-5")
    group.add_argument("--weight_decay", "--wd", type=float, default=1e-4, metavar="X", help="default: 1e-4")
    group.add_argument("--max_grad_norm", "--mn", type=float, default=1.0, metavar="X", help="default: 1")
    group.add_argument("--optimizer_type", "--optimizer", choices=("BertAdam", "Adam", "AdamW", "SGD"), default="AdamW",
                       help="only AdamW is left; the others are refused")
    group.add_argument("--warmup_proportion", type=float, default=0.1, metavar="X",
                       help="part of the steps in which the learning rate rises (default: 0.1)")
    group.add_argument("--gradient_accumulation_steps", type=_positive, default=1, metavar="N", help="default: 1")
    group.add_argument("--save_checkpoint_steps", type=_positive, metavar="N",
                       help="steps between two checkpoints, and two validations (default: at the end)")
    group.add_argument("--save_all_checkpoints", action="store_true", help="keep each of them, not the last alone")
    group.add_argument("--use_amp", action="store_true", help="mixed precision")


def _add_prediction(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--outputs", metavar="TSV", help="the table to write; it appears when it is complete")
    group.add_argument("--output_schema", default="", metavar="COLUMN,...",
                       help="columns of the result: idx, text, gen_imgbase64 (default: these)")
    group.add_argument("--append_cols", metavar="COLUMN,...", help="columns of the input that follow")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return number
