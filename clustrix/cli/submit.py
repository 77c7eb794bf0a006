"""``clustrix submit``: the whole script is one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clustrix.cli import output, run

if TYPE_CHECKING:
    from pathlib import Path


@click.command("submit", context_settings=run.PASS_ON)
@output.target_option
@run.ENVIRONMENT
@click.option("--cores", type=int, help="Cores.")
@click.option("--memory", help='Memory, "16GB".')
@click.option("--time", help='The time limit, "02:00:00".')
@click.option("--gpus", type=int, help="Accelerators.")
@click.option("--partition", help="The partition.")
@click.option("--queue", help="The queue, where the scheduler calls it so.")
@click.option("--account", help="Who pays.")
@click.option("--wait", is_flag=True, help="Wait for the end, and show the output.")
@output.dry_run
@output.as_json
@run.SCRIPT
@run.ARGUMENTS
def command(
    script: Path,
    arguments: tuple[str, ...],
    target: str | None,
    environment: str,
    *,
    wait: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - settings by name
) -> None:
    """Run a whole script at the target, in the environment that it asks for. Prints the job's id.

    Its @cluster calls run in place. Modules beside the script travel with it; files do not.

    \b
    Examples:
      clustrix submit --target hpc --cores 8 --time 02:00:00 fit.py --folds 5
      clustrix submit --wait fit.py
      clustrix submit --dry-run --target hpc fit.py
    """
    from clustrix import config, pipeline
    from clustrix.cli.progress import shown

    current = config.load()
    name = target or current.default_target() or config.LOCAL
    plan = run.planned(script, environment)
    settings = pipeline.resolve({**options, "target": name, "environment": plan.environment})
    with shown():
        if dry_run:
            text = pipeline.preview(settings)
            if as_json:
                output.emit({"target": name, "environment": plan.environment, "script": text})
            else:
                run.tell(script, name, plan, as_json=False, err=True)
                click.echo(text, nl=False)
            return
        job = pipeline.submit_script(script, arguments, settings)
    if as_json:
        output.emit({"id": str(job.id), "native_id": job.record.native_id, "target": name})
    else:
        click.echo(str(job.id))
    if wait:
        pipeline.collect(job)
