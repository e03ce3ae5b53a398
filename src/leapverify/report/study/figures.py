"""Every figure of a study."""

from __future__ import annotations

from leapverify.report.kit.panels import Figure
from leapverify.report.study import figures_cascades, figures_course, figures_predict, figures_recognize, figures_seeds
from leapverify.report.study.analysis import Analysis


def build_figures(analysis: Analysis) -> dict[str, Figure]:
    """All figures of a run by name, in the order of the page; an empty one says why."""
    run = analysis.run
    drawn = [
        figures_course.regimes(run),
        figures_course.similarity(run),
        figures_course.losses(run),
        figures_predict.acceptance(analysis),
        figures_predict.gain(analysis),
        figures_predict.momentum(analysis),
        figures_seeds.geometry(run),
        figures_seeds.collapse(run),
        figures_recognize.sensitivity(analysis),
        figures_recognize.skill(analysis),
        figures_cascades.cascades(analysis),
        figures_course.signals(run, analysis.lyapunov),
        figures_recognize.costs(analysis),
        *([figures_course.updates(run)] if analysis.survivals else ()),
    ]
    return {figure.name: figure for figure in drawn}
