"""The command ``unioncam app``: a page in the browser, served by Streamlit on this machine."""

import argparse
import importlib.util
from pathlib import Path

from captum_unioncam.engine.arguments import check_number
from captum_unioncam.vision.networks import load_network

PAGE = Path(__file__).parents[1] / "app" / "main.py"
MISSING = 'the app needs Streamlit: pip install "captum-unioncam[app]"'
LOCAL = ("localhost", "127.0.0.1", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Open a page in the browser: drop pictures, choose network, layer, classes and methods, "
        "and take the maps along. It listens on this machine alone and keeps nothing on disk."
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=["demo"],
        help="networks to choose from: 'demo', torchvision classifiers, timm:NAME, hf:FOLDER, or "
        "module:function for your own (default: demo)",
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        help="file with a state dict for the first network (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument(
        "--address",
        default="localhost",
        help="where it listens (default: %(default)s); elsewhere visitors have no other networks "
        "than those of --model",
    )
    parser.add_argument("--port", type=int, default=8501, help="default: %(default)s")
    parser.add_argument(
        "--headless", action="store_true", help="do not open a browser, only print the address"
    )
    parser.add_argument(
        "--max-upload",
        type=int,
        default=50,
        metavar="MB",
        help="the largest picture that can be dropped (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    check_number("--port", arguments.port, least=1, most=65535, whole=True)
    check_number("--max-upload", arguments.max_upload, above=0, whole=True)
    if importlib.util.find_spec("streamlit") is None:
        raise ValueError(MISSING)
    # What is wrong with it is told here, before a page is opened.
    load_network(arguments.model[0], arguments.weights)
    from streamlit.web import cli

    # In this very process, so that ending it ends the server.
    cli.main(words_of(arguments), prog_name="streamlit", standalone_mode=False)
    return 0


def words_of(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments of Streamlit's own command that serve the page."""
    given = ["--model", *arguments.model, "--weights", arguments.weights]
    if arguments.device is not None:
        given += ["--device", arguments.device]
    is_closed = arguments.address not in LOCAL
    if is_closed:
        given.append("--closed")
    options = {
        "server.address": arguments.address,
        "server.port": arguments.port,
        "server.headless": str(arguments.headless).lower(),
        "server.maxUploadSize": arguments.max_upload,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        # Tracebacks hold paths of this machine.
        "client.showErrorDetails": "none" if is_closed else "full",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["run", str(PAGE), *words, "--", *given]
