"""The page: whole, offline, inert whatever the records say, and honest in its sentences."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leapverify.report import build_report
from leapverify.report.kit.figure_files import file_spec
from leapverify.report.kit.run import load_run
from leapverify.report.kit.theme import DARK, LIGHT, REGIME_MARKS, plain, resolved
from leapverify.report.page import script_json
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures import build_figures
from leapverify.report.study.page import SHORT, _tuned
from leapverify.report.study.summary import findings, texts

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Outline(HTMLParser):
    """Start tags with their attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False if tag == "script" else self.inside

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


@pytest.fixture(scope="module")
def page(full_page) -> str:
    return full_page.read_text()


def test_sections_follow_the_order_of_the_report(page):
    sections = [attrs["id"] for tag, attrs in outline(page).tags if tag == "section"]
    assert sections == ["summary", *SHORT, "tables", "machine", "command"]
    levels = [int(tag[1]) for tag, _ in outline(page).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attrs in outline(page).tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attrs.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, name, value)
    own = page.replace(max(outline(page).scripts, key=len), "")
    assert not re.search(r"https?://", own.replace("http://www.w3.org/2000/svg", ""))
    assert "@import" not in own
    assert "url(" not in own
    policy = next(attrs for tag, attrs in outline(page).tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")
    assert "connect-src" not in (policy["content"] or "")


def test_exactly_one_plotly(page):
    assert page.count("* plotly.js v") == 1
    assert sum(len(script) > 3_000_000 for script in outline(page).scripts) == 1


def test_figures_share_one_plotly_file(full_run, full_page):
    folder = full_run / "figures"
    assert (folder / "plotly.min.js").stat().st_size > 1_000_000
    pages = list(folder.glob("*.html"))
    assert len(pages) == len(list(folder.glob("*.json"))) >= len(SHORT)
    for path in pages:
        text = path.read_text()
        assert 'src="plotly.min.js"' in text
        assert len(text) < 200_000


def test_figure_files_are_valid_plotly(full_run):
    import plotly.graph_objects as go

    for figure in build_figures(Analysis(load_run(full_run))).values():
        assert figure.views or figure.why
        for view in figure.views[:2]:
            go.Figure(file_spec(figure, view))
            go.Figure(resolved({"data": view.data, "layout": view.narrow}, DARK))


def test_every_colour_role_is_in_both_palettes(page):
    roles = set(re.findall(r'"(@[a-z0-9]+)"', page.split('id="figures">')[1].split("</script>")[0]))
    assert roles <= set(LIGHT) == set(DARK)
    assert len({mark.symbol for mark in REGIME_MARKS.values()}) == len(REGIME_MARKS)
    assert len({mark.pattern for mark in REGIME_MARKS.values()}) == len(REGIME_MARKS)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_marks_stand_out_from_the_paper(palette):
    for role in ("@ink", "@muted", "@chaotic", "@transition", "@stable", "@c0", "@c1", "@c2", "@c3", "@c4"):
        floor = 4.5 if role in ("@ink", "@muted") else 3.0
        assert _contrast(palette[role], palette["@paper"]) >= floor, role


def _contrast(a: str, b: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_hostile_names_are_inert(tmp_path, maker):
    config = {"preset": HOSTILE, HOSTILE: [HOSTILE], "training": {"steps": 100}, "data": {"source": HOSTILE},
              "sweep": {"predictors": [HOSTILE]}, "regimes": {"thresholds": HOSTILE}}  # fmt: skip
    rows = [maker.checkpoint(1, step, regime="transition") for step in (50, 100)]
    predictions = [
        maker.prediction(1, 50, HOSTILE, 5),
        maker.declined(1, 100, HOSTILE, 5, HOSTILE),
        maker.declined(1, 100, "linear", 5, HOSTILE),
    ]
    environment = {"command": HOSTILE, "cpu": HOSTILE, "versions": {"leapverify": HOSTILE}, HOSTILE: HOSTILE}
    run = maker.write_run(tmp_path / "run", config, environment, checkpoints=rows, predictions=predictions)
    page = build_report(run).read_text()
    found = outline(page)
    assert [tag for tag, _ in found.tags].count("img") == 0
    assert len(found.scripts) == 4
    assert not any("onerror" in attrs for _, attrs in found.tags)
    assert json.loads(found.scripts[0])
    assert "<img" not in found.scripts[0]
    for path in [*(run / "figures").glob("*.html"), *(run / "tables").glob("*.md")]:
        assert "<img" not in path.read_text(), path.name


def test_script_json_cannot_close_its_element():
    text = str(script_json({"a": "</script><!-- & -->"}))
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & -->"}
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json(float("nan"))


def test_plotly_labels_are_escaped():
    assert plain("<b>&x") == "&lt;b&gt;&amp;x"


def test_building_again_gives_the_same_page(full_run, page):
    assert build_report(full_run).read_text() == page


def test_a_run_of_one_seed_says_what_it_cannot_say(one_seed_run):
    text = texts(findings(Analysis(load_run(one_seed_run))))
    assert "No seed was ever stable" in text
    assert "Agreement of seeds. Cannot say" in text
    assert "Shared representation. Cannot say" in text
    assert "1 seed: there is no spread" in text
    assert "Recognizers. Cannot say" in text
    assert "cannot say that adam changes the loss" in text
    page = build_report(one_seed_run).read_text()
    assert "Nothing to show: one seed only" in page
    assert "Nothing to show: no cascade was run" in page


def test_a_run_without_predictions_has_a_report(tmp_path, maker):
    rows = [maker.checkpoint(seed, 50, similarity=None, regime="unknown") for seed in (1, 2)]
    run = maker.write_run(tmp_path / "run", {"preset": "bare"}, {}, checkpoints=rows)
    (run / "predictions.parquet").unlink()
    page = build_report(run).read_text()
    assert page.count("no predictions were made in this run") > 10
    assert "no checkpoint has a similarity" in page


def test_summary_follows_the_records(full_run):
    text = texts(findings(Analysis(load_run(full_run))))
    assert re.search(r"momentum 100× \(95 % 100 to 100\) at K = 5 \(n = \d+\)", text)
    assert "13 not finite" in text
    assert "Observing took 5 % of the training time" in text
    assert "more than by such chance" in text
    assert "above both baselines" in text


def test_two_seeds_claim_nothing_from_intervals(tmp_path, maker):
    run = maker.make_run(tmp_path / "run", seeds=(42, 43))
    text = texts(findings(Analysis(load_run(run))))
    assert "Recognizers. Cannot say" in text
    assert "Cannot say more from so few pairs" in text
    assert "cannot say that it beats a random step" in text


def test_agreement_by_chance_alone_is_not_claimed(tmp_path, maker):
    labels = {1: "TTSSTTSS", 2: "TSTSTSTS"}
    names = {"T": "transition", "S": "stable"}
    rows = [
        maker.checkpoint(seed, 50 * (index + 1), regime=names[letter])
        for seed, course in labels.items()
        for index, letter in enumerate(course)
    ]
    run = maker.write_run(tmp_path / "run", {}, {}, checkpoints=rows)
    assert "cannot say that this is more than chance" in texts(findings(Analysis(load_run(run))))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda run: (run / "config.yaml").write_text("a: ["), "config.yaml is damaged"),
        (lambda run: (run / "config.yaml").write_text("- a"), "config.yaml holds no mapping"),
        (lambda run: (run / "environment.json").write_text("{"), "environment.json is damaged"),
        (lambda run: (run / "checkpoints.parquet").unlink(), "checkpoints.parquet is missing"),
        (lambda run: (run / "predictions.parquet").write_bytes(b"PAR1"), "predictions.parquet is damaged"),
    ],
)
def test_bad_folders_are_named(tmp_path, maker, damage, message):
    run = maker.write_run(tmp_path / "run", {"preset": "x"}, {}, checkpoints=[maker.checkpoint(1, 50)])
    damage(run)
    with pytest.raises(ValueError, match=message):
        build_report(run)


def test_a_folder_without_checkpoints_is_refused(tmp_path, maker):
    run = maker.write_run(tmp_path / "run", {}, {})
    with pytest.raises(ValueError, match="holds no checkpoint"):
        build_report(run)


def test_thresholds_are_those_that_the_study_used(tmp_path, maker):
    run = maker.write_run(tmp_path / "run", {}, {}, checkpoints=[maker.checkpoint(1, 50)])
    for kind, expected in (("percentile", (0.9, 0.99)), ("rate", None), ("online", None)):
        cut_points = {"method": kind, "low": None if kind == "online" else 0.9, "high": 0.99}
        Path(run / "thresholds.json").write_text(json.dumps(cut_points))
        assert load_run(run).thresholds == expected
    Path(run / "thresholds.json").unlink()
    assert load_run(run).thresholds is None


def test_a_tuned_run_says_what_it_began_with() -> None:
    assert _tuned({}) == ""
    assert _tuned({"start": "runs/base", "lora_rank": None}) == ", begun with base"
    assert _tuned({"start": None, "lora_rank": 8}) == ", LoRA of rank 8"
