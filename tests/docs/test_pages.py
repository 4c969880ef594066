"""The pages name only what exists: commands, options, keys of job files, files, modules, links."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from batchtag.cli import app
from batchtag.config.job import JobSpec
from batchtag.config.training import TrainSpec
from batchtag.errors import BatchtagError, Code
from tests.docs.pages import PAGES, ROOT, Block, anchors_of, blocks_of, inline_code, links_of, prose_of, without_shell

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TARGETS = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


def name_of(value: object) -> str:
    if isinstance(value, Block):
        return f"{value.page}:{value.line}"
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else ""


def generator() -> ModuleType:
    """docs/generate_jobs.py, which is a script and not a module of the package."""
    spec = importlib.util.spec_from_file_location("generate_jobs", ROOT / "docs" / "generate_jobs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(command: str) -> set[str]:
    """The options of a command of `batchtag`; of "" those of `batchtag` itself."""
    found = COMMANDS[command] if command else GROUP
    return {"--help", "-h", *(option for parameter in found.params for option in parameter.opts)}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_shell], ids=name_of)
def test_every_command_line_of_a_block_is_one_that_batchtag_or_make_accepts(block: Block) -> None:
    assert block.commands(), "the block has no command: fence output alone as `text`"
    for words in block.commands():
        program, *words = without_shell(words)
        if program == "batchtag":
            parse(words)
        elif program == "make":
            assert set(words) <= set(TARGETS), words
        else:
            assert block.not_run, f"{program}: only batchtag is executed; mark the block with `<!-- not run: ... -->`"


def parse(words: list[str]) -> None:
    """Parse a command line as `batchtag` does, and execute nothing. Raises what the parser raises."""
    name, *arguments = words
    if name.startswith("-"):
        assert name in options_of(""), f"batchtag has no option {name}"
        return
    assert name in COMMANDS, f"batchtag has no command {name}"
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_in_the_text_exists(page: Path) -> None:
    everywhere = set().union(*(options_of(name) for name in ["", *COMMANDS]))
    unknown = []
    for code in inline_code(page):
        words = code.split()
        options = {word.split("=")[0].rstrip(",;") for word in words if re.match(r"--[a-z]", word)}
        if words[0] == "batchtag" and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            unknown += [code] if words[1] not in COMMANDS or options - options_of(words[1]) else []
        elif words[0] == "batchtag" or code.startswith("--"):
            unknown += [code] if options - everywhere else []
        elif words[0] == "make" and len(words) > 1:
            unknown += [code] if set(words[1:]) - set(TARGETS) else []
    assert unknown == []


def test_every_command_of_batchtag_is_in_the_documentation() -> None:
    lines = [without_shell(words) for block in BLOCKS if block.is_shell for words in block.commands()]
    named = {words[1] for words in lines if words[0] == "batchtag"}
    assert COMMANDS.keys() - named == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_key_of_a_job_file_in_the_text_exists(page: Path) -> None:
    known = set()
    for spec in (JobSpec, TrainSpec):
        for path, model in generator().walk(spec):
            known |= {f"{path}.{name}".replace("[]", "").lstrip(".") for name in model.model_fields}
    tops = "|".join(sorted({key.split(".")[0] for key in known}))
    keys = [code for code in inline_code(page) if re.fullmatch(rf"(?:{tops})(?:\.[a-z_]+)+", code)]
    keys = [re.sub(r"\.storage_options\..*", ".storage_options", key) for key in keys]
    assert [key for key in keys if key not in known and not key.endswith((".yaml", ".json"))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_module_in_the_text_exists(page: Path) -> None:
    path = re.compile(r"(?:batchtag|tests|benchmarks|jobs|deploy|docs)/[\w./-]*")
    files = [code for code in inline_code(page) if path.fullmatch(code)]
    modules = [match[1] for code in inline_code(page) if (match := re.search(r"python3? -m (benchmarks[\w.]*)", code))]
    files += [f"{module.replace('.', '/')}" for module in modules]
    assert [file for file in files if not (ROOT / file).exists() and not (ROOT / f"{file}.py").exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    linked = {link.partition("#")[0] for link in links_of(ROOT / "docs" / "index.md")}
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages - linked == set()


def test_the_page_of_job_files_is_what_the_specification_generates() -> None:
    generated = generator().jobs_page()
    assert (ROOT / "docs" / "jobs.md").read_text() == generated, "run `python docs/generate_jobs.py`"


def test_every_key_of_a_job_file_has_a_description() -> None:
    pages = generator()
    obvious = {"version", "kind"}
    assert [
        f"{path}.{name}"
        for spec in (JobSpec, TrainSpec)
        for path, model in pages.walk(spec)
        for name, field in model.model_fields.items()
        if name not in obvious and not pages.meaning(field)
    ] == []


@pytest.mark.parametrize("code", list(Code))
def test_every_failure_code_has_a_section_that_says_whether_another_try_can_help(code: Code) -> None:
    assert str(code) in anchors_of(TROUBLESHOOTING)
    section = re.split(r"^### ", prose_of(TROUBLESHOOTING), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(f"`{code}`")]
    assert f"Retryable: {'yes' if code.is_retryable else 'no'}." in text


def test_every_exit_code_has_a_section() -> None:
    kinds: list[type[BatchtagError]] = [BatchtagError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {0, *(kind.exit_code for kind in kinds)}
    headings = re.findall(r"^### Exit code (\d+)", prose_of(TROUBLESHOOTING), flags=re.MULTILINE)
    assert codes - {int(code) for code in headings} == set()


def test_every_prometheus_metric_is_on_the_page_of_clusters_and_no_other() -> None:
    exported = re.findall(r'"(batchtag_\w+)"', (ROOT / "batchtag" / "runs" / "ray_metrics.py").read_text())
    codes = inline_code(ROOT / "docs" / "cluster.md")
    described = {match[1] for code in codes if (match := re.match(r"ray_(batchtag_\w+)", code))}
    assert described == set(exported)


def test_the_drawing_of_the_layers_is_the_contract_that_lint_imports_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    drawings = [block.text for block in BLOCKS if block.page == "CONTRIBUTING.md" and block.text.startswith("cli\n")]
    assert [[line for line in drawing.split("\n") if line.strip() != "|"] for drawing in drawings] == [layers]


def test_every_package_is_in_the_listing() -> None:
    names = {code.removeprefix("batchtag/").strip("/") for code in inline_code(ROOT / "CONTRIBUTING.md")}
    packages = {path.name for path in (ROOT / "batchtag").iterdir() if not path.name.startswith("__")}
    assert packages - names == set()


def test_the_readme_has_fewer_than_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
