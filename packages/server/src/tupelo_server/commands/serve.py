"""``tupelo serve``: an engine behind the OpenAI API."""

from argparse import ArgumentParser, Namespace

from tupelo.commands import Command
from tupelo.commands.options import add_model, add_options, from_args
from tupelo.config import EngineConfig
from tupelo_server.config import ServerConfig


def _configure(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--config", metavar="FILE", default="", help="YAML file with options; flags win over it"
    )
    add_options(parser, ServerConfig)
    add_options(parser, EngineConfig)


def _run(args: Namespace) -> int:
    if args.config:
        from tupelo_server.config_file import apply_config_file

        apply_config_file(args, args.config, (ServerConfig, EngineConfig))
    engine_config, config = from_args(EngineConfig, args), from_args(ServerConfig, args)
    if not config.without_model:
        from tupelo.engine.files import check_files_here

        check_files_here(engine_config)  # before the server is imported, which takes a second
    from tupelo_server.server import serve

    return serve(engine_config, config)


COMMAND = Command("serve", "serve a model over the OpenAI API", _configure, _run)
