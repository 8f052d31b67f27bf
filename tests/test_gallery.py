"""The gallery's pages: their commands name experiments, their pictures come from commands."""

import re
from pathlib import Path

import pytest

from ipseclab.measure.experiment import load_experiment

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/experiments").glob("*.md"))
EXPERIMENTS = {path.stem for path in ROOT.glob("experiments/*.yaml")}


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gallery

    return gallery


def shown_on(page):
    return set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_how_to_run_what_it_shows(page, gallery):
    text = page.read_text()
    named = set(re.findall(r"`ipseclab run ([a-z-]+)", text))
    assert named <= EXPERIMENTS
    if page.stem in gallery.OTHERS:
        scripts = re.findall(r"python (benchmarks/\w+\.py)", text)
        assert scripts
        assert all((ROOT / script).is_file() for script in scripts)
    else:
        assert page.stem in named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_picture_of_a_page_is_made_by_its_command(page, gallery):
    shown = shown_on(page)
    assert shown
    assert all((page.parent / picture).is_file() for picture in shown)
    if page.stem not in gallery.OTHERS:
        for picture in shown:
            name = gallery.owner_of(Path(picture).stem)
            stems = {plot.stem for plot in load_experiment(name).plots()}
            assert gallery.pictures_of(name)[picture] in stems


def test_every_link_of_a_page_leads_somewhere():
    pages = [*PAGES, ROOT / "docs/seed.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_every_part_of_the_lecture_has_a_picture():
    _first, *parts = re.split(r"^## ", (ROOT / "docs/seed.md").read_text(), flags=re.M)
    assert len(parts) >= 10
    for part in parts[:-1]:
        assert len(re.findall(r"!\[[^\]]+\]\(experiments/[^)]+\.png\)", part)) == 1, part[:40]
        assert "(experiments/" in part
